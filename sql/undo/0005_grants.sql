\set version 5
\set tables ''
\ir check.sql

DO $$
BEGIN
  IF to_regrole('recio_ingest') IS NULL THEN
    RETURN;
  END IF;
  REVOKE ALL ON ingest.schema_migrations, ingest.offsets, ingest.gaps, ingest.quarantine
    FROM recio_ingest, recio_rollover, recio_backfill, recio_read;
  REVOKE ALL ON ALL TABLES IN SCHEMA live_data FROM recio_ingest, recio_rollover, recio_read;
  REVOKE ALL ON FUNCTION ingest.make_partition_v1 FROM recio_ingest, recio_rollover;
  REVOKE ALL ON SCHEMA ingest, live_data FROM recio_ingest, recio_rollover, recio_read;
END
$$;
