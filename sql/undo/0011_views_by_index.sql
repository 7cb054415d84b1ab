-- The views as 0008 and 0010 made them.
\set version 11
\set tables ''
\ir check.sql

CREATE OR REPLACE VIEW live_data.btc_price_1s AS
SELECT DISTINCT ON (symbol, second, venue)
       second AS "timestamp", venue, symbol, price, one_minute_avg, momentum,
       delta_1m, delta_2m, delta_3m, delta_4m, delta_15m, delta_30m
  FROM (SELECT *, date_trunc('second', "timestamp", 'UTC') AS second FROM live_data.btc_price_log) AS log
 ORDER BY symbol, second, venue, log."timestamp" DESC, frame_no DESC, row_no DESC;

CREATE OR REPLACE VIEW live_data.feed_status AS
WITH feeds (feed, venues) AS (
  VALUES ('coinbase', ARRAY['coinbase']), ('kalshi', ARRAY['kalshi', 'cfbenchmarks'])
), fresh AS MATERIALIZED (
  SELECT venue, count(*) AS seen, max(received_at) AS last_received_at, max("timestamp") AS last_timestamp
    FROM (SELECT venue, received_at, "timestamp" FROM live_data.btc_price_log
           WHERE received_at > now() - interval '1 minute'
           UNION ALL
          SELECT venue, received_at, "timestamp" FROM live_data.websocket_market_data
           WHERE received_at > now() - interval '1 minute'
           UNION ALL
          SELECT venue, received_at, "timestamp" FROM live_data.market_data
           WHERE received_at > now() - interval '1 minute') AS minute
   GROUP BY venue
)
SELECT f.feed,
       coalesce(m.last_received_at, d.last_received_at) AS last_received_at,
       coalesce(m.last_timestamp, d.last_timestamp) AS last_timestamp,
       coalesce(m.seen, 0)::bigint AS rows_last_minute,
       (SELECT count(*) FROM ingest.gaps g WHERE g.feed = f.feed AND g.to_time IS NULL) AS open_gaps,
       (SELECT count(DISTINCT (q.stream, q.frame_no)) FROM ingest.quarantine q
         WHERE q.feed = f.feed AND q.replayed_at IS NULL) AS quarantined_frames
  FROM feeds f
  LEFT JOIN LATERAL (
    SELECT sum(seen) AS seen, max(last_received_at) AS last_received_at, max(last_timestamp) AS last_timestamp
      FROM fresh WHERE venue = ANY (f.venues)) m ON true
  LEFT JOIN LATERAL (
    SELECT max(received_at) AS last_received_at, max("timestamp") AS last_timestamp
      FROM (SELECT venue, received_at, "timestamp" FROM live_data.btc_price_log
             WHERE m.seen IS NULL AND received_at > now() - interval '1 day'
             UNION ALL
            SELECT venue, received_at, "timestamp" FROM live_data.websocket_market_data
             WHERE m.seen IS NULL AND received_at > now() - interval '1 day'
             UNION ALL
            SELECT venue, received_at, "timestamp" FROM live_data.market_data
             WHERE m.seen IS NULL AND received_at > now() - interval '1 day') AS day
     WHERE venue = ANY (f.venues)) d ON true
 ORDER BY f.feed;

DROP INDEX live_data.btc_price_log_second;
