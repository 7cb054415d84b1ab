-- Prediction markets of the past: what live_data had of them, partitioned by the venue's time, one UTC month each. Rows
-- come by the rollover alone, which moves each once. Every index here is paid for once per row of a day, so each table
-- has one for its readers, small ones for what a start reads back, and BRIN where arrival gives the order.
CREATE TABLE historical_data.market_history (
  "timestamp"   timestamptz NOT NULL,
  received_at   timestamptz NOT NULL,
  frame_no      bigint      NOT NULL,
  sid           bigint,
  seq           bigint,
  row_no        integer     NOT NULL,
  venue         text        NOT NULL,
  ticker        text,
  event_ticker  text,
  market_id     text,
  event_type    text        NOT NULL,
  yes_bid       numeric,
  yes_bid_size  numeric,
  yes_ask       numeric,
  yes_ask_size  numeric,
  no_bid        numeric,
  no_ask        numeric,
  last_price    numeric,
  last_size     numeric,
  side          text,
  volume        numeric,
  open_interest numeric,
  trade_id      text,
  raw_json      jsonb                           -- only with rollover.keep_raw
) PARTITION BY RANGE ("timestamp");

CREATE TABLE historical_data.market_history_default PARTITION OF historical_data.market_history DEFAULT;

-- A trade is there once, and whether it is there is asked when a file is replayed or a gap repaired. Tickers are not in
-- it: they have no id, and are nine rows of ten.
CREATE UNIQUE INDEX market_history_key ON historical_data.market_history (ticker, "timestamp", trade_id, venue)
 WHERE trade_id IS NOT NULL;

-- What the daemon reads back at every start to know what it has already, as from the live table: what came last, also
-- where it has rolled over. One row of ten is in it.
CREATE INDEX market_history_steps ON historical_data.market_history (event_type, frame_no)
 WHERE event_type <> 'ticker';

-- One market's quotes and trades of an hour.
CREATE INDEX market_history_ticker ON historical_data.market_history (ticker, "timestamp");

-- From a frame to its rows, when it comes out of the quarantine late.
CREATE INDEX market_history_frame_no ON historical_data.market_history USING brin (frame_no)
  WITH (autosummarize = on);

CREATE TABLE historical_data.market_data_history (
  "timestamp"              timestamptz NOT NULL,
  received_at              timestamptz NOT NULL,
  open_time                timestamptz,
  close_time               timestamptz,
  expected_expiration_time timestamptz,
  settlement_time          timestamptz,
  frame_no                 bigint      NOT NULL,
  row_no                   integer     NOT NULL,
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
  yes_bid                  numeric,
  yes_ask                  numeric,
  no_bid                   numeric,
  no_ask                   numeric,
  last_price               numeric,
  volume                   numeric,
  volume_24h               numeric,
  open_interest            numeric,
  result                   text,
  expiration_value         numeric,
  raw_json                 jsonb                -- only with rollover.keep_raw
) PARTITION BY RANGE ("timestamp");

CREATE TABLE historical_data.market_data_history_default PARTITION OF historical_data.market_data_history DEFAULT;

-- How one market was described, and when that changed.
CREATE INDEX market_data_history_ticker ON historical_data.market_data_history (ticker, "timestamp");

-- The last descriptions by REST, and those of markets that are not over, when the daemon starts; what closed when.
CREATE INDEX market_data_history_states ON historical_data.market_data_history (frame_no) WHERE status IS NOT NULL;
CREATE INDEX market_data_history_close_time ON historical_data.market_data_history (close_time, frame_no);

-- From a frame to its rows, as above.
CREATE INDEX market_data_history_frame_no ON historical_data.market_data_history USING brin (frame_no)
  WITH (autosummarize = on);

CREATE TABLE historical_data.strike_history (
  "timestamp"      timestamptz NOT NULL,
  received_at      timestamptz NOT NULL,
  frame_no         bigint      NOT NULL,
  row_no           integer     NOT NULL,
  event_ticker     text,
  ticker           text        NOT NULL,
  strike_type      text,
  spot_source      text,
  strike_price     numeric,
  yes_bid          numeric,
  yes_ask          numeric,
  no_bid           numeric,
  no_ask           numeric,
  last_price       numeric,
  volume           numeric,
  open_interest    numeric,
  spot_price       numeric,
  distance         numeric,
  seconds_to_close numeric
) PARTITION BY RANGE ("timestamp");

CREATE TABLE historical_data.strike_history_default PARTITION OF historical_data.strike_history DEFAULT;

-- One strike over an hour.
CREATE INDEX strike_history_ticker ON historical_data.strike_history (ticker, "timestamp");

-- The whole ladder at a second. BRIN: rows lie in the order of their seconds, so a few pages are read.
CREATE INDEX strike_history_timestamp ON historical_data.strike_history USING brin ("timestamp")
  WITH (autosummarize = on);

DO $$
BEGIN
  IF to_regrole('recio_rollover') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT SELECT ON historical_data.market_history, historical_data.market_data_history, historical_data.strike_history
     TO recio_read, recio_ingest;
  GRANT SELECT, INSERT ON historical_data.market_history, historical_data.market_data_history,
                          historical_data.strike_history TO recio_rollover;
  -- Only to replace the rows of a frame that is decoded again.
  GRANT DELETE ON historical_data.market_history, historical_data.market_data_history TO recio_ingest;
END
$$;
