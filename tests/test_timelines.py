"""Candles, and live and past as one: right after late rows, and read by the months and indexes that are asked for."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.databases import execute
from sources import match
from test_replay import run, write
from test_rollover import roll
from test_store import rows
from users_data import one

from recio_ingest import months, store
from recio_ingest.records import Outcome

if TYPE_CHECKING:
    from pathlib import Path

MINUTE = "2026-07-01 12:00"
PRICE = (
    'INSERT INTO live_data.btc_price_log ("timestamp", received_at, venue, symbol, trade_id, price, size, frame_no)'
    " VALUES ('{0}Z', now() - interval '2 days', 'coinbase', 'BTC-USD', {1}, {2}, {3}, {1})"
)
CANDLES = (
    "SELECT to_char(\"timestamp\" AT TIME ZONE 'UTC', 'HH24:MI'), trades, open, high, low, close, volume, vwap"
    " FROM historical_data.price_candles_1m ORDER BY 1"
)


async def put(dsn: str, second: str, trade_id: int, price: str, size: str = "1") -> None:
    """One old live row of the minute (or of another, by `second`)."""
    await execute(dsn, PRICE.format(f"2026-07-01 {second}", trade_id, price, size))


def numbers(*values: str | None) -> tuple[Decimal | None, ...]:
    """Decimals of a candle."""
    return tuple(None if value is None else Decimal(value) for value in values)


async def test_a_candle(database: str) -> None:
    """First and last go by time, then by number; the mean is weighted; the next minute is its own."""
    for second, trade_id, price, size in (
        ("12:00:00", 12, "102", "1"),
        ("12:00:00", 11, "101", "2"),
        ("12:00:30.5", 13, "99", "1"),
        ("12:00:59.999999", 15, "100.50", "4"),
        ("12:00:59.999999", 14, "98", "0"),
        ("12:01:00", 16, "200", "1"),
    ):
        await put(database, second, trade_id, price, size)
    await roll(database)
    assert await rows(database, CANDLES) == [
        ("12:00", 5, *numbers("101", "102", "98", "100.50", "8", "100.625")),
        ("12:01", 1, *numbers("200", "200", "200", "200", "1", "200")),
    ]


async def test_late_rows_mend_the_candle(database: str) -> None:
    """What comes days later into a minute that was made is in its candle: first, last, highest and sum."""
    await put(database, "12:00:10", 2, "100")
    await roll(database)
    await put(database, "12:00:20", 3, "105", "NULL")
    await put(database, "12:00:05", 1, "90", "3")
    await roll(database)
    assert await rows(database, CANDLES) == [("12:00", 3, *numbers("90", "105", "90", "105", "4", "92.5"))]


async def test_candles_of_an_index(database: str) -> None:
    """Prices without a size give a candle without volume and mean."""
    await put(database, "12:00:10", 2, "100", "NULL")
    await roll(database)
    assert await rows(database, CANDLES) == [("12:00", 1, *numbers("100", "100", "100", "100", None, None))]


async def test_candles_follow_what_is_taken_away(database: str) -> None:
    """Made again after rows were deleted, a candle says what is left, and goes with the last row."""
    for trade_id in (1, 2):
        await put(database, f"12:00:0{trade_id}", trade_id, str(100 + trade_id))
    await roll(database)
    again = (
        f"SELECT historical_data.refresh_candles_v1(ARRAY['coinbase'], ARRAY['BTC-USD'],"
        f" ARRAY['{MINUTE}:30Z'::timestamptz])"
    )
    await execute(database, "DELETE FROM historical_data.price_history WHERE trade_id = 2", again)
    assert await rows(database, CANDLES) == [("12:00", 1, *numbers("101", "101", "101", "101", "1", "101"))]
    await execute(database, "DELETE FROM historical_data.price_history", again)
    assert await rows(database, CANDLES) == []


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("price_timeline WHERE symbol = 'BTC-USD' AND \"timestamp\" >= '2026-07-01Z' AND \"timestamp\" < '2026-07-02Z'",
         "price_history_202607"),
        ("market_timeline WHERE ticker = 'M' AND \"timestamp\" >= '2026-07-01Z' AND \"timestamp\" < '2026-07-02Z'",
         "market_history_202607"),
    ],
)  # fmt: skip
async def test_only_the_months_asked_for(database: str, query: str, read: str) -> None:
    """Of 24 months one is read (and none of the others looked at), all by an index, as are the live rows."""
    table = read.rpartition("_")[0]
    for month in range(24):
        first = f"2025-{month + 1:02d}" if month < 12 else f"2026-{month - 11:02d}"
        name = f"historical_data.{table}_{first.replace('-', '')}"
        await execute(
            database,
            f"SELECT ingest.make_partition_v1('historical_data.{table}', '{name}', 'timestamp', '{first}-01Z',"
            f" '{first}-01 00:00Z'::timestamptz + interval '1 month')",
        )
    plan = await explained(database, f"SELECT * FROM historical_data.{query}")
    assert {name for name in plan if name.startswith(table)} == {read}
    assert "Seq Scan" not in plan.values()


async def explained(dsn: str, query: str) -> dict[str, str]:
    """Return which relations a query reads, and how; an empty table is read by an index where that can be."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET enable_seqscan = off; SET timezone = 'UTC'")
        lines = [row[0] for row in await connection.fetch(f"EXPLAIN {query}")]
    finally:
        await connection.close()
    scans = [line.strip().removeprefix("->").strip() for line in lines if " on " in line]
    return {scan.partition(" on ")[2].split()[0]: scan.partition(" on ")[0].split(" using ")[0] for scan in scans}


