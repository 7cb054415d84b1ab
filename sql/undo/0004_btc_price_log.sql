\set version 4
\set tables 'live_data.btc_price_log'
\ir check.sql

DROP TABLE live_data.btc_price_log;

-- Unless the schema was there before, with other tables in it or of another owner.
DO $$
BEGIN
  DROP SCHEMA live_data;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
  RAISE NOTICE 'the schema live_data is not empty or not ours: it stays';
END
$$;
