\set version 19
\set tables 'ingest.archives'
\ir check.sql

DROP FUNCTION ingest.drop_archived_v1, ingest.begin_restore_v1, ingest.end_restore_v1, ingest.rows_checksum_v1;
DROP TABLE ingest.archives;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RETURN;
  END IF;
  ALTER DEFAULT PRIVILEGES IN SCHEMA historical_data REVOKE SELECT ON TABLES FROM recio_rollover;
  REVOKE SELECT ON ALL TABLES IN SCHEMA historical_data FROM recio_rollover;
  GRANT SELECT ON historical_data.price_history, historical_data.momentum_history, historical_data.market_history,
                  historical_data.market_data_history, historical_data.strike_history,
                  historical_data.price_candles_1m, historical_data.price_history_default,
                  historical_data.momentum_history_default,
                  historical_data.market_history_default, historical_data.market_data_history_default,
                  historical_data.strike_history_default, historical_data.price_candles_1m_default TO recio_rollover;
END
$$;
