"""Who sees and changes which user's rows: roles taken on, real logins, and the backfill."""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal

import asyncpg
import pytest
from harness.databases import execute
from harness.postgres import PostgresServer
from test_schema import migrate
from test_store import rows
from users_data import PARENTS, add_one_of_each, add_trade, login, one

TRADE = (1, date(2025, 7, 1), time(12), Decimal(114250), "Y", Decimal("0.97"), 5)
NAMED = ("id", "date", "time", "strike", "side", "buy_price", "position")


@pytest.fixture
async def two_users(database: str) -> str:
    """The DSN of a database in which users 0001 and 0002 have a row in each table."""
    await execute(database, "SELECT users.create_user('0002')")
    await add_one_of_each(database, "0001")
    await add_one_of_each(database, "0002")
    return database


async def test_a_users_login_sees_its_rows_only(two_users: str) -> None:
    """A login of user 0002 sees 0002's rows by the parent and by its own table, and 0001's table not at all."""
    async with login(two_users, "IN ROLE recio_user_0002") as (dsn, _):
        for parent in PARENTS:
            assert await rows(dsn, f"SELECT user_id FROM users.{parent}") == [("0002",)]
            assert await rows(dsn, f"SELECT user_id FROM users.{parent}_0002") == [("0002",)]
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await rows(dsn, f"SELECT user_id FROM users.{parent}_0001")


async def test_a_user_changes_its_rows_only(two_users: str) -> None:
    """By a parent, another user's rows are out of reach: not found, and not to be made."""
    async with login(two_users, "IN ROLE recio_user_0002") as (dsn, _):
        assert await rows(dsn, "UPDATE users.trades SET fees = 1 RETURNING user_id") == [("0002",)]
        assert await rows(dsn, "DELETE FROM users.positions RETURNING user_id") == [("0002",)]
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await execute(dsn, "INSERT INTO users.positions (id, user_id, ticker) VALUES (9, '0001', 'A')")
    assert await rows(two_users, "SELECT user_id FROM users.positions") == [("0001",)]


async def test_views_and_functions_are_the_callers(two_users: str) -> None:
    """Views and functions that the owner made show and change what the caller may, not what the owner may."""
    await add_trade(two_users, "0001", id="2", status="'closed'", pnl="5")
    await add_trade(two_users, "0002", id="2", status="'closed'", pnl="3")
    async with login(two_users, "IN ROLE recio_user_0002") as (dsn, _):
        assert await rows(dsn, "SELECT id, user_id FROM users.active_trades_view") == [(1, "0002")]
        assert await rows(dsn, "SELECT id, user_id FROM users.recent_trades_view") == [(2, "0002")]
        assert await rows(dsn, "SELECT total_pnl FROM users.trade_performance_view") == [(3,)]
        assert await one(dsn, "SELECT total_pnl FROM users.get_trade_statistics()") == 3
        await execute(dsn, "SELECT users.update_trade_status(1, 'closed')")
    assert await rows(two_users, "SELECT user_id, status FROM users.trades WHERE id = 1 ORDER BY 1") == [
        ("0001", "pending"),
        ("0002", "closed"),
    ]


async def test_who_is_no_user_sees_nothing(two_users: str) -> None:
    """Neither a stranger nor the roles that read and ingest the market see a user's rows."""
    async with login(two_users, "IN ROLE recio_read, recio_ingest") as (dsn, _):
        for table in ("trades", "trades_0001", "active_trades_view"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await rows(dsn, f"SELECT * FROM users.{table}")


async def test_a_user_makes_no_users(two_users: str) -> None:
    """A user may neither make users nor take another's place."""
    async with login(two_users, "IN ROLE recio_user_0002") as (dsn, _):
        for step in (
            "SELECT users.create_user('0003')",
            "SET ROLE recio_user_0001",
            "SELECT users.sync_sequences_v1('0001')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await execute(dsn, step)


async def test_copy_goes_into_partitions(two_users: str) -> None:
    """The backfill's role copies into a partition, and can take it out again; a user's parent refuses COPY."""
    connection = await asyncpg.connect(two_users)
    try:
        await connection.execute("DELETE FROM users.trades; DELETE FROM users.fills; SET ROLE recio_backfill")
        await connection.copy_records_to_table("trades_0001", schema_name="users", columns=NAMED, records=[TRADE])
        await connection.copy_records_to_table(
            "fills_0001", schema_name="users", columns=["trade_id"], records=[("f-9",)]
        )
        assert (
            await connection.fetchval("SELECT status || market || user_id FROM users.trades_0001")
            == "pendingKalshi0001"
        )
        assert await connection.execute("DELETE FROM users.trades_0001") == "DELETE 1"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE users.trades_0001 SET pnl = 1")
        await connection.execute("RESET ROLE; SET ROLE recio_user_0001")
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="row-level security"):
            await connection.copy_records_to_table("trades", schema_name="users", columns=NAMED, records=[TRADE])
    finally:
        await connection.close()


async def test_partitions_are_plain(database: str) -> None:
    """A partition carries no policy and nothing that fires per inserted row, the foreign key's check apart."""
    leaves = "SELECT inhrelid FROM pg_inherits WHERE inhparent::regclass::text LIKE 'users.%'"
    policies = f"SELECT count(*), bool_or(relrowsecurity) FROM pg_class WHERE relkind = 'r' AND oid IN ({leaves})"
    assert await rows(database, policies) == [(5, False)]
    fires = f"SELECT tgname FROM pg_trigger WHERE tgtype::int & 4 > 0 AND NOT tgisinternal AND tgrelid IN ({leaves})"
    assert await rows(database, fires) == []


async def test_a_database_owner_that_may_make_roles(private_postgres: PostgresServer) -> None:
    """On a new server a login with CREATEROLE that owns its database migrates and makes users with their roles."""
    await execute(private_postgres.dsn(), "CREATE ROLE daemon LOGIN CREATEROLE", "CREATE DATABASE owned OWNER daemon")
    dsn = private_postgres.dsn("owned").replace("recio@", "daemon@")
    await migrate(dsn)
    await execute(dsn, "SELECT users.create_user('0002')")
    await add_one_of_each(private_postgres.dsn("owned"), "0001")
    await add_one_of_each(private_postgres.dsn("owned"), "0002")

    async with login(private_postgres.dsn("owned"), "IN ROLE recio_user_0002") as (user, _):
        assert await rows(user, "SELECT user_id FROM users.trades") == [("0002",)]
    await execute(dsn, "ALTER ROLE recio_user_0001 LOGIN")
    user = dsn.replace("daemon@", "recio_user_0001@")
    assert await rows(user, "SELECT user_id FROM users.trades") == [("0001",)]
    assert await one(user, "SHOW timezone") == "America/New_York"


async def test_without_roles(empty_database: str) -> None:
    """A login that owns its database and may make no roles makes users all the same: their tables are its own."""
    async with login(empty_database) as (dsn, name):
        here = await one(empty_database, "SELECT current_database()")
        await execute(empty_database, f"ALTER DATABASE {here} OWNER TO {name}")
        await migrate(dsn)
        await execute(dsn, "SELECT users.create_user('norole')")
        await add_one_of_each(dsn, "norole")

        assert await rows(dsn, "SELECT user_id FROM users.trades") == [("norole",)]
        assert await one(dsn, "SELECT to_regrole('recio_user_norole')") is None
