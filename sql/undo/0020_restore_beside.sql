-- The functions as 0019 made them.
\set version 20
\set tables ''
\ir check.sql

DROP FUNCTION ingest.begin_restore_v2, ingest.end_restore_v2, ingest.merge_restored_v1, ingest.has_bounds_v1;

-- Files of two months that say the same, as empty ones do, can have one row only: the newest, if the others are given up.
DELETE FROM ingest.archives a USING ingest.archives b
 WHERE a.file_sha256 = b.file_sha256 AND a.archive_id < b.archive_id
   AND current_setting('recio.drop_rows', true) = 'yes';
ALTER TABLE ingest.archives DROP CONSTRAINT archives_file, ADD CONSTRAINT archives_file UNIQUE (file_sha256);

CREATE FUNCTION ingest.begin_restore_v1(parent text, name text, staged text[], trial boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
                  (LIKE historical_data.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
                 CASE WHEN trial THEN 'UNLOGGED' ELSE '' END, part_name, parent_name);
  EXECUTE format('CREATE UNLOGGED TABLE historical_data.%I (%s)', part_name || '_staged',
                 (SELECT string_agg(quote_ident(c) || ' text', ', ' ORDER BY n)
                    FROM unnest(staged) WITH ORDINALITY AS s (c, n)));
  IF to_regrole('recio_rollover') IS NOT NULL THEN
    EXECUTE format('GRANT SELECT, INSERT ON historical_data.%I TO recio_rollover', part_name);
    EXECUTE format('GRANT SELECT, INSERT, TRUNCATE ON historical_data.%I TO recio_rollover', part_name || '_staged');
  END IF;
END
$$;

CREATE FUNCTION ingest.end_restore_v1(parent text, name text, lower timestamptz, upper timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  parent_name text := split_part(parent, '.', 2);
  part_name   text := split_part(name, '.', 2);
  moved       bigint;
BEGIN
  EXECUTE format('DROP TABLE historical_data.%I', part_name || '_staged');  -- only begin_restore made it
  EXECUTE format('WITH moved AS (DELETE FROM historical_data.%I WHERE "timestamp" >= $1 AND "timestamp" < $2 RETURNING *)
                  INSERT INTO historical_data.%I SELECT * FROM moved', parent_name || '_default', part_name)
    USING lower, upper;
  GET DIAGNOSTICS moved = ROW_COUNT;
  IF moved > 0 THEN
    RAISE NOTICE '% rows moved out of %_default', moved, parent_name;
  END IF;
  EXECUTE format('ALTER TABLE historical_data.%I ATTACH PARTITION historical_data.%I FOR VALUES FROM (%L) TO (%L)',
                 parent_name, part_name, lower, upper);
END
$$;

REVOKE ALL ON FUNCTION ingest.begin_restore_v1, ingest.end_restore_v1 FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RETURN;
  END IF;
  GRANT EXECUTE ON FUNCTION ingest.begin_restore_v1, ingest.end_restore_v1 TO recio_rollover;
END
$$;
