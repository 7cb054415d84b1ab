\set version 16
\set tables 'historical_data.price_candles_1m'
\ir check.sql

DROP VIEW historical_data.price_timeline, historical_data.market_timeline;
DROP TABLE historical_data.price_candles_1m;
DROP FUNCTION historical_data.refresh_candles_v1;
DROP INDEX historical_data.price_history_frame_no, historical_data.momentum_history_frame_no;
ALTER TABLE historical_data.price_history
  DROP CONSTRAINT price_history_key,
  ADD CONSTRAINT price_history_key UNIQUE NULLS NOT DISTINCT (source, symbol, "timestamp", trade_id);
ALTER TABLE historical_data.momentum_history
  DROP CONSTRAINT momentum_history_key,
  ADD CONSTRAINT momentum_history_key UNIQUE NULLS NOT DISTINCT (source, symbol, "timestamp", trade_id);

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RETURN;
  END IF;
  REVOKE ALL ON historical_data.price_history, historical_data.momentum_history FROM recio_rollover, recio_ingest;
END
$$;
