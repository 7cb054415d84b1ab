-- What was found can be found again, as long as the prints are there.
\set version 18
\set tables 'ingest.settlements'
\ir check.sql

DROP TABLE ingest.settlements;
