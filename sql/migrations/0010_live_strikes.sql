-- The ladder: what each open strike cost at a second, and how far it was from where Bitcoin stood. Partitioned by
-- arrival, one UTC day each; no unique key, as in btc_price_log.
CREATE TABLE live_data.btc_live_strikes (
  "timestamp"      timestamptz NOT NULL,         -- the second's mark; the only clock that frames have
  received_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  frame_no         bigint      NOT NULL DEFAULT 0,
  row_no           integer     NOT NULL DEFAULT 0,
  event_ticker     text,
  ticker           text        NOT NULL,
  strike_type      text,                         -- greater, greater_or_equal, less, less_or_equal, between
  spot_source      text,                         -- BRTI while it flows, else coinbase
  strike_price     numeric,                      -- the floor; of less and less_or_equal the cap
  yes_bid          numeric,                      -- in dollars; an empty side of the book is NULL
  yes_ask          numeric,
  no_bid           numeric,
  no_ask           numeric,
  last_price       numeric,                      -- of YES
  volume           numeric,
  open_interest    numeric,
  spot_price       numeric,
  distance         numeric,                      -- spot_price - strike_price
  seconds_to_close numeric,
  CONSTRAINT not_after_the_close CHECK (seconds_to_close >= 0)
) PARTITION BY RANGE (received_at);

CREATE TABLE live_data.btc_live_strikes_default PARTITION OF live_data.btc_live_strikes DEFAULT;

-- The latest ladder of an event: its strikes one after another, the newest row of each.
CREATE INDEX btc_live_strikes_event ON live_data.btc_live_strikes (event_ticker, ticker, received_at DESC);

-- One market's strikes of an hour; the last row of each open market, when the daemon starts.
CREATE INDEX btc_live_strikes_ticker ON live_data.btc_live_strikes (ticker, received_at DESC);

-- The last minute, whatever the event: which events are open now.
CREATE INDEX btc_live_strikes_received_at ON live_data.btc_live_strikes (received_at);

-- From a row to its frame and back, when frames are decoded again after a parser's fix.
CREATE INDEX btc_live_strikes_frame_no ON live_data.btc_live_strikes USING brin (frame_no);

-- The descriptions of markets that are not over, when the daemon starts (with those parts of one that name no time).
CREATE INDEX market_data_close_time ON live_data.market_data (close_time, frame_no);

-- The last minute's rows of a feed (feed_status). BRIN, because arrivals only grow: a few kilobytes a day; each range
-- is summed up as soon as it is full, so that only the newest is ever read without need.
CREATE INDEX btc_price_log_received_at ON live_data.btc_price_log USING brin (received_at) WITH (autosummarize = on);
CREATE INDEX websocket_market_data_received_at ON live_data.websocket_market_data USING brin (received_at)
  WITH (autosummarize = on);
CREATE INDEX market_data_received_at ON live_data.market_data USING brin (received_at) WITH (autosummarize = on);

-- What is missing now, and what waits for a newer parser, by feed (feed_status).
CREATE INDEX gaps_open ON ingest.gaps (feed) WHERE to_time IS NULL;
CREATE INDEX quarantine_open_feed ON ingest.quarantine (feed, stream, frame_no) WHERE replayed_at IS NULL;

-- The latest ladder of every open event. An event is open if it had a row in the last minute of the ladder, at most two
-- hours ago, and by its last row its close has not come. Its strikes are found by stepping through the index from one
-- to the next: an hour has some 400 of them, and tens of thousands of rows.
CREATE VIEW live_data.current_strikes AS
WITH RECURSIVE newest AS (
  SELECT max(received_at) AS at FROM live_data.btc_live_strikes WHERE received_at > now() - interval '2 hours'
), events AS (
  SELECT DISTINCT s.event_ticker
    FROM live_data.btc_live_strikes s
   WHERE s.received_at > (SELECT at FROM newest) - interval '1 minute'
     AND s.received_at + make_interval(secs => s.seconds_to_close::float8) > now()
), strikes AS (
  SELECT e.event_ticker, (SELECT s.ticker FROM live_data.btc_live_strikes s
                           WHERE s.event_ticker = e.event_ticker ORDER BY s.ticker LIMIT 1) AS ticker
    FROM events e
   UNION ALL
  SELECT k.event_ticker, (SELECT s.ticker FROM live_data.btc_live_strikes s
                           WHERE s.event_ticker = k.event_ticker AND s.ticker > k.ticker ORDER BY s.ticker LIMIT 1)
    FROM strikes k
   WHERE k.ticker IS NOT NULL
)
SELECT r."timestamp", r.received_at, r.event_ticker, r.ticker, r.strike_price, r.strike_type, r.yes_bid, r.yes_ask,
       r.no_bid, r.no_ask, r.last_price, r.volume, r.open_interest, r.spot_price, r.spot_source, r.distance,
       r.seconds_to_close, r.frame_no, r.row_no
  FROM strikes k
 CROSS JOIN LATERAL (
  SELECT * FROM live_data.btc_live_strikes s
   WHERE s.event_ticker = k.event_ticker AND s.ticker = k.ticker ORDER BY s.received_at DESC LIMIT 1) r
 WHERE r.received_at + make_interval(secs => r.seconds_to_close::float8) > now()
 ORDER BY r.event_ticker, r.strike_price, r.ticker;

-- One row per feed. While rows come, only the last minute is read; of a feed that is silent, the last day.
CREATE VIEW live_data.feed_status AS
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

DO $$
BEGIN
  IF to_regrole('recio_ingest') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  -- DELETE only to replace the rows of a frame that is decoded again.
  GRANT SELECT, INSERT, DELETE ON live_data.btc_live_strikes TO recio_ingest;
  GRANT SELECT ON live_data.btc_live_strikes, live_data.current_strikes, live_data.feed_status TO recio_read;
END
$$;
