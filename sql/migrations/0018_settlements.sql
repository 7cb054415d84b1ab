-- Whether each event was settled on the mean of the prints that were recorded.
CREATE TABLE ingest.settlements (
  event_ticker text        PRIMARY KEY,
  venue        text        NOT NULL,
  close_time   timestamptz NOT NULL,
  checked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),  -- when this was found; finding it again leaves it
  prints       integer     NOT NULL,            -- seconds of the last minute that have one
  computed     numeric,                         -- NULL unless all 60 are there
  published    numeric,
  outcome      text        NOT NULL,
  why          text,                            -- NULL where all is well
  CONSTRAINT outcome_is_known CHECK (outcome IN ('equal', 'differs', 'incomplete', 'unpublished')),
  CONSTRAINT prints_of_a_minute CHECK (prints BETWEEN 0 AND 60),
  CONSTRAINT equal_is_equal CHECK (
    outcome <> 'equal' OR (prints = 60 AND computed IS NOT NULL AND published IS NOT NULL AND computed = published)),
  CONSTRAINT complete_is_computed CHECK (
    CASE outcome WHEN 'incomplete' THEN computed IS NULL ELSE computed IS NOT NULL END)
);

DO $$
BEGIN
  IF to_regrole('recio_ingest') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT SELECT, INSERT, UPDATE ON ingest.settlements TO recio_ingest;
  GRANT SELECT ON ingest.settlements TO recio_read;
END
$$;
