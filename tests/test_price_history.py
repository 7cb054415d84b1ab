"""The price history and the books of backfills: what they refuse, and who may do what."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest
from harness.databases import execute
from test_store import rows
from users_data import one

from recio_ingest import partitions, store
from recio_ingest.store import Store

TABLES = ("price_history", "momentum_history")
BACKFILL = (
    "INSERT INTO ingest.backfills (file_name, file_sha256, file_size_bytes, source_table, target, user_id,"
    " state, source_rows, inserted_rows, present_rows, quarantined_rows) VALUES "
)


def insert(table: str, moment: str, trade_id: str = "NULL", source: str = "sqlite") -> str:
    """One row at a moment, with the columns that every program must name."""
    value = "price" if table == "price_history" else "momentum"
    return (
        f'INSERT INTO historical_data.{table} (source, symbol, "timestamp", trade_id, {value})'
        f" VALUES ('{source}', 'BTC-USD', '{moment}', {trade_id}, 114250.55)"
    )


@pytest.mark.parametrize("table", TABLES)
async def test_one_row_per_key(database: str, table: str) -> None:
    """A second row of the same source, symbol, time and trade is refused, also where there is no trade."""
    await execute(database, insert(table, "2025-07-01 04:00Z"), insert(table, "2025-07-01 04:00Z", "7"))
    await execute(database, insert(table, "2025-07-01 04:00Z", source="coinbase"))
    for again in ("NULL", "7"):
        with pytest.raises(asyncpg.UniqueViolationError):
            await execute(database, insert(table, "2025-07-01 04:00Z", again))
    assert await one(database, f"SELECT count(*) FROM historical_data.{table}_default") == 3


@pytest.mark.parametrize("table", TABLES)
async def test_months(database: str, table: str) -> None:
    """The backfill's role makes a month, UTC whatever the server's zone, with the key; DEFAULT gives its rows."""
    name = await one(database, "SELECT current_database()")
    await execute(database, f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    await execute(database, insert(table, "2025-06-30 23:59:59Z"), insert(table, "2025-07-01 00:00Z"))
    connection = await store.connect(database, role="recio_backfill")
    try:
        moment = datetime(2025, 7, 1, tzinfo=UTC)
        for month in partitions.monthly(f"historical_data.{table}", moment, moment):
            assert await Store(connection).make_partition(month, "timestamp")
            assert not await Store(connection).make_partition(month, "timestamp")
    finally:
        await connection.close()

    assert await one(database, f"SELECT count(*) FROM historical_data.{table}_202507") == 1
    assert await one(database, f"SELECT count(*) FROM historical_data.{table}_default") == 1
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(database, insert(table, "2025-07-01 00:00Z"))


async def test_who_may_do_what(database: str) -> None:
    """The backfill copies in and takes out, and changes nothing; the reader reads; a user's role sees none of it."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET ROLE recio_backfill")
        await connection.copy_records_to_table(
            "price_history",
            schema_name="historical_data",
            columns=["source", "symbol", "timestamp", "price"],
            records=[("sqlite", "BTC-USD", datetime(2025, 7, 1, tzinfo=UTC), Decimal("114250.55"))],
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE historical_data.price_history SET price = 1")
        await connection.execute("RESET ROLE; SET ROLE recio_read")
        assert await connection.fetchval("SELECT price FROM historical_data.price_history") == Decimal("114250.55")
        assert await connection.fetchval("SELECT count(*) FROM ingest.backfills") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DELETE FROM historical_data.price_history")
        await connection.execute("RESET ROLE; SET ROLE recio_user_0001")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT 1 FROM historical_data.price_history")
        await connection.execute("RESET ROLE; SET ROLE recio_backfill; DELETE FROM historical_data.price_history")
    finally:
        await connection.close()


async def test_a_backfill_adds_up(database: str) -> None:
    """A load that is done must account for each row of its source, also when the backfill's own role says otherwise."""
    await execute(
        database,
        f"SET ROLE recio_backfill; {BACKFILL} ('trades.db', 'aa', 1, 'trades', 'users.trades_0001', '0001',"
        " 'running', 10, 7, 0, 0)",
    )
    with pytest.raises(asyncpg.CheckViolationError, match="rows_add_up"):
        await execute(database, "SET ROLE recio_backfill; UPDATE ingest.backfills SET state = 'done'")
    await execute(
        database,
        "SET ROLE recio_backfill; UPDATE ingest.backfills SET state = 'done', present_rows = 1, quarantined_rows = 2;"
        "INSERT INTO ingest.quarantine (stream, frame_no, feed, received_at, reason, detail, frame)"
        " VALUES ('backfill/1', 8, 'backfill', now(), 'not_a_number', 'strike', '{}')",
    )
    for column in ("source_rows", "inserted_rows", "present_rows", "quarantined_rows"):
        with pytest.raises(asyncpg.CheckViolationError):
            await execute(database, f"UPDATE ingest.backfills SET {column} = -1")
    with pytest.raises(asyncpg.CheckViolationError, match="state_is_known"):
        await execute(database, "UPDATE ingest.backfills SET state = 'lost'")


@pytest.mark.parametrize("user", ["'0001'", "NULL"])
async def test_a_file_is_loaded_once(database: str, user: str) -> None:
    """A file's table goes to a user once, until it is undone; the history of both loads stays."""
    again = f"{BACKFILL} ('trades.db', 'aa', 1, 'trades', 'users.trades_0001', {user}, 'running', 0, 0, 0, 0)"
    await execute(database, again, again.replace("'aa'", "'bb'"), again.replace("'trades',", "'active_trades',"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(database, again)
    await execute(
        database, "UPDATE ingest.backfills SET state = 'undone', undone_at = now() WHERE file_sha256 = 'aa'", again
    )

    assert await rows(database, "SELECT state FROM ingest.backfills WHERE file_sha256 = 'aa' ORDER BY backfill_id") == [
        ("undone",),
        ("undone",),
        ("running",),
    ]
