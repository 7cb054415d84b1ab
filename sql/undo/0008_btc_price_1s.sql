\set version 8
\set tables ''
\ir check.sql

DROP VIEW live_data.btc_price_1s;
