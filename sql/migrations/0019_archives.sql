-- The books of the archive: one row per file that holds what a partition held.
CREATE TABLE ingest.archives (
  archive_id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  table_name      text        NOT NULL,
  partition_name  text        NOT NULL,
  lower_bound     timestamptz NOT NULL,
  upper_bound     timestamptz NOT NULL,
  columns         text[]      NOT NULL,
  row_count       bigint      NOT NULL,
  min_time        timestamptz,                  -- NULL of an empty partition, as the next
  max_time        timestamptz,
  checksum        numeric     NOT NULL,         -- ingest.rows_checksum_v1
  file_name       text        NOT NULL,         -- in archive.dir
  file_size_bytes bigint      NOT NULL,
  file_sha256     text        NOT NULL,
  archived_at     timestamptz NOT NULL DEFAULT clock_timestamp(),  -- when it had been read back and compared
  dropped_at      timestamptz,
  restored_at     timestamptz,                  -- after dropped_at: it is wanted here, and retention leaves it alone
  CONSTRAINT archives_file UNIQUE (file_sha256),
  CONSTRAINT bounds_in_order CHECK (lower_bound < upper_bound),
  CONSTRAINT row_count_not_negative CHECK (row_count >= 0)
);

-- What tells two sets of rows apart: 64 bits of each row's MD5, added up. A row is its text, so that 1.0 and 1.00 differ,
-- and so does NULL from ''. MD5, because PostgreSQL promises the same tomorrow, which it does not for its own hashes.
CREATE FUNCTION ingest.rows_checksum_v1(relation regclass, columns text[],
  OUT row_count bigint, OUT min_time timestamptz, OUT max_time timestamptz, OUT checksum numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD' AS $$
BEGIN
  EXECUTE format('SELECT count(*), min("timestamp"), max("timestamp"),
                         coalesce(sum((''x'' || left(md5(ROW(%s)::text), 16))::bit(64)::bigint), 0) FROM %s',
                 (SELECT string_agg(quote_ident(name), ', ' ORDER BY n)
                    FROM unnest(columns) WITH ORDINALITY AS c (name, n)), relation)
    INTO row_count, min_time, max_time, checksum;
END
$$;

-- Drops a partition if it still holds exactly what its archive does; returns false if not. No row comes in while that is
-- looked at (SHARE); readers go on until the drop itself, whose lock is waited for 50 ms: one that holds it longer costs
-- this attempt.
CREATE FUNCTION ingest.drop_archived_v1(archive bigint) RETURNS boolean
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
  EXECUTE format('LOCK TABLE ONLY %s, ONLY %s IN ACCESS EXCLUSIVE MODE', parent, leaf);
  EXECUTE format('DROP TABLE %s', leaf);
  UPDATE ingest.archives SET dropped_at = clock_timestamp() WHERE archive_id = archive;
  RETURN true;
END
$$;

-- Makes the table that an archive is loaded into, and one beside it for what comes out of the file, all of it text. A
-- `trial` is rolled back, and its rows need not survive a crash.
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

-- Makes the loaded table a partition again, in the transaction that began. What the DEFAULT partition caught meanwhile of
-- its time moves in; a row that is there already under its key fails it all.
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
REVOKE ALL ON FUNCTION ingest.rows_checksum_v1, ingest.drop_archived_v1, ingest.begin_restore_v1, ingest.end_restore_v1
  FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT SELECT, INSERT, UPDATE ON ingest.archives TO recio_rollover;
  GRANT SELECT ON ingest.archives TO recio_read;
  GRANT EXECUTE ON FUNCTION ingest.rows_checksum_v1, ingest.drop_archived_v1, ingest.begin_restore_v1,
    ingest.end_restore_v1 TO recio_rollover;
  -- Months are read one by one, also those made later.
  GRANT SELECT ON ALL TABLES IN SCHEMA historical_data TO recio_rollover;
  ALTER DEFAULT PRIVILEGES IN SCHEMA historical_data GRANT SELECT ON TABLES TO recio_rollover;
END
$$;
