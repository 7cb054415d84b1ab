"""The migrations: once, twice, at once, by whom, and beside the predecessor's tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from harness.databases import execute
from test_store import rows

from recio_ingest import partitions, schema, sql, store
from recio_ingest.errors import PredecessorTablesError, SchemaError
from recio_ingest.partitions import Partition
from recio_ingest.records import TABLES
from recio_ingest.store import Store

SHAPE = (
    "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"
    " WHERE table_schema IN ('ingest', 'live_data') ORDER BY 1, 2, 3"
)


async def migrate(dsn: str, *, adopt: bool = False) -> list[sql.Migration]:
    """Apply what is missing, as the program does."""
    connection = await store.connect(dsn, role=None)
    try:
        return await schema.migrate(connection, adopt=adopt)
    finally:
        await connection.close()


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the ingest role, with the program's codecs."""
    connection = await store.connect(database)
    yield connection
    await connection.close()


async def test_twice_changes_nothing(empty_database: str) -> None:
    """Every migration is applied once; applying again finds nothing to do and changes no table."""
    assert list(sql.migrations()) == await migrate(empty_database)
    shape = await rows(empty_database, SHAPE)
    assert await migrate(empty_database) == []

    assert shape == await rows(empty_database, SHAPE)


async def test_two_at_once(empty_database: str) -> None:
    """Two programs that migrate the same database together apply each migration once between them."""
    done = await asyncio.gather(*(migrate(empty_database) for _ in range(4)))

    assert len(sql.migrations()) == sum(len(applied) for applied in done)
    assert await rows(empty_database, "SELECT count(*) FROM ingest.schema_migrations") == [(len(sql.migrations()),)]


async def test_changed_migration_is_refused(database: str) -> None:
    """A migration that is not the one applied here stops everything, with its name."""
    await execute(database, "UPDATE ingest.schema_migrations SET sha256 = 'other' WHERE version = 2")
    with pytest.raises(SchemaError, match=r"migration 2 .* is not the one"):
        await migrate(database)


async def test_newer_database_is_refused(database: str) -> None:
    """A database that a newer version migrated is left alone."""
    await execute(database, "INSERT INTO ingest.schema_migrations VALUES (9999, 'future', 'x')")
    with pytest.raises(SchemaError, match="newer than this program"):
        await migrate(database)


async def test_predecessor_is_recognised_and_adopted(empty_database: str) -> None:
    """The predecessor's tables are named and untouched, until --adopt moves them aside with their rows."""
    await execute(
        empty_database,
        "CREATE SCHEMA live_data; CREATE TABLE live_data.btc_price_log (id serial PRIMARY KEY, price text);"
        "INSERT INTO live_data.btc_price_log (price) VALUES ('114250')",
        "CREATE SCHEMA users; CREATE TABLE users.trades_0001 (id int)",
    )
    with pytest.raises(PredecessorTablesError, match=r"live_data\.btc_price_log, users\.trades_0001") as refused:
        await migrate(empty_database)
    assert "--migrate --adopt" in refused.value.hint
    assert await rows(empty_database, "SELECT price FROM live_data.btc_price_log") == [("114250",)]

    await migrate(empty_database, adopt=True)
    assert await rows(empty_database, "SELECT price FROM rec_io_v2.btc_price_log") == [("114250",)]
    assert await rows(empty_database, "SELECT count(*) FROM live_data.btc_price_log") == [(0,)]


async def test_predecessors_users_are_adopted(empty_database: str) -> None:
    """The predecessor's tables of users, with views and functions on them, move aside as they are."""
    await execute(
        empty_database,
        "CREATE SCHEMA users",
        *(
            f"CREATE TABLE users.{table}_{user} (id serial PRIMARY KEY, status text)"
            for table in ("trades", "active_trades", "fills", "settlements", "positions")
            for user in ("0001", "0002")
        ),
        "INSERT INTO users.trades_0001 (status) VALUES ('open')",
        "CREATE VIEW users.active_trades_view AS SELECT id FROM users.trades_0001",
        "CREATE VIEW users.recent_trades_view AS SELECT id FROM users.trades_0001",
        "CREATE VIEW users.trade_performance_view AS SELECT count(*) FROM users.trades_0001",
        "CREATE FUNCTION users.update_trade_status(p_trade_id int, p_status text, p_closed_at text DEFAULT NULL)"
        " RETURNS void LANGUAGE sql AS 'UPDATE users.trades_0001 SET status = p_status'",
        "CREATE TABLE users.user_master (user_id text)",
    )
    with pytest.raises(PredecessorTablesError, match=r"users\.trades_0002, users\.update_trade_status\(\)"):
        await migrate(empty_database)
    await migrate(empty_database, adopt=True)

    assert await rows(empty_database, "SELECT id FROM rec_io_v2.active_trades_view") == [(1,)]
    assert await rows(empty_database, "SELECT count(*) FROM rec_io_v2.positions_0002") == [(0,)]
    assert await rows(empty_database, "SELECT * FROM users.active_trades_view") == []
    assert await rows(empty_database, "SELECT to_regclass('users.user_master')::text") == [("users.user_master",)]
    with pytest.raises(asyncpg.NoDataFoundError):
        await execute(empty_database, "SELECT users.update_trade_status(1, 'closed')")


