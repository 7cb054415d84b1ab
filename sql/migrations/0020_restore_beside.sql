-- A restore that readers and ingest do not wait for, and that finds its place beside rows that came late; and drops that
-- hold up ingest no longer than they promise.

-- The files of two empty months of a table are equal to the byte.
ALTER TABLE ingest.archives
  DROP CONSTRAINT archives_file,
  ADD CONSTRAINT archives_file UNIQUE (partition_name, file_sha256);

-- Whether a table is a partition of another with exactly these bounds.
CREATE FUNCTION ingest.has_bounds_v1(parent regclass, leaf regclass, lower timestamptz, upper timestamptz)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD' AS $$
  SELECT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                  WHERE i.inhparent = parent AND c.oid = leaf
                    AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES FROM (%L) TO (%L)', lower, upper))
$$;

-- Makes the table that an archive is loaded into, and one beside it for what comes out of the file, all of it text;
-- returns its name. Where no partition of these bounds is there it will be that partition: it has the indexes of its
-- siblings, and a CHECK that says what its bounds will. ATTACH, which holds the DEFAULT partition against every reader,
-- would else make the ones and read every row for the other, minutes of a month of 60,000,000. Where late rows have made
-- the month anew its rows will go there, and the partition is not dropped until then. Rows of a `trial`, which is rolled
-- back, or of such a table beside a partition need neither survive a crash nor be found.
CREATE FUNCTION ingest.begin_restore_v2(parent text, name text, lower timestamptz, upper timestamptz, staged text[],
  trial boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  parent_name text     := split_part(parent, '.', 2);
  part_name   text     := split_part(name, '.', 2);
  parent_oid  regclass := to_regclass(format('historical_data.%I', parent_name));
  attached    boolean  := NOT trial;
BEGIN
  IF split_part(parent, '.', 1) <> 'historical_data' OR split_part(name, '.', 1) <> 'historical_data'
     OR left(part_name, length(parent_name) + 1) <> parent_name || '_' OR part_name !~ '^[a-z][a-z0-9_]{0,46}$'
     OR NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = parent_oid) THEN
    RAISE EXCEPTION 'begin_restore: refused for % of %', name, parent USING ERRCODE = '22023';
  END IF;
  IF attached
     AND ingest.has_bounds_v1(parent_oid, to_regclass(format('historical_data.%I', part_name)), lower, upper) THEN
    EXECUTE format('LOCK TABLE ONLY historical_data.%I IN ROW EXCLUSIVE MODE', part_name);
    part_name := part_name || '_restored';
    attached := false;
  END IF;
  EXECUTE format('CREATE %s TABLE historical_data.%I
                  (LIKE historical_data.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE %s,
                   CONSTRAINT restored_within_bounds
                     CHECK ("timestamp" IS NOT NULL AND "timestamp" >= %L AND "timestamp" < %L))',
                 CASE WHEN attached THEN '' ELSE 'UNLOGGED' END, part_name, parent_name,
                 CASE WHEN attached THEN 'INCLUDING INDEXES' ELSE '' END, lower, upper);
  EXECUTE format('CREATE UNLOGGED TABLE historical_data.%I (%s)', part_name || '_staged',
                 (SELECT string_agg(quote_ident(c) || ' text', ', ' ORDER BY n)
                    FROM unnest(staged) WITH ORDINALITY AS s (c, n)));
  IF to_regrole('recio_rollover') IS NOT NULL THEN
    EXECUTE format('GRANT SELECT, INSERT ON historical_data.%I TO recio_rollover', part_name);
    EXECUTE format('GRANT SELECT, INSERT, TRUNCATE ON historical_data.%I TO recio_rollover', part_name || '_staged');
  END IF;
  RETURN 'historical_data.' || part_name;
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

-- Gives the loaded rows to the partition that is there, in the transaction that began. A row that is there already fails
-- it all: under its key, and where a table has no key for every row, with all its values. Those are joined by hashes: the
-- nested loop that the planner chooses, hoping for an early end, took more than 300 s for 200,000 rows, the hashes 0.4 s.
CREATE FUNCTION ingest.merge_restored_v1(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_nestloop = off AS $$
DECLARE
  part_name text    := split_part(name, '.', 2);
  side_name text    := part_name || '_restored';
  doubled   boolean := false;
BEGIN
  EXECUTE format('DROP TABLE historical_data.%I', side_name || '_staged');  -- only begin_restore made it
  IF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = to_regclass(format('historical_data.%I', part_name))
                                        AND indisunique AND indisvalid AND indpred IS NULL) THEN
    EXECUTE format('SELECT EXISTS (SELECT FROM historical_data.%I AS h JOIN historical_data.%I AS c ON h = c)',
                   part_name, side_name) INTO doubled;
  END IF;
  IF doubled THEN
    RAISE EXCEPTION '% has rows of these already', name
      USING ERRCODE = 'unique_violation', DETAIL = 'A row with the same values is there.';
  END IF;
  EXECUTE format('INSERT INTO historical_data.%I SELECT * FROM historical_data.%I', part_name, side_name);
  EXECUTE format('DROP TABLE historical_data.%I', side_name);
