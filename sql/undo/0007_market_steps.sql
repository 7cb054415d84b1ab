\set version 7
\set tables ''
\ir check.sql

DROP INDEX live_data.websocket_market_data_steps, live_data.market_data_states;
