\set version 14
\set tables 'historical_data.price_history historical_data.momentum_history ingest.backfills'
\ir check.sql

DROP TABLE historical_data.price_history, historical_data.momentum_history, ingest.backfills;

-- Unless the schema was there before, with other tables in it or of another owner.
DO $$
BEGIN
  DROP SCHEMA historical_data;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
  RAISE NOTICE 'the schema historical_data is not empty or not ours: it stays';
END
$$;

DO $$
BEGIN
  IF to_regrole('recio_backfill') IS NULL THEN
    RETURN;
  END IF;
  REVOKE EXECUTE ON FUNCTION ingest.make_partition_v1 FROM recio_backfill;
  REVOKE SELECT, INSERT, DELETE ON ingest.quarantine FROM recio_backfill;
  REVOKE USAGE ON SCHEMA ingest FROM recio_backfill;
END
$$;
