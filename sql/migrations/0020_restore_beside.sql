-- A restore that readers and ingest do not wait for.

-- Makes the table that an archive is loaded into, and one beside it for what comes out of the file, all of it text. It has
-- the indexes of its siblings, and a CHECK that says what its bounds will: ATTACH, which holds the DEFAULT partition
-- against every reader, would else make the ones and read every row for the other, minutes of a month of 60,000,000. A
-- `trial` is rolled back, and its rows need neither survive a crash nor be found.
CREATE FUNCTION ingest.begin_restore_v2(parent text, name text, lower timestamptz, upper timestamptz, staged text[],
  trial boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  parent_name text := split_part(parent, '.', 2);
  part_name   text := split_part(name, '.', 2);
BEGIN
  IF split_part(parent, '.', 1) <> 'historical_data' OR split_part(name, '.', 1) <> 'historical_data'
     OR left(part_name, length(parent_name) + 1) <> parent_name || '_' OR part_name !~ '^[a-z][a-z0-9_]{0,55}$'
     OR NOT EXISTS (SELECT FROM pg_partitioned_table
                     WHERE partrelid = to_regclass(format('historical_data.%I', parent_name))) THEN
    RAISE EXCEPTION 'begin_restore: refused for % of %', name, parent USING ERRCODE = '22023';
  END IF;
  EXECUTE format('CREATE %s TABLE historical_data.%I
                  (LIKE historical_data.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE %s,
                   CONSTRAINT restored_within_bounds
                     CHECK ("timestamp" IS NOT NULL AND "timestamp" >= %L AND "timestamp" < %L))',
                 CASE WHEN trial THEN 'UNLOGGED' ELSE '' END, part_name, parent_name,
                 CASE WHEN trial THEN '' ELSE 'INCLUDING INDEXES' END, lower, upper);
  EXECUTE format('CREATE UNLOGGED TABLE historical_data.%I (%s)', part_name || '_staged',
                 (SELECT string_agg(quote_ident(c) || ' text', ', ' ORDER BY n)
                    FROM unnest(staged) WITH ORDINALITY AS s (c, n)));
  IF to_regrole('recio_rollover') IS NOT NULL THEN
    EXECUTE format('GRANT SELECT, INSERT ON historical_data.%I TO recio_rollover', part_name);
    EXECUTE format('GRANT SELECT, INSERT, TRUNCATE ON historical_data.%I TO recio_rollover', part_name || '_staged');
  END IF;
END
$$;

-- Makes the loaded table a partition again, in the transaction that began. What the DEFAULT partition caught meanwhile of
-- its time moves in; a row that is there already under its key fails it all.
CREATE FUNCTION ingest.end_restore_v2(parent text, name text, lower timestamptz, upper timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  parent_name text := split_part(parent, '.', 2);
  part_name   text := split_part(name, '.', 2);
  moved       bigint;
BEGIN
  EXECUTE format('DROP TABLE historical_data.%I', part_name || '_staged');  -- only begin_restore made it
  PERFORM brin_summarize_new_values(i.indexrelid)  -- else a query by one reads the whole month until a vacuum has
     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE i.indrelid = to_regclass(format('historical_data.%I', part_name)) AND a.amname = 'brin';
  EXECUTE format('WITH moved AS (DELETE FROM historical_data.%I WHERE "timestamp" >= $1 AND "timestamp" < $2 RETURNING *)
                  INSERT INTO historical_data.%I SELECT * FROM moved', parent_name || '_default', part_name)
    USING lower, upper;
  GET DIAGNOSTICS moved = ROW_COUNT;
  IF moved > 0 THEN
    RAISE NOTICE '% rows moved out of %_default', moved, parent_name;
  END IF;
  EXECUTE format('ALTER TABLE historical_data.%I ATTACH PARTITION historical_data.%I FOR VALUES FROM (%L) TO (%L)',
                 parent_name, part_name, lower, upper);
  EXECUTE format('ALTER TABLE historical_data.%I DROP CONSTRAINT restored_within_bounds', part_name);
END
$$;
DROP FUNCTION ingest.begin_restore_v1, ingest.end_restore_v1;
REVOKE ALL ON FUNCTION ingest.begin_restore_v2, ingest.end_restore_v2 FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT EXECUTE ON FUNCTION ingest.begin_restore_v2, ingest.end_restore_v2 TO recio_rollover;
END
$$;
