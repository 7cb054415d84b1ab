-- What belongs to a user: trades and what Kalshi says of them. The parents are partitioned by user; the partitions have
-- the predecessor's table names, and its programs work on them. Columns stand in the predecessor's order, because some
-- of those programs read SELECT * by position; what is new stands last.
--
-- A CHECK says only what no row of an old file breaks by nature: closed_at may lie before date (it was often a time of
-- day alone), prices are dollars or cents by age, win_loss is W or WIN, and statuses came and went.
CREATE SCHEMA IF NOT EXISTS users;

CREATE TABLE users.trades (
  id             bigint      NOT NULL,
  status         text        NOT NULL DEFAULT 'pending',  -- pending, open, closing; then closed, expired or settled
  date           date        NOT NULL,                    -- New York's, as `time` is
  time           time        NOT NULL,
  symbol         text        DEFAULT 'BTC',
  market         text        DEFAULT 'Kalshi',
  trade_strategy text        DEFAULT 'Hourly HTC',
  contract       text,
  strike         numeric     NOT NULL,
  side           text        NOT NULL,
  prob           numeric,
  diff           numeric,
  buy_price      numeric     NOT NULL,
  position       bigint      NOT NULL,
  sell_price     numeric,
  closed_at      timestamptz,
  fees           numeric,
  pnl            numeric,
  symbol_open    numeric,
  symbol_close   numeric,
  momentum       numeric,
  volatility     numeric,
  win_loss       text,
  ticker         text,
  ticket_id      text,
  market_id      text        DEFAULT 'BTC-USD',
  momentum_delta numeric,
  entry_method   text        DEFAULT 'manual',
  close_method   text,
  created_at     timestamptz NOT NULL DEFAULT now(),
  updated_at     timestamptz NOT NULL DEFAULT now(),
  backfill_id    bigint,                                  -- ingest.backfills, for a row that came out of an old file
  user_id        text        NOT NULL,
  PRIMARY KEY (user_id, id),
  CONSTRAINT trade_has_status CHECK (status <> ''),
  CONSTRAINT trade_side_is_yes_or_no CHECK (lower(side) IN ('y', 'n', 'yes', 'no')),
  CONSTRAINT trade_position_not_negative CHECK (position >= 0),
  CONSTRAINT trade_prices_are_amounts CHECK (
    buy_price >= 0 AND buy_price < 'Infinity' AND sell_price >= 0 AND sell_price < 'Infinity')
) PARTITION BY LIST (user_id);

CREATE TABLE users.active_trades (
  id                   bigint      NOT NULL,
  trade_id             bigint      NOT NULL,
  ticket_id            text,
  date                 date,
  time                 time,
  strike               numeric,
  side                 text,
  buy_price            numeric,
  position             bigint,
  contract             text,
  ticker               text,
  symbol               text,
  market               text,
  trade_strategy       text,
  symbol_open          numeric,
  momentum             numeric,
  prob                 numeric,
  fees                 numeric,
  diff                 numeric,
  current_symbol_price numeric,
  current_probability  numeric,
  buffer_from_entry    numeric,
  time_since_entry     bigint,
  current_close_price  numeric,
  current_pnl          numeric,
  last_updated         timestamptz DEFAULT now(),
  status               text        DEFAULT 'active',
  notes                text,
  created_at           timestamptz NOT NULL DEFAULT now(),
  updated_at           timestamptz NOT NULL DEFAULT now(),
  backfill_id          bigint,
  user_id              text        NOT NULL,
  PRIMARY KEY (user_id, id),
  -- The predecessor's programs delete a pending trade before its row here.
  CONSTRAINT active_trade_is_a_trade FOREIGN KEY (user_id, trade_id) REFERENCES users.trades (user_id, id)
    ON DELETE CASCADE,
  CONSTRAINT active_trade_side_is_yes_or_no CHECK (lower(side) IN ('y', 'n', 'yes', 'no')),
  CONSTRAINT active_trade_position_not_negative CHECK (position >= 0)
) PARTITION BY LIST (user_id);

