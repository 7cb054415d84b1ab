\set version 6
\set tables 'live_data.websocket_market_data live_data.market_data'
\ir check.sql

DROP TABLE live_data.websocket_market_data, live_data.market_data;
DROP INDEX ingest.quarantine_open_frame;
