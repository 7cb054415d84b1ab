\set version 3
\set tables ''
\ir check.sql

DROP FUNCTION ingest.make_partition_v1, ingest.partitioned_until_v1;