CREATE TABLE users.fills (
  id           bigint      NOT NULL,
  trade_id     text        NOT NULL,           -- the venue's, one per fill
  ticker       text,
  order_id     text,
  side         text,
  action       text,                           -- buy, sell
  count        bigint,
  yes_price    numeric,
  no_price     numeric,
  is_taker     boolean,
  created_time timestamptz,
  raw_json     json,                           -- not jsonb: the text as it was, to the byte
  created_at   timestamptz NOT NULL DEFAULT now(),
  updated_at   timestamptz NOT NULL DEFAULT now(),
  backfill_id  bigint,
  user_id      text        NOT NULL,
  PRIMARY KEY (user_id, id),
  CONSTRAINT fill_side_is_yes_or_no CHECK (lower(side) IN ('y', 'n', 'yes', 'no')),
  CONSTRAINT fill_count_not_negative CHECK (count >= 0)
) PARTITION BY LIST (user_id);

CREATE TABLE users.settlements (
  id             bigint      NOT NULL,
  ticker         text        NOT NULL,
  market_result  text,
  yes_count      bigint,
  yes_total_cost numeric,
  no_count       bigint,
  no_total_cost  numeric,
  revenue        numeric,
  settled_time   timestamptz,
  raw_json       json,
  created_at     timestamptz NOT NULL DEFAULT now(),
  updated_at     timestamptz NOT NULL DEFAULT now(),
  backfill_id    bigint,
  user_id        text        NOT NULL,
  PRIMARY KEY (user_id, id),
  CONSTRAINT settlement_counts_not_negative CHECK (yes_count >= 0 AND no_count >= 0)
) PARTITION BY LIST (user_id);

CREATE TABLE users.positions (
  id              bigint      NOT NULL,
  ticker          text        NOT NULL,
  total_traded    numeric,
  position        bigint,                      -- of YES; below zero: of NO
  market_exposure numeric,
  realized_pnl    numeric,
  fees_paid       numeric,
  last_updated_ts timestamptz,
  raw_json        json,
  created_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now(),
  backfill_id     bigint,
  user_id         text        NOT NULL,
  PRIMARY KEY (user_id, id),
  CONSTRAINT position_traded_not_negative CHECK (total_traded >= 0)
) PARTITION BY LIST (user_id);

-- Trades that still wait for something: the supervisor's poll (status = 'open', 'expired' until its settlement comes)
-- and active_trades_view. A few rows of millions.
CREATE INDEX trades_open ON users.trades (status, id) WHERE status IN ('pending', 'open', 'closing', 'expired');

-- One market's trades, the newest day first.
CREATE INDEX trades_ticker_date ON users.trades (ticker, date);

-- One day's trades, and get_trade_statistics(from, to).
CREATE INDEX trades_date ON users.trades (date);

-- The trade of a ticket: what the executor's answer names.
CREATE INDEX trades_ticket_id ON users.trades (ticket_id) WHERE ticket_id IS NOT NULL;

-- The supervisor's row of a trade; the foreign key, when a trade is deleted.
CREATE INDEX active_trades_trade_id ON users.active_trades (trade_id);

-- One market's fills in their order.
CREATE INDEX fills_ticker_created_time ON users.fills (ticker, created_time);

-- The latest fills, and those since the last look.
CREATE INDEX fills_created_time ON users.fills (created_time);

-- The settlements since the last look.
CREATE INDEX settlements_settled_time ON users.settlements (settled_time);

-- Positions that are not settled: what the supervisor watches. Those of markets that are over stay with 0.
CREATE INDEX positions_open ON users.positions (ticker) WHERE position <> 0;

-- Keeps updated_at, and a row what it is: its id and its user never change.
CREATE FUNCTION users.keep_row_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.id <> OLD.id OR NEW.user_id <> OLD.user_id THEN
    RAISE EXCEPTION 'row % of user % keeps its id and its user', OLD.id, OLD.user_id
      USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'row_keeps_its_identity';
  END IF;
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END
$$;

-- A trade closes once. Old files hold closed trades without closed_at, and closed_at before date: only a change is
-- looked at, never what stands there.
CREATE FUNCTION users.keep_trade_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  over text[] := ARRAY['closed', 'expired', 'settled'];
BEGIN
  IF OLD.status = ANY (over) AND NOT NEW.status = ANY (over) THEN
    RAISE EXCEPTION 'trade % of user % is %: it cannot become %', OLD.id, OLD.user_id, OLD.status, NEW.status
      USING ERRCODE = 'check_violation', CONSTRAINT = 'trade_closes_once';
  END IF;
  IF NEW.status = ANY (over) AND NOT OLD.status = ANY (over) THEN
    NEW.closed_at := coalesce(NEW.closed_at, now());
  END IF;
  -- The hour is for clocks that disagree.
  IF NEW.closed_at IS DISTINCT FROM OLD.closed_at AND NEW.closed_at > now() + interval '1 hour' THEN
    RAISE EXCEPTION 'trade % of user % cannot close in the future, at %', OLD.id, OLD.user_id, NEW.closed_at
      USING ERRCODE = 'check_violation', CONSTRAINT = 'trade_closes_in_the_past';
  END IF;
  RETURN NEW;
