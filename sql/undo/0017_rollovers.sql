\set version 17
\set tables 'ingest.rollovers'
\ir check.sql

DROP TABLE ingest.rollovers;
DROP FUNCTION ingest.drop_live_partition_v1;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RETURN;
  END IF;
  ALTER DEFAULT PRIVILEGES IN SCHEMA live_data REVOKE SELECT, DELETE ON TABLES FROM recio_rollover;
  REVOKE SELECT, DELETE ON ALL TABLES IN SCHEMA live_data FROM recio_rollover;
  REVOKE SELECT ON historical_data.price_history_default, historical_data.momentum_history_default,
                   historical_data.market_history_default, historical_data.market_data_history_default,
                   historical_data.strike_history_default, historical_data.price_candles_1m_default FROM recio_rollover;
END
$$;
