-- What was given up is asked for again by the program of before.
\set version 9
\set tables ''
\ir check.sql

DROP INDEX ingest.gaps_to_repair;
ALTER TABLE ingest.gaps DROP COLUMN given_up_at, DROP COLUMN given_up_why;
