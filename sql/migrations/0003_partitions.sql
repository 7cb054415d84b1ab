-- Making a partition. Never CREATE TABLE ... PARTITION OF, which locks the parent against every reader and writer:
-- a plain table is made, filled with what the DEFAULT partition caught for its range, checked, and attached, which
-- only locks the parent against other changes of shape (and the DEFAULT partition for a moment).
--
-- SECURITY DEFINER, so that the ingest role can call it and still owns nothing and may drop nothing.
CREATE FUNCTION ingest.make_partition_v1(
  parent text, name text, key text, lower timestamptz, upper timestamptz
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  parent_schema text := split_part(parent, '.', 1);
  parent_name   text := split_part(parent, '.', 2);
  part_name     text := split_part(name, '.', 2);
  moved         bigint;
BEGIN
  IF parent_schema NOT IN ('live_data', 'historical_data') OR split_part(name, '.', 1) <> parent_schema
     OR part_name !~ '^[a-z][a-z0-9_]{0,62}$' OR NOT lower < upper THEN
    RAISE EXCEPTION 'make_partition: refused for % of %', name, parent USING ERRCODE = '22023';
  END IF;
  PERFORM set_config('lock_timeout', '200ms', true);  -- a reader's long lock costs one attempt, not the feed
  IF to_regclass(format('%I.%I', parent_schema, part_name)) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE %I.%I (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
                 parent_schema, part_name, parent_schema, parent_name);
  EXECUTE format('WITH moved AS (DELETE FROM %I.%I WHERE %I >= $1 AND %I < $2 RETURNING *)
                  INSERT INTO %I.%I SELECT * FROM moved',
                 parent_schema, parent_name || '_default', key, key, parent_schema, part_name)
    USING lower, upper;
  GET DIAGNOSTICS moved = ROW_COUNT;
  IF moved > 0 THEN
    RAISE NOTICE '% rows moved out of %_default', moved, parent_name;
  END IF;
  EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
                 parent_schema, parent_name, parent_schema, part_name, lower, upper);
  RETURN true;
END
$$;
REVOKE ALL ON FUNCTION ingest.make_partition_v1 FROM PUBLIC;

-- Until when partitions exist, without a hole, from now on; NULL where there is none for this moment.
CREATE FUNCTION ingest.partitioned_until_v1(parent regclass) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
  WITH RECURSIVE bounds AS (
    SELECT (regexp_match(b.expr, 'FROM \(''([^'']+)''\)'))[1]::timestamptz AS lower,
           (regexp_match(b.expr, 'TO \(''([^'']+)''\)'))[1]::timestamptz AS upper
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
           LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS expr) b
     WHERE i.inhparent = parent AND b.expr <> 'DEFAULT'
  ), covered AS (
    SELECT upper FROM bounds WHERE lower <= now() AND upper > now()
    UNION
    SELECT b.upper FROM bounds b JOIN covered c ON b.lower = c.upper
  )
  SELECT max(upper) FROM covered
$$;
