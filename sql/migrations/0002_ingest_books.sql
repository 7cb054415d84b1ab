-- The daemon's own books: where each stream stands, what was missed, what could not be used.
CREATE SCHEMA IF NOT EXISTS ingest;

-- One row per stream: 'live', a replayed file (its SHA-256), or a spool that was taken over ('spool/<id>').
-- The counts add up, always: every frame has exactly one outcome.
CREATE TABLE ingest.offsets (
  stream             text        PRIMARY KEY,
  spool_id           text        NOT NULL,
  epoch              bigint      NOT NULL,
  frame_no           bigint      NOT NULL,
  state              jsonb       NOT NULL DEFAULT '{}',
  received_frames    bigint      NOT NULL DEFAULT 0,
  shipped_frames     bigint      NOT NULL DEFAULT 0,
  state_frames       bigint      NOT NULL DEFAULT 0,
  duplicate_frames   bigint      NOT NULL DEFAULT 0,
  control_frames     bigint      NOT NULL DEFAULT 0,
  quarantined_frames bigint      NOT NULL DEFAULT 0,
  updated_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT books_balance CHECK (
    received_frames = shipped_frames + state_frames + duplicate_frames + control_frames + quarantined_frames),
  CONSTRAINT counts_not_negative CHECK (
    least(shipped_frames, state_frames, duplicate_frames, control_frames, quarantined_frames) >= 0)
) WITH (fillfactor = 20);  -- updated at every commit: room for HOT updates on the one page

-- A period or a range of numbers that was not received. Sequences: both ends are missing ids.
CREATE TABLE ingest.gaps (
  stream      text        NOT NULL DEFAULT 'live',
  frame_no    bigint      NOT NULL,           -- the frame that revealed it
  gap_no      integer     NOT NULL DEFAULT 0,
  feed        text        NOT NULL,
  channel     text        NOT NULL DEFAULT '*',
  scope       text        NOT NULL,           -- product, sid, market; 'connection'; 'spool'
  cause       text        NOT NULL,
  from_time   timestamptz,
  to_time     timestamptz,                    -- NULL while open
  from_seq    bigint,
  to_seq      bigint,
  expected    bigint,
  recovered   bigint      NOT NULL DEFAULT 0,
  repaired_at timestamptz,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (stream, frame_no, gap_no),
  CONSTRAINT sequence_in_order CHECK (from_seq <= to_seq)
);

-- Frames, or rows of them, that could not be used: why, and every byte they had.
CREATE TABLE ingest.quarantine (
  quarantine_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  stream         text        NOT NULL DEFAULT 'live',
  frame_no       bigint      NOT NULL,
  row_no         integer     NOT NULL DEFAULT 0,
  feed           text        NOT NULL,
  received_at    timestamptz NOT NULL,
  reason         text        NOT NULL,
  detail         text        NOT NULL,
  frame          bytea       NOT NULL,
  quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  replayed_at    timestamptz                  -- set when today's parser could use it after all
);
-- For --replay-quarantine and for a person's "what is still wrong": the rows not replayed, in order of arrival.
CREATE INDEX quarantine_open ON ingest.quarantine (quarantine_id) WHERE replayed_at IS NULL;
