-- Candles of a minute, kept from price_history; and the live and the historical rows as one.

-- The key in another order: programs ask for a symbol's prices at a time, and seldom name the source. One index then
-- serves the key, a range of times, and the last price before one, as the index of the live table does.
ALTER TABLE historical_data.price_history
  DROP CONSTRAINT price_history_key,
  ADD CONSTRAINT price_history_key UNIQUE NULLS NOT DISTINCT (symbol, "timestamp", trade_id, source);
ALTER TABLE historical_data.momentum_history
  DROP CONSTRAINT momentum_history_key,
  ADD CONSTRAINT momentum_history_key UNIQUE NULLS NOT DISTINCT (symbol, "timestamp", trade_id, source);

-- From a frame to its rows, when it comes out of the quarantine late.
CREATE INDEX price_history_frame_no ON historical_data.price_history USING brin (frame_no) WITH (autosummarize = on);
CREATE INDEX momentum_history_frame_no ON historical_data.momentum_history USING brin (frame_no)
  WITH (autosummarize = on);

-- One row per minute that has a price.
CREATE TABLE historical_data.price_candles_1m (
  "timestamp" timestamptz NOT NULL,             -- where the minute begins
  trades      bigint      NOT NULL,             -- how many prices
  symbol      text        NOT NULL,
  source      text        NOT NULL,
  open        numeric     NOT NULL,
  high        numeric     NOT NULL,
  low         numeric     NOT NULL,
  close       numeric     NOT NULL,
  volume      numeric,                          -- NULL where no price has one, as of an index
  vwap        numeric,                          -- NULL where nothing was traded
  CONSTRAINT price_candles_1m_key PRIMARY KEY (symbol, source, "timestamp")
) PARTITION BY RANGE ("timestamp");

CREATE TABLE historical_data.price_candles_1m_default PARTITION OF historical_data.price_candles_1m DEFAULT;

-- Makes the candles of these minutes again from price_history, the i-th of one source, symbol and minute each; what is
-- late, repaired or taken away is right by that alone. In the transaction that changed price_history. Two that do so
-- at once take turns: each then reads what the other has committed.
CREATE FUNCTION historical_data.refresh_candles_v1(sources text[], symbols text[], minutes timestamptz[])
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7307190615);
  WITH wanted AS (
    SELECT DISTINCT w.source, w.symbol, date_trunc('minute', w.minute, 'UTC') AS minute
      FROM unnest(sources, symbols, minutes) AS w (source, symbol, minute)
  ), made AS (
    SELECT w.source, w.symbol, w.minute, m.*
      FROM wanted w
     CROSS JOIN LATERAL (
      SELECT count(*) AS trades, array_agg(p.price ORDER BY p."timestamp", p.trade_id, p.frame_no, p.row_no) AS prices,
             max(p.price) AS high, min(p.price) AS low, sum(p.volume) AS volume,
             sum(p.price * p.volume) / nullif(sum(p.volume), 0) AS vwap
        FROM historical_data.price_history p
       WHERE p.source = w.source AND p.symbol = w.symbol
         AND p."timestamp" >= w.minute AND p."timestamp" < w.minute + interval '1 minute') m
  ), emptied AS (
    DELETE FROM historical_data.price_candles_1m c USING made m
     WHERE m.trades = 0 AND c.symbol = m.symbol AND c.source = m.source AND c."timestamp" = m.minute
  )
  INSERT INTO historical_data.price_candles_1m AS c
         ("timestamp", trades, symbol, source, open, high, low, close, volume, vwap)
  SELECT minute, trades, symbol, source, prices[1], high, low, prices[trades], volume, vwap
    FROM made
   WHERE trades > 0
   ORDER BY symbol, source, minute
      ON CONFLICT (symbol, source, "timestamp") DO UPDATE
     SET trades = excluded.trades, open = excluded.open, high = excluded.high, low = excluded.low,
         close = excluded.close, volume = excluded.volume, vwap = excluded.vwap
   WHERE (c.trades, c.open, c.high, c.low, c.close, c.volume, c.vwap) IS DISTINCT FROM
         (excluded.trades, excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume, excluded.vwap);
END
$$;
REVOKE ALL ON FUNCTION historical_data.refresh_candles_v1 FROM PUBLIC;

-- Prices, live and of the past, as one. A row moves within one transaction and looks the same before and after, so each
-- is seen once at every moment. A condition on symbol and "timestamp" is met by an index on both sides, and reads only
-- the months that it names.
CREATE VIEW historical_data.price_timeline AS
SELECT "timestamp", symbol, source, price, volume, side, trade_id, best_bid, best_ask, created_at, received_at,
       frame_no, row_no
  FROM historical_data.price_history
 UNION ALL
SELECT "timestamp", symbol, venue, price, size, side, trade_id, best_bid, best_ask, received_at, received_at,
       frame_no, row_no
  FROM live_data.btc_price_log;

-- The same of what the socket said of markets.
CREATE VIEW historical_data.market_timeline AS
SELECT "timestamp", received_at, venue, ticker, event_ticker, market_id, event_type, yes_bid, yes_bid_size, yes_ask,
       yes_ask_size, no_bid, no_ask, last_price, last_size, side, volume, open_interest, trade_id, sid, seq,
       frame_no, row_no
  FROM historical_data.market_history
 UNION ALL
SELECT "timestamp", received_at, venue, ticker, event_ticker, market_id, event_type, yes_bid, yes_bid_size, yes_ask,
       yes_ask_size, no_bid, no_ask, last_price, last_size, side, volume, open_interest, trade_id, sid, seq,
       frame_no, row_no
  FROM live_data.websocket_market_data;

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT SELECT ON historical_data.price_candles_1m, historical_data.price_timeline, historical_data.market_timeline
     TO recio_read;
  -- To know a trade that is there, wherever it lies.
  GRANT SELECT ON historical_data.price_timeline, historical_data.market_timeline TO recio_ingest;
  GRANT SELECT, INSERT, UPDATE, DELETE ON historical_data.price_candles_1m TO recio_rollover, recio_backfill;
  GRANT EXECUTE ON FUNCTION historical_data.refresh_candles_v1 TO recio_rollover, recio_backfill;
  GRANT SELECT, INSERT ON historical_data.price_history, historical_data.momentum_history TO recio_rollover;
  -- To replace the rows of a frame that is decoded again.
  GRANT SELECT, DELETE ON historical_data.price_history, historical_data.momentum_history TO recio_ingest;
END
$$;
