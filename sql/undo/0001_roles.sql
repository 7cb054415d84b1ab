-- Run by the login that migrated, without SET ROLE. The roles stay: they belong to the whole server, and other databases
-- may use them. DROP ROLE says of each whether anything does.
\set version 1
\set tables ''
\ir check.sql

DROP TABLE ingest.schema_migrations;
DROP SCHEMA ingest;

DO $$
DECLARE
  theirs text;
BEGIN
  IF to_regrole('recio_owner') IS NULL OR NOT pg_has_role(current_user, 'recio_owner', 'MEMBER') THEN
    RETURN;
  END IF;
  FOR theirs IN SELECT nspname FROM pg_namespace WHERE nspname IN ('live_data', 'historical_data', 'users') LOOP
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM recio_owner CASCADE', theirs);
  END LOOP;
  EXECUTE format('REVOKE CREATE ON DATABASE %I FROM recio_owner', current_database());
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
END
$$;
