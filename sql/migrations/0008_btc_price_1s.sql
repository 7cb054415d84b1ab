-- One row per second and (venue, symbol), as the predecessor's log had them: the last price of the second with what was
-- derived of it; of two rows of one time the one that arrived last. A condition on "timestamp" is met by reading the
-- symbol's rows (0.1 s for 500,000), for no index knows the seconds.
CREATE VIEW live_data.btc_price_1s AS
SELECT DISTINCT ON (symbol, second, venue)
       second AS "timestamp", venue, symbol, price, one_minute_avg, momentum,
       delta_1m, delta_2m, delta_3m, delta_4m, delta_15m, delta_30m
  FROM (SELECT *, date_trunc('second', "timestamp", 'UTC') AS second FROM live_data.btc_price_log) AS log
 ORDER BY symbol, second, venue, log."timestamp" DESC, frame_no DESC, row_no DESC;

DO $$
BEGIN
  IF to_regrole('recio_read') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT SELECT ON live_data.btc_price_1s TO recio_read;
END
$$;
