\set version 2
\set tables 'ingest.offsets ingest.gaps ingest.quarantine'
\ir check.sql

DROP TABLE ingest.offsets, ingest.gaps, ingest.quarantine;
