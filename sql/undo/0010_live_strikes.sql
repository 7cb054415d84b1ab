\set version 10
\set tables 'live_data.btc_live_strikes'
\ir check.sql

DROP VIEW live_data.feed_status, live_data.current_strikes;
DROP INDEX ingest.quarantine_open_feed, ingest.gaps_open;
DROP INDEX live_data.market_data_received_at, live_data.websocket_market_data_received_at,
  live_data.btc_price_log_received_at;
DROP INDEX live_data.market_data_close_time;
DROP TABLE live_data.btc_live_strikes;