END
$$;

-- BEFORE UPDATE only: nothing fires per row while a file is loaded. Triggers fire in the order of their names.
CREATE TRIGGER keep_row BEFORE UPDATE ON users.trades FOR EACH ROW EXECUTE FUNCTION users.keep_row_v1();
CREATE TRIGGER keep_trade BEFORE UPDATE ON users.trades FOR EACH ROW EXECUTE FUNCTION users.keep_trade_v1();
CREATE TRIGGER keep_row BEFORE UPDATE ON users.active_trades FOR EACH ROW EXECUTE FUNCTION users.keep_row_v1();
CREATE TRIGGER keep_row BEFORE UPDATE ON users.fills FOR EACH ROW EXECUTE FUNCTION users.keep_row_v1();
CREATE TRIGGER keep_row BEFORE UPDATE ON users.settlements FOR EACH ROW EXECUTE FUNCTION users.keep_row_v1();
CREATE TRIGGER keep_row BEFORE UPDATE ON users.positions FOR EACH ROW EXECUTE FUNCTION users.keep_row_v1();

-- Whoever comes by a parent sees the rows that a policy gives to a role of its own: each user's is made with the user.
-- Partitions carry none: they are granted to their user alone, and COPY into a table with policies is refused.
ALTER TABLE users.trades        ENABLE ROW LEVEL SECURITY;
ALTER TABLE users.active_trades ENABLE ROW LEVEL SECURITY;
ALTER TABLE users.fills         ENABLE ROW LEVEL SECURITY;
ALTER TABLE users.settlements   ENABLE ROW LEVEL SECURITY;
ALTER TABLE users.positions     ENABLE ROW LEVEL SECURITY;

