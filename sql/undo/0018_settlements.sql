-- What was found can be found again, as long as the prints are there.
\set version 18
\set tables 'ingest.settlements'
\ir check.sql

DROP INDEX historical_data.market_data_history_close_time;
DROP TABLE ingest.settlements;
