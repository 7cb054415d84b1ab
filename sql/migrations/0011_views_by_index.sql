-- The views of 0008 and 0010, so that the usual questions read by an index: with 2,000,000 trades "the last ten
-- minutes" of btc_price_1s read all of them (6 s), and so did feed_status for a feed that was silent.

-- The seconds of btc_price_1s. The index is on the view's own expression, for no other is matched by a condition on its
-- "timestamp"; date_bin and not date_trunc, which is not immutable. BRIN, because seconds only grow, but for what comes
-- late.
CREATE INDEX btc_price_log_second ON live_data.btc_price_log
  USING brin (date_bin('1 second', "timestamp", '1970-01-01 00:00:00+00')) WITH (autosummarize = on);

-- One row per second and (venue, symbol), as the predecessor's log had them: the last price of the second with what was
-- derived of it; of two rows of one time the one that arrived last.
CREATE OR REPLACE VIEW live_data.btc_price_1s AS
SELECT DISTINCT ON (symbol, second, venue)
       second AS "timestamp", venue, symbol, price, one_minute_avg, momentum,
       delta_1m, delta_2m, delta_3m, delta_4m, delta_15m, delta_30m
  FROM (SELECT *, date_bin('1 second', "timestamp", '1970-01-01 00:00:00+00') AS second
          FROM live_data.btc_price_log) AS log
 ORDER BY symbol, second, venue, log."timestamp" DESC, frame_no DESC, row_no DESC;

-- One row per feed. While rows come, only the last minute is read. Of a feed that is silent: the newest price of each
-- symbol, found by stepping through the index from one symbol to the next; and of the two market tables, which one venue
-- fills, the ten minutes that had the last row, looked for back to a day ago (what no row came in costs next to nothing).
CREATE OR REPLACE VIEW live_data.feed_status AS
WITH RECURSIVE feeds (feed, venues) AS (
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
), symbols (symbol) AS (
  (SELECT symbol FROM live_data.btc_price_log ORDER BY symbol LIMIT 1)
   UNION ALL
  SELECT (SELECT p.symbol FROM live_data.btc_price_log p WHERE p.symbol > s.symbol ORDER BY p.symbol LIMIT 1)
    FROM symbols s
   WHERE s.symbol IS NOT NULL
), spans (upto) AS (
  SELECT upto FROM generate_series(now(), now() - interval '1 day', interval '-10 minutes') AS upto ORDER BY upto DESC
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
      FROM (SELECT p.venue, p.received_at, p."timestamp"
              FROM symbols s
             CROSS JOIN LATERAL (SELECT venue, received_at, "timestamp" FROM live_data.btc_price_log
                                  WHERE symbol = s.symbol ORDER BY "timestamp" DESC LIMIT 1) p
             UNION ALL
            (SELECT 'kalshi', w.received_at, w."timestamp"
               FROM spans
              CROSS JOIN LATERAL (SELECT max(received_at) AS received_at, max("timestamp") AS "timestamp"
                                    FROM live_data.websocket_market_data
                                   WHERE received_at > upto - interval '10 minutes' AND received_at <= upto) w
              WHERE w.received_at IS NOT NULL ORDER BY upto DESC LIMIT 1)
             UNION ALL
            (SELECT 'kalshi', w.received_at, w."timestamp"
               FROM spans
              CROSS JOIN LATERAL (SELECT max(received_at) AS received_at, max("timestamp") AS "timestamp"
                                    FROM live_data.market_data
                                   WHERE received_at > upto - interval '10 minutes' AND received_at <= upto) w
              WHERE w.received_at IS NOT NULL ORDER BY upto DESC LIMIT 1)) AS day
     WHERE m.seen IS NULL AND venue = ANY (f.venues)
       AND received_at > now() - interval '1 day') d ON true
 ORDER BY f.feed;

-- How the seconds lie is not known before, and the planner reads all of them: for the partitions that have rows now.
DO $$
BEGIN
  IF EXISTS (SELECT FROM live_data.btc_price_log) THEN
    ANALYZE live_data.btc_price_log;
  END IF;
END
$$;