-- Makes the group role of a user, as whoever of the two may: the role in force or the login behind it. False where
-- neither may: the user's tables then belong to the owner alone.
CREATE FUNCTION users.make_role_v1(role_name text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  in_force text := current_setting('role');
BEGIN
  IF to_regrole(role_name) IS NOT NULL THEN
    RETURN true;
  END IF;
  IF NOT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
    PERFORM set_config('role', 'none', true);
  END IF;
  IF (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
      -- In force when it is made a login: the predecessor's programs write New York's time without an offset.
      EXECUTE format('ALTER ROLE %I SET timezone = %L', role_name, 'America/New_York');
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL;  -- another database of this server made it at the same moment
    END;
  ELSE
    RAISE NOTICE 'role % does not exist and % may not create it: going on without it', role_name, current_user;
  END IF;
  PERFORM set_config('role', in_force, true);
  RETURN to_regrole(role_name) IS NOT NULL;
END
$$;

-- Makes one table of one user. `key` is what makes a row one and the same, beside its id.
CREATE FUNCTION users.make_leaf_v1(parent text, user_id text, key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  leaf text := parent || '_' || user_id;
  -- The predecessor's programs call setval by these names.
  ids  text := leaf || CASE parent WHEN 'trades' THEN '_id_seq1' ELSE '_id_seq' END;
BEGIN
  IF EXISTS (SELECT FROM pg_inherits WHERE inhparent = format('users.%I', parent)::regclass
                                       AND inhrelid = to_regclass(format('users.%I', leaf))) THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE users.%I (LIKE users.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)',
                 leaf, parent);
  EXECUTE format('CREATE SEQUENCE users.%I OWNED BY users.%I.id', ids, leaf);
  EXECUTE format('ALTER TABLE users.%I ALTER id SET DEFAULT nextval(%L), ALTER user_id SET DEFAULT %L',
                 leaf, format('users.%I', ids), user_id);
  EXECUTE format('CREATE UNIQUE INDEX ON users.%I (id)', leaf);  -- for ON CONFLICT (id)
  IF key IS NOT NULL THEN
    EXECUTE format('CREATE UNIQUE INDEX ON users.%I (%s) NULLS NOT DISTINCT', leaf, key);
  END IF;
  EXECUTE format('ALTER TABLE users.%I ATTACH PARTITION users.%I FOR VALUES IN (%L)', parent, leaf, user_id);
END
$$;

-- Gives one table of one user to its role, and the parent's rows of that user; to the backfill, the way in and out.
CREATE FUNCTION users.grant_leaf_v1(parent text, user_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  leaf      text := parent || '_' || user_id;
  ids       text := pg_get_serial_sequence(format('users.%I', leaf), 'id');
  role_name text := 'recio_user_' || user_id;
BEGIN
  IF to_regrole('recio_backfill') IS NOT NULL THEN
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON users.%I TO recio_backfill', leaf);
    EXECUTE format('GRANT USAGE ON SEQUENCE %s TO recio_backfill', ids);
  END IF;
  IF to_regrole(role_name) IS NULL THEN
    RETURN;
  END IF;
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON users.%I, users.%I TO %I', leaf, parent, role_name);
  EXECUTE format('GRANT USAGE, SELECT, UPDATE ON SEQUENCE %s TO %I', ids, role_name);
  IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = format('users.%I', parent)::regclass AND polname = role_name)
  THEN
    EXECUTE format('CREATE POLICY %I ON users.%I TO %I USING (user_id = %L) WITH CHECK (user_id = %L)',
                   role_name, parent, role_name, user_id, user_id);
  END IF;
END
$$;

-- Makes a user's set of tables and its role, recio_user_<id>; again, whatever of it is missing. Run by the owner, or by
-- a login that may become it.
CREATE FUNCTION users.create_user(user_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  in_force  text := current_setting('role');
  role_name text := 'recio_user_' || user_id;
  parent    text;
  key       text;
BEGIN
  IF user_id IS NULL OR user_id !~ '^[0-9a-z_]{1,16}$' THEN
    RAISE EXCEPTION 'create_user: % is no user id: 1 to 16 of 0-9, a-z and _', coalesce(quote_literal(user_id), 'NULL')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM users.make_role_v1(role_name);
  PERFORM set_config('role', (SELECT pg_get_userbyid(relowner) FROM pg_class
                               WHERE oid = 'users.trades'::regclass), true);
  FOR parent, key IN VALUES ('trades', NULL), ('active_trades', NULL), ('fills', 'trade_id'),
                            ('settlements', 'ticker, settled_time'), ('positions', 'ticker') LOOP
    PERFORM users.make_leaf_v1(parent, user_id, key);
    PERFORM users.grant_leaf_v1(parent, user_id);
  END LOOP;
  IF to_regrole(role_name) IS NOT NULL THEN
    EXECUTE format('GRANT USAGE ON SCHEMA users TO %I', role_name);
    EXECUTE format('GRANT SELECT ON users.active_trades_view, users.recent_trades_view, users.trade_performance_view
                    TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION users.update_trade_status, users.get_trade_statistics TO %I', role_name);
  END IF;
  PERFORM set_config('role', in_force, true);
END
$$;

-- After a load: each sequence of a user stands at its table's largest id, or where it was if that is further.
CREATE FUNCTION users.sync_sequences_v1(user_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  leaf    text;
  ids     text;
  largest bigint;
  behind  boolean;
BEGIN
  FOR leaf IN SELECT format('users.%I', c.relname) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
               WHERE i.inhparent IN ('users.trades'::regclass, 'users.active_trades'::regclass, 'users.fills'::regclass,
                                     'users.settlements'::regclass, 'users.positions'::regclass)
                 AND c.relname = (SELECT relname FROM pg_class p WHERE p.oid = i.inhparent) || '_' || user_id LOOP
    ids := pg_get_serial_sequence(leaf, 'id');
    EXECUTE format('SELECT max(id) FROM %s', leaf) INTO largest;
    EXECUTE format('SELECT $1 > last_value OR ($1 = last_value AND NOT is_called) FROM %s', ids)
      INTO behind USING largest;
    IF behind AND largest > 0 THEN
      PERFORM setval(ids, largest);
    END IF;
  END LOOP;
END
$$;

-- What a user's programs see. security_invoker: the policies of whoever asks, not the owner's.
CREATE VIEW users.active_trades_view WITH (security_invoker = true) AS
SELECT id, ticker, status, buy_price, position, symbol_open, momentum, entry_method, date, time, user_id
  FROM users.trades
 WHERE status IN ('pending', 'open', 'closing');

CREATE VIEW users.recent_trades_view WITH (security_invoker = true) AS
SELECT id, ticker, status, buy_price, sell_price, pnl, win_loss, date, time, closed_at, user_id
  FROM users.trades
 WHERE status IN ('closed', 'expired', 'settled')
 ORDER BY id DESC
 LIMIT 100;

CREATE VIEW users.trade_performance_view WITH (security_invoker = true) AS
SELECT count(*) AS total_trades,
       count(*) FILTER (WHERE win_loss IN ('W', 'WIN')) AS wins,
       count(*) FILTER (WHERE win_loss IN ('L', 'LOSS')) AS losses,
       avg(pnl) AS avg_pnl,
       sum(pnl) AS total_pnl
  FROM users.trades
 WHERE status IN ('closed', 'expired', 'settled');

-- Changes a trade's status, and with it whatever else is given. p_user_id is needed only by who sees several users.
CREATE FUNCTION users.update_trade_status(
  p_trade_id bigint, p_status text, p_closed_at timestamptz DEFAULT NULL, p_sell_price numeric DEFAULT NULL,
  p_symbol_close numeric DEFAULT NULL, p_win_loss text DEFAULT NULL, p_pnl numeric DEFAULT NULL,
  p_close_method text DEFAULT NULL, p_user_id text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  changed bigint;
BEGIN
  UPDATE users.trades
     SET status       = p_status,
         closed_at    = coalesce(p_closed_at, closed_at),
         sell_price   = coalesce(p_sell_price, sell_price),
         symbol_close = coalesce(p_symbol_close, symbol_close),
         win_loss     = coalesce(p_win_loss, win_loss),
         pnl          = coalesce(p_pnl, pnl),
         close_method = coalesce(p_close_method, close_method)
   WHERE id = p_trade_id AND (p_user_id IS NULL OR user_id = p_user_id);
  GET DIAGNOSTICS changed = ROW_COUNT;
  IF changed = 0 THEN
    RAISE EXCEPTION 'no trade %', p_trade_id USING ERRCODE = 'no_data_found';
  ELSIF changed > 1 THEN
    RAISE EXCEPTION '% users have a trade %: name p_user_id', changed, p_trade_id USING ERRCODE = 'too_many_rows';
  END IF;
END
$$;

-- Counts, the share of wins in percent, and profit of the trades that are over, by their date; both ends included.
CREATE FUNCTION users.get_trade_statistics(p_start_date date DEFAULT NULL, p_end_date date DEFAULT NULL)
RETURNS TABLE (total_trades bigint, wins bigint, losses bigint, win_rate numeric, avg_pnl numeric, total_pnl numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*),
         count(*) FILTER (WHERE t.win_loss IN ('W', 'WIN')),
         count(*) FILTER (WHERE t.win_loss IN ('L', 'LOSS')),
         round(100.0 * count(*) FILTER (WHERE t.win_loss IN ('W', 'WIN')) / nullif(count(*), 0), 2),
         round(avg(t.pnl), 2),
         sum(t.pnl)
    FROM users.trades t
   WHERE t.status IN ('closed', 'expired', 'settled')
     AND t.date >= coalesce(p_start_date, '-infinity') AND t.date <= coalesce(p_end_date, 'infinity')
$$;

REVOKE ALL ON SCHEMA users FROM PUBLIC;
REVOKE ALL ON FUNCTION users.keep_row_v1, users.keep_trade_v1, users.make_role_v1, users.make_leaf_v1,
  users.grant_leaf_v1, users.create_user, users.sync_sequences_v1, users.update_trade_status,
  users.get_trade_statistics FROM PUBLIC;

DO $$
BEGIN
  IF to_regrole('recio_backfill') IS NULL THEN
    RAISE NOTICE 'no roles on this server: grants are left out';
    RETURN;
  END IF;
  GRANT USAGE ON SCHEMA users TO recio_backfill;
  GRANT EXECUTE ON FUNCTION users.sync_sequences_v1 TO recio_backfill;
END
$$;

SELECT users.create_user('0001');
