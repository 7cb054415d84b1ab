-- Prediction markets: what the venue's socket says of each, and every description or state of one. Partitioned by
-- arrival, one UTC day each; no unique key, as in btc_price_log.
CREATE TABLE live_data.websocket_market_data (
  "timestamp"   timestamptz NOT NULL,          -- the venue's time; of the arrival where a message has none
  received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  frame_no      bigint      NOT NULL DEFAULT 0,
  sid           bigint,                        -- the subscription that it came by, within its connection
  seq           bigint,                        -- its number within that; tickers have none
  row_no        integer     NOT NULL DEFAULT 0,
  venue         text        NOT NULL,
  ticker        text,                          -- the market; NULL in what is about a whole event
  event_ticker  text,
  market_id     text,
  event_type    text        NOT NULL,          -- ticker, trade, rest_quote, rest_trade, or the lifecycle's own word
  yes_bid       numeric,                       -- in dollars; an empty side of the book is NULL
  yes_bid_size  numeric,
  yes_ask       numeric,
  yes_ask_size  numeric,
  no_bid        numeric,                       -- 1 - yes_ask
  no_ask        numeric,                       -- 1 - yes_bid
  last_price    numeric,                       -- of YES
  last_size     numeric,
  side          text,                          -- the outcome that the taker took
  volume        numeric,
  open_interest numeric,
  trade_id      text,
  raw_json      jsonb,                         -- the whole message
  CONSTRAINT side_is_yes_or_no CHECK (side IN ('yes', 'no'))
) PARTITION BY RANGE (received_at);

CREATE TABLE live_data.websocket_market_data_default PARTITION OF live_data.websocket_market_data DEFAULT;

-- One market's quotes of an hour, its latest quote, and the test for trades that are there already when a file is
-- replayed.
CREATE INDEX websocket_market_data_ticker_timestamp ON live_data.websocket_market_data (ticker, "timestamp");

-- From a row to its frame and back, when frames are decoded again after a parser's fix.
CREATE INDEX websocket_market_data_frame_no ON live_data.websocket_market_data USING brin (frame_no);

CREATE TABLE live_data.market_data (
  "timestamp"              timestamptz NOT NULL,  -- when the venue changed it; of the arrival where it does not say
  received_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
  open_time                timestamptz,
  close_time               timestamptz,
  expected_expiration_time timestamptz,
  settlement_time          timestamptz,
  frame_no                 bigint      NOT NULL DEFAULT 0,
  row_no                   integer     NOT NULL DEFAULT 0,
  venue                    text        NOT NULL,
  ticker                   text        NOT NULL,
  event_ticker             text,
  series_ticker            text,
  title                    text,
  subtitle                 text,
  status                   text,
  strike_type              text,
  floor_strike             numeric,
  cap_strike               numeric,
  yes_bid                  numeric,               -- in dollars; an empty side of the book is NULL
  yes_ask                  numeric,
  no_bid                   numeric,
  no_ask                   numeric,
  last_price               numeric,
  volume                   numeric,
  volume_24h               numeric,
  open_interest            numeric,
  result                   text,
  expiration_value         numeric,               -- what the market was settled on, where that is a number
  raw_json                 jsonb                  -- the whole description, or the lifecycle message
) PARTITION BY RANGE (received_at);

CREATE TABLE live_data.market_data_default PARTITION OF live_data.market_data DEFAULT;

-- The latest description of one market, and how it changed over an hour.
CREATE INDEX market_data_ticker_timestamp ON live_data.market_data (ticker, "timestamp");

-- From a row to its frame and back, when frames are decoded again after a parser's fix.
CREATE INDEX market_data_frame_no ON live_data.market_data USING brin (frame_no);

-- For --replay-quarantine: a frame of many rows can have many entries, and they are closed together.
CREATE INDEX quarantine_open_frame ON ingest.quarantine (stream, frame_no) WHERE replayed_at IS NULL;

DO $$
BEGIN
  IF to_regrole('recio_ingest') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  -- DELETE only to replace the rows of a frame that is decoded again.
  GRANT SELECT, INSERT, DELETE ON live_data.websocket_market_data, live_data.market_data TO recio_ingest;
  GRANT SELECT ON live_data.websocket_market_data, live_data.market_data TO recio_read;
END
$$;