END
$$;

-- Drops a partition of a live table that is empty and lies wholly before a time; returns false if it is not. Ingest
-- queues behind it for at most 50 ms: 30 for the lock on the parent, and, once it is there, 10 each for the partition's
-- and that on DEFAULT, which DROP takes. A reader that holds one of them longer costs this attempt.
CREATE FUNCTION ingest.drop_live_partition_v2(partition text, before timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  leaf   regclass := to_regclass(format('live_data.%I', split_part(partition, '.', 2)));
  parent regclass;
  upper  timestamptz;
  filled boolean;
BEGIN
  SELECT i.inhparent, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz
    INTO parent, upper
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhrelid = leaf AND c.relispartition AND split_part(partition, '.', 1) = 'live_data';
  IF upper IS NULL OR upper > least(before, now()) THEN
    RETURN false;
  END IF;
  EXECUTE format('SELECT EXISTS (SELECT FROM %s)', leaf) INTO filled;
  IF filled THEN
    RETURN false;
  END IF;
  PERFORM set_config('lock_timeout', '30ms', true);
  EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parent);
  PERFORM set_config('lock_timeout', '10ms', true);
  EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', leaf);
  EXECUTE format('SELECT EXISTS (SELECT FROM %s)', leaf) INTO filled;  -- again: rows may have come until the lock
  IF filled THEN
    RETURN false;
  END IF;
  EXECUTE format('DROP TABLE %s', leaf);
  RETURN true;
END
$$;

-- Drops a partition if it still holds exactly what its archive does; returns false if not. No row comes in while that is
-- looked at (SHARE, waited for 50 ms); readers go on until the drop itself, whose locks are waited for as above.
CREATE FUNCTION ingest.drop_archived_v2(archive bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  kept   ingest.archives;
  leaf   regclass;
  parent regclass;
  held   record;
BEGIN
  SELECT * INTO STRICT kept FROM ingest.archives WHERE archive_id = archive FOR UPDATE;
  leaf := to_regclass(format('historical_data.%I', split_part(kept.partition_name, '.', 2)));
  SELECT i.inhparent INTO parent
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhrelid = leaf AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT';
  IF parent IS NULL THEN
    RETURN false;
  END IF;
  PERFORM set_config('lock_timeout', '50ms', true);
  EXECUTE format('LOCK TABLE ONLY %s IN SHARE MODE', leaf);
  IF kept.columns IS DISTINCT FROM (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute
                                     WHERE attrelid = leaf AND attnum > 0 AND NOT attisdropped) THEN
    RETURN false;
  END IF;
  SELECT * INTO held FROM ingest.rows_checksum_v1(leaf, kept.columns);
  IF (held.row_count, held.checksum) IS DISTINCT FROM (kept.row_count, kept.checksum) THEN
    RETURN false;
  END IF;
  PERFORM set_config('lock_timeout', '30ms', true);
  EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', parent);
  PERFORM set_config('lock_timeout', '10ms', true);
  EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', leaf);
  EXECUTE format('DROP TABLE %s', leaf);
  UPDATE ingest.archives SET dropped_at = clock_timestamp() WHERE archive_id = archive;
  RETURN true;
END
$$;

DROP FUNCTION ingest.begin_restore_v1, ingest.end_restore_v1, ingest.drop_archived_v1, ingest.drop_live_partition_v1;
REVOKE ALL ON FUNCTION ingest.has_bounds_v1, ingest.begin_restore_v2, ingest.end_restore_v2, ingest.merge_restored_v1,
  ingest.drop_archived_v2, ingest.drop_live_partition_v2 FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT EXECUTE ON FUNCTION ingest.begin_restore_v2, ingest.end_restore_v2, ingest.merge_restored_v1,
    ingest.drop_archived_v2, ingest.drop_live_partition_v2 TO recio_rollover;
END
$$;
