-- A gap that was asked for in vain says so, and is not asked for again.
ALTER TABLE ingest.gaps
  ADD COLUMN given_up_at  timestamptz,
  ADD COLUMN given_up_why text;

-- What there still is to ask for: few rows, however long the ledger is.
CREATE INDEX gaps_to_repair ON ingest.gaps (feed, frame_no, gap_no)
 WHERE to_time IS NOT NULL AND repaired_at IS NULL AND given_up_at IS NULL;
