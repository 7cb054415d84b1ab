-- The functions as 0017 and 0019 made them.
\set version 20
\set tables ''
\ir check.sql

DROP FUNCTION ingest.begin_restore_v2, ingest.end_restore_v2, ingest.merge_restored_v1, ingest.has_bounds_v1,
  ingest.drop_archived_v2, ingest.drop_live_partition_v2;

-- Files of two months that say the same, as empty ones do, can have one row only: the newest, if the others are given up.
DELETE FROM ingest.archives a USING ingest.archives b
 WHERE a.file_sha256 = b.file_sha256 AND a.archive_id < b.archive_id
   AND current_setting('recio.drop_rows', true) = 'yes';
ALTER TABLE ingest.archives DROP CONSTRAINT archives_file, ADD CONSTRAINT archives_file UNIQUE (file_sha256);

CREATE FUNCTION ingest.drop_live_partition_v1(partition text, before timestamptz) RETURNS boolean
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
  PERFORM set_config('lock_timeout', '50ms', true);
  EXECUTE format('LOCK TABLE ONLY %s, ONLY %s IN ACCESS EXCLUSIVE MODE', parent, leaf);
  EXECUTE format('SELECT EXISTS (SELECT FROM %s)', leaf) INTO filled;  -- again: rows may have come until the lock
  IF filled THEN
    RETURN false;
  END IF;
  EXECUTE format('DROP TABLE %s', leaf);
  RETURN true;
END
$$;

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

REVOKE ALL ON FUNCTION ingest.drop_live_partition_v1, ingest.drop_archived_v1, ingest.begin_restore_v1,
  ingest.end_restore_v1 FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RETURN;
  END IF;
  GRANT EXECUTE ON FUNCTION ingest.drop_live_partition_v1, ingest.drop_archived_v1, ingest.begin_restore_v1,
    ingest.end_restore_v1 TO recio_rollover;
END
$$;
