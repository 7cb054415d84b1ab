-- Who may do what. Ingest inserts, reads its own books, and calls one function; it drops, truncates and alters nothing.
DO $$
BEGIN
  IF to_regrole('recio_ingest') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  REVOKE ALL ON SCHEMA ingest, live_data FROM PUBLIC;
  GRANT USAGE ON SCHEMA ingest, live_data TO recio_ingest, recio_rollover, recio_read;
  GRANT SELECT, INSERT, UPDATE ON ingest.offsets, ingest.gaps TO recio_ingest;
  GRANT SELECT, INSERT, UPDATE ON ingest.quarantine TO recio_ingest;
  GRANT SELECT, INSERT ON live_data.btc_price_log TO recio_ingest;
  -- Only to replace the rows of a frame that is decoded again.
  GRANT DELETE ON live_data.btc_price_log TO recio_ingest;
  GRANT EXECUTE ON FUNCTION ingest.make_partition_v1 TO recio_ingest, recio_rollover;
  GRANT SELECT ON ingest.schema_migrations TO recio_ingest, recio_rollover, recio_backfill, recio_read;
  GRANT SELECT ON ALL TABLES IN SCHEMA live_data TO recio_read;
  GRANT SELECT ON ingest.offsets, ingest.gaps, ingest.quarantine TO recio_read;
END
$$;
