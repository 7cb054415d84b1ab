-- The books of the rollover: one row per slice and table that it went to, written in the transaction that moved it.
CREATE TABLE ingest.rollovers (
  rollover_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source_table   text        NOT NULL,          -- the live table
  partition      text        NOT NULL,          -- its partition
  target_table   text        NOT NULL,
  first_ctid     text        NOT NULL,          -- the slice: after this place in it,
  last_ctid      text        NOT NULL,          -- up to and with this
  received_until timestamptz NOT NULL,          -- only rows that had come before
  deleted_rows   bigint      NOT NULL,
  inserted_rows  bigint      NOT NULL,
  present_rows   bigint      NOT NULL,          -- their key was there already
  differing_rows bigint      NOT NULL,          -- of these: what was there says something else
  checksum       numeric,                       -- of what came; where nothing was there already, of what left too
  started_at     timestamptz NOT NULL,
  finished_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT rows_add_up CHECK (deleted_rows = inserted_rows + present_rows),
  CONSTRAINT rows_not_negative CHECK (least(inserted_rows, present_rows, differing_rows) >= 0)
);

-- Drops a partition of a live table that is empty and lies wholly before a time; returns false if it is not. The lock
-- on the parent is waited for 50 ms: a reader that holds it longer costs this attempt, and ingest, which queues behind
-- it, no more than that.
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
REVOKE ALL ON FUNCTION ingest.drop_live_partition_v1 FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT SELECT, INSERT ON ingest.rollovers TO recio_rollover;
  GRANT SELECT ON ingest.rollovers TO recio_read;
  GRANT EXECUTE ON FUNCTION ingest.drop_live_partition_v1 TO recio_rollover;
  -- Rows leave partition by partition, also those made later by ingest.make_partition_v1.
  GRANT SELECT, DELETE ON ALL TABLES IN SCHEMA live_data TO recio_rollover;
  -- The DEFAULT partitions of the past are watched.
  GRANT SELECT ON historical_data.price_history_default, historical_data.momentum_history_default,
                  historical_data.market_history_default, historical_data.market_data_history_default,
                  historical_data.strike_history_default, historical_data.price_candles_1m_default TO recio_rollover;
  ALTER DEFAULT PRIVILEGES IN SCHEMA live_data GRANT SELECT, DELETE ON TABLES TO recio_rollover;
END
$$;
