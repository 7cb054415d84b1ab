-- Roles: one owner that nobody logs in as, and one group role per job. The daemon logs in once, NOINHERIT, and
-- takes on the role of the job at hand. Roles belong to the whole server, so another database may have made them
-- already. A login that may not make roles (a plain owner of one database) goes on without them: everything then
-- belongs to that login.
DO $$
DECLARE
  may_create boolean := (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user);
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['recio_owner', 'recio_migrate', 'recio_ingest', 'recio_rollover',
                                'recio_backfill', 'recio_read'] LOOP
    CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = wanted);
    IF NOT may_create THEN
      RAISE NOTICE 'role % does not exist and % may not create it: going on without roles', wanted, current_user;
      RETURN;
    END IF;
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
      EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL;  -- another database of this server was being migrated at the same moment
    END;
  END LOOP;
  IF pg_has_role(current_user, 'recio_owner', 'MEMBER') THEN
    IF NOT pg_has_role('recio_migrate', 'recio_owner', 'MEMBER') THEN
      GRANT recio_owner TO recio_migrate;
    END IF;
    EXECUTE format('GRANT CREATE ON DATABASE %I TO recio_owner', current_database());
    -- Where the predecessor made these schemas, they stay its own, and ours go into them.
    FOR wanted IN SELECT nspname FROM pg_namespace WHERE nspname IN ('live_data', 'historical_data', 'users') LOOP
      EXECUTE format('GRANT ALL ON SCHEMA %I TO recio_owner WITH GRANT OPTION', wanted);
    END LOOP;
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
  END IF;
END
$$;
