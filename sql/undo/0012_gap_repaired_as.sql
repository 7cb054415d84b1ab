\set version 12
\set tables ''
\ir check.sql

ALTER TABLE ingest.gaps DROP COLUMN repaired_as;