async def test_plain_owner_without_roles(empty_database: str) -> None:
    """A login that owns its database and may make no roles can migrate and ingest all the same."""
    name = empty_database.split("@/")[1].split("?", maxsplit=1)[0]
    login = f"plain_{name}"
    await execute(empty_database, f"CREATE ROLE {login} LOGIN", f"ALTER DATABASE {name} OWNER TO {login}")
    dsn = empty_database.replace("recio@", f"{login}@")
    try:
        await migrate(dsn)
        async with store.session(dsn) as opened:
            assert (await opened.acquire("live", "spool-a", start_no=0)).epoch == 1
        assert await migrate(dsn) == []
    finally:
        await execute(empty_database, f"REASSIGN OWNED BY {login} TO recio", f"DROP OWNED BY {login}")
        await execute(empty_database, f"DROP ROLE {login}")


async def test_login_with_roles_only(database: str) -> None:
    """A NOINHERIT login with the ingest role alone ships, and is told what to do when a migration is missing."""
    login = f"daemon_{database.split('@/')[1].split('?', maxsplit=1)[0]}"
    await execute(database, f"CREATE ROLE {login} LOGIN NOINHERIT IN ROLE recio_ingest")
    dsn = database.replace("recio@", f"{login}@")
    try:
        assert await migrate(dsn) == []
        async with store.session(dsn) as opened:
            assert (await opened.acquire("live", "spool-a", start_no=0)).epoch == 1
        await execute(database, "DELETE FROM ingest.schema_migrations WHERE version = 5")
        with pytest.raises(SchemaError, match="may not apply it") as refused:
            await migrate(dsn)
        assert "recio_migrate" in refused.value.hint
    finally:
        await execute(database, f"DROP ROLE {login}")


async def test_reader_sees_and_changes_nothing(database: str) -> None:
    """The reading role may select the live tables and the books, and write neither."""
    await execute(
        database,
        "SET ROLE recio_read; SELECT count(*) FROM live_data.btc_price_log; SELECT count(*) FROM ingest.gaps",
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(database, "SET ROLE recio_read; DELETE FROM live_data.btc_price_log")


async def test_rows_match_columns(database: str) -> None:
    """Every field of every row type is a column of its table."""
    for row_type, table in TABLES.items():
        columns = await rows(
            database,
            "SELECT column_name::text FROM information_schema.columns"
            f" WHERE table_schema = 'live_data' AND table_name = '{table}'",
        )
        assert set(row_type._fields) <= {str(column) for (column,) in columns}


async def test_insert_with_contract_columns_only(database: str) -> None:
    """A program that names only the price and what it belongs to can insert; nobody has to know our columns."""
    await execute(
        database,
        'INSERT INTO live_data.btc_price_log ("timestamp", venue, symbol, price)'
        " VALUES (now(), 'coinbase', 'X', 1.50)",
    )
    assert await rows(database, "SELECT price::text FROM live_data.btc_price_log") == [("1.50",)]


async def test_partition_takes_over_from_default(database: str, connection: asyncpg.Connection) -> None:
    """A partition made late takes the rows that DEFAULT had caught for its day, and is made once."""
    now = datetime.now(UTC)
    await execute(
        database,
        "INSERT INTO live_data.btc_price_log (\"timestamp\", venue, symbol, price) VALUES (now(), 'coinbase', 'X', 1)",
    )
    today = next(partitions.daily("live_data.btc_price_log", now, 0))
    assert await Store(connection).make_partition(today, "received_at")
    assert not await Store(connection).make_partition(today, "received_at")

    assert await rows(database, f"SELECT count(*) FROM {today.name}") == [(1,)]
    assert await rows(database, "SELECT count(*) FROM live_data.btc_price_log_default") == [(0,)]


async def test_partition_bounds_are_utc(database: str, connection: asyncpg.Connection) -> None:
    """Partitions cover whole UTC days without a hole, whatever the server's time zone; how far ahead is known."""
    name = database.split("@/")[1].split("?", maxsplit=1)[0]
    await execute(database, f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    now = datetime.now(UTC)
    for wanted in partitions.daily("live_data.btc_price_log", now, 3):
        await Store(connection).make_partition(wanted, "received_at")

    until = await connection.fetchval(sql.statement("partitioned_until"), "live_data.btc_price_log")
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    assert until == int((midnight + timedelta(days=4)).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("ingest.offsets", "ingest.offsets_1"),
        ("live_data.btc_price_log", "ingest.btc_price_log_1"),
        ("live_data.btc_price_log", 'live_data.x"; DROP TABLE ingest.offsets; --'),
    ],
)
async def test_partition_function_refuses(connection: asyncpg.Connection, table: str, name: str) -> None:
    """The one function that runs with the owner's rights makes partitions of our tables, and nothing else."""
    day = Partition(table, name, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    with pytest.raises(asyncpg.PostgresError, match="refused"):
        await Store(connection).make_partition(day, "received_at")


async def test_temporary_tables_are_refused(empty_database: str) -> None:
    """Nobody but the owner of the database may make temporary tables in it."""
    await migrate(empty_database)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(empty_database, "SET ROLE recio_ingest; CREATE TEMPORARY TABLE other (id int)")


async def test_latest_price_uses_the_index(database: str) -> None:
    """The trading programs' commonest question is answered from the index."""
    plan = await rows(
        database,
        "EXPLAIN SELECT price FROM live_data.btc_price_log"
        " WHERE symbol = 'BTC-USD' ORDER BY \"timestamp\" DESC LIMIT 1",
    )
    assert any("symbol_timestamp" in str(line) for (line,) in plan)
