-- A gap may be whole again without its messages: what they were about is known again as it stands now.
ALTER TABLE ingest.gaps
  ADD COLUMN repaired_as text;                -- 'state': the messages themselves were not told again; NULL: they were
