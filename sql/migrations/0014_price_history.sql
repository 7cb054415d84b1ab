-- Prices of the past, and what was derived of them; and the books of what was loaded out of old files.
CREATE SCHEMA IF NOT EXISTS historical_data;

-- One row per price, partitioned by its time, one UTC month each. The key's columns stand in this order so that one
-- index serves it, a symbol's prices between two times, and its last price before one.
CREATE TABLE historical_data.price_history (
  "timestamp" timestamptz NOT NULL,
  received_at timestamptz,                      -- NULL for what came out of an old file
  created_at  timestamptz NOT NULL DEFAULT now(),
  trade_id    bigint,
  frame_no    bigint,
  backfill_id bigint,                           -- ingest.backfills
  row_no      integer,
  source      text        NOT NULL,             -- the venue; 'sqlite' for an old file
  symbol      text        NOT NULL,
  side        text,
  price       numeric     NOT NULL,
  volume      numeric,
  best_bid    numeric,
  best_ask    numeric,
  CONSTRAINT price_history_key UNIQUE NULLS NOT DISTINCT (source, symbol, "timestamp", trade_id)
) PARTITION BY RANGE ("timestamp");

CREATE TABLE historical_data.price_history_default PARTITION OF historical_data.price_history DEFAULT;

CREATE TABLE historical_data.momentum_history (
  "timestamp"    timestamptz NOT NULL,
  received_at    timestamptz,
  created_at     timestamptz NOT NULL DEFAULT now(),
  trade_id       bigint,
  frame_no       bigint,
  backfill_id    bigint,
  row_no         integer,
  source         text        NOT NULL,
  symbol         text        NOT NULL,
  one_minute_avg numeric,
  momentum       numeric,
  delta_1m       numeric,
  delta_2m       numeric,
  delta_3m       numeric,
  delta_4m       numeric,
  delta_15m      numeric,
  delta_30m      numeric,
  CONSTRAINT momentum_history_key UNIQUE NULLS NOT DISTINCT (source, symbol, "timestamp", trade_id)
) PARTITION BY RANGE ("timestamp");

CREATE TABLE historical_data.momentum_history_default PARTITION OF historical_data.momentum_history DEFAULT;

-- What one load brought, for its undoing. Only those rows are in it.
CREATE INDEX price_history_backfill_id ON historical_data.price_history USING brin (backfill_id);
CREATE INDEX momentum_history_backfill_id ON historical_data.momentum_history USING brin (backfill_id);

-- One row per file (by its content), table in it, and user. Progress moves in the transaction of the rows.
CREATE TABLE ingest.backfills (
  backfill_id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  file_name        text        NOT NULL,
  file_sha256      text        NOT NULL,
  file_size_bytes  bigint      NOT NULL,
  source_table     text        NOT NULL,
  user_id          text,                        -- NULL where the rows belong to no user
  target           text        NOT NULL,
  state            text        NOT NULL DEFAULT 'running',
  last_rowid       bigint,                      -- NULL before the first batch
  source_rows      bigint      NOT NULL DEFAULT 0,
  inserted_rows    bigint      NOT NULL DEFAULT 0,
  present_rows     bigint      NOT NULL DEFAULT 0,  -- their key was there already
  quarantined_rows bigint      NOT NULL DEFAULT 0,
  verified         boolean,
  report           json,
  started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at      timestamptz,
  undone_at        timestamptz,
  CONSTRAINT state_is_known CHECK (state IN ('running', 'done', 'failed', 'undone')),
  CONSTRAINT rows_add_up CHECK (
    state <> 'done' OR source_rows = inserted_rows + present_rows + quarantined_rows),
  CONSTRAINT rows_not_negative CHECK (least(source_rows, inserted_rows, present_rows, quarantined_rows) >= 0)
) WITH (fillfactor = 50);  -- updated with every batch: room for HOT updates on the one page

-- One load of a file's table for a user; what was undone may be loaded again.
CREATE UNIQUE INDEX backfills_file ON ingest.backfills (file_sha256, source_table, user_id) NULLS NOT DISTINCT
  WHERE state <> 'undone';

DO $$
BEGIN
  IF to_regrole('recio_backfill') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  REVOKE ALL ON SCHEMA historical_data FROM PUBLIC;
  GRANT USAGE ON SCHEMA historical_data TO recio_ingest, recio_rollover, recio_backfill, recio_read;
  GRANT USAGE ON SCHEMA ingest TO recio_backfill;
  -- DELETE only to undo a load.
  GRANT SELECT, INSERT, DELETE ON historical_data.price_history, historical_data.momentum_history TO recio_backfill;
  GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.backfills TO recio_backfill;
  GRANT SELECT, INSERT, DELETE ON ingest.quarantine TO recio_backfill;
  GRANT EXECUTE ON FUNCTION ingest.make_partition_v1 TO recio_backfill;
  GRANT SELECT ON historical_data.price_history, historical_data.momentum_history, ingest.backfills TO recio_read;
END
$$;
