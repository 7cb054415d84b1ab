\set version 15
\set tables 'historical_data.market_history historical_data.market_data_history historical_data.strike_history'
\ir check.sql

DROP TABLE historical_data.market_history,
  historical_data.market_data_history,
  historical_data.strike_history;
