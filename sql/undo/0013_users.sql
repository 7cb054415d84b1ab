-- Every user's tables go. The roles recio_user_<id> stay, as all roles do.
\set version 13
\set tables 'users.trades users.active_trades users.fills users.settlements users.positions'
\ir check.sql

DROP VIEW users.active_trades_view, users.recent_trades_view, users.trade_performance_view;
DROP TABLE users.trades, users.active_trades, users.fills, users.settlements, users.positions;
DROP FUNCTION users.keep_row_v1, users.keep_trade_v1, users.make_role_v1, users.make_leaf_v1, users.grant_leaf_v1,
  users.create_user, users.sync_sequences_v1, users.update_trade_status, users.get_trade_statistics;

-- Unless the schema was there before, with other tables in it or of another owner.
DO $$
BEGIN
  DROP SCHEMA users;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
  RAISE NOTICE 'the schema users is not empty or not ours: it stays';
END
$$;