async def test_the_latest_price_needs_no_sort(database: str) -> None:
    """The last price of a symbol, live or past, comes first out of the indexes of both."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET enable_seqscan = off")
        lines = await connection.fetch(
            "EXPLAIN SELECT price FROM historical_data.price_timeline WHERE symbol = 'BTC-USD'"
            ' ORDER BY "timestamp" DESC LIMIT 1'
        )
    finally:
        await connection.close()
    plan = "\n".join(row[0] for row in lines)
    assert "Merge Append" in plan
    assert "Sort  " not in plan


async def test_trades_of_the_past_are_known(database: str, tmp_path: Path) -> None:
    """A file that overlaps with what was rolled over adds only what is new."""
    lines: list[object] = [{"received_at": 1_790_000_000 + at, "frame": match(at)} for at in range(1, 6)]
    await run(database, write(tmp_path / "a.jsonl", lines))
    assert (await roll(database)).moved["live_data.btc_price_log"] == 5
    second = await run(database, write(tmp_path / "b.jsonl", [match(at) for at in range(4, 9)]))

    assert (second.new_rows, second.counts[Outcome.DUPLICATE]) == (3, 2)
    assert await one(database, "SELECT count(*) FROM historical_data.price_timeline") == 8


async def test_default_is_drained(database: str) -> None:
    """What a DEFAULT partition of the past caught gets its months; what is older than bitcoin stays."""
    await execute(
        database,
        'INSERT INTO historical_data.price_history (source, symbol, "timestamp", price) VALUES'
        " ('sqlite', 'BTC-USD', '2024-02-29 23:59:59Z', 1), ('sqlite', 'BTC-USD', '2024-03-01Z', 1),"
        " ('sqlite', 'BTC-USD', '1970-01-01Z', 1)",
    )
    async with store.connected(database, "recio_rollover") as connection:
        await months.drain(connection, "historical_data.price_history")
    assert await rows(
        database, "SELECT tableoid::regclass::text, count(*) FROM historical_data.price_history GROUP BY 1 ORDER BY 1"
    ) == [(f"historical_data.price_history_{part}", 1) for part in ("202402", "202403", "default")]
