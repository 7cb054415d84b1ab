-- What every undo begins with: it is its turn, and it takes no row with it unless that is wanted.
--
--   psql -1 -v ON_ERROR_STOP=1 -c 'SET ROLE recio_owner' -f sql/undo/NNNN_name.sql DSN
--
-- `version` is the migration, `tables` are those that the undo drops. Without -1 the settings are gone by the next
-- statement, and the undo is refused: half of one is worse than none.
SELECT set_config('recio.undo_version', :'version', true), set_config('recio.undo_tables', :'tables', true) \g /dev/null

DO $$
DECLARE
  wanted integer := nullif(current_setting('recio.undo_version', true), '');
  newest integer;
  loses  text;
  filled boolean;
BEGIN
  IF wanted IS NULL THEN
    RAISE EXCEPTION 'an undo is one transaction: run it with psql -1';
  END IF;
  PERFORM pg_advisory_xact_lock(7307190612);  -- no program migrates meanwhile
  SELECT max(version) INTO newest FROM ingest.schema_migrations;
  IF newest IS DISTINCT FROM wanted THEN
    RAISE EXCEPTION 'migration % cannot be undone: the newest here is %', wanted, newest
      USING HINT = 'the newest goes first, one after another';
  END IF;
  FOREACH loses IN ARRAY string_to_array(current_setting('recio.undo_tables'), ' ') LOOP
    CONTINUE WHEN current_setting('recio.drop_rows', true) = 'yes';
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', loses) INTO filled;
    IF filled THEN
      RAISE EXCEPTION 'migration % is not undone: % has rows, and they would be gone', wanted, loses
        USING HINT = 'keep a copy of them, then say so before -f: -c "SET recio.drop_rows = yes"';
    END IF;
  END LOOP;
END
$$;

DELETE FROM ingest.schema_migrations WHERE version = :version;
