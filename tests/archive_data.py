"""Rows of every kind for every table of the past, and what the tests of the archive ask of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from test_store import rows

from recio_ingest import archive, partitions, store
from recio_ingest.settings import Archive, Retention, Settings
from recio_ingest.store import Store

MONTH = datetime(2025, 7, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = ("plain", "", 'a "quote"', "two\nlines\r\n", "a,b;\tc\\d", "é漢😀", "\\N", "\\.", " blank ", "NULL", "0x1")
NUMBERS = ("0", "0.00", "1.50", "-114250.5500", "0.000000000000000001", "99999999999999999999.5", "1e3", "-0.10")
VALUES = {
    "text": TEXTS,
    "numeric": NUMBERS,
    "bigint": ("9223372036854775807", "0", "-1"),
    "integer": ("2147483647", "0", "7"),
    "jsonb": ('{"price": 1.50, "text": "a\\"b,\\n"}', "[]", "null", '"x"'),
    "timestamp with time zone": ("2025-07-04 12:00:00.000001Z", "1969-12-31 23:59:59.9Z", "2025-07-01Z"),
}


def settings(folder: Path | str) -> Settings:
    """Retention of a month, and where it goes."""
    return Settings(retention=Retention(historical_days=31), archive=Archive(dir=str(folder)))


async def fill(dsn: str, table: str, count: int = 40) -> str:
    """Make the month's partition of a table and put rows of every kind into it; return its name."""
    connection = await store.connect(dsn)
    try:
        [month] = partitions.monthly(f"historical_data.{table}", MONTH, MONTH)
        await Store(connection).make_partition(month, "timestamp")
    finally:
        await connection.close()
    connection = await asyncpg.connect(dsn)
    try:
        columns = await connection.fetch(
            "SELECT attname::text, format_type(atttypid, NULL), attnotnull FROM pg_attribute"
            " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            f"historical_data.{table}",
        )
        for n in range(count):
            values = [
                _value(str(name), str(kind), n, at, needed=needed) for at, (name, kind, needed) in enumerate(columns)
            ]
            await connection.execute(f"INSERT INTO historical_data.{table} VALUES ({', '.join(values)})")
    finally:
        await connection.close()
    return month.name


def _value(name: str, kind: str, n: int, at: int, *, needed: bool) -> str:
    if name == "timestamp":
        return f"'2025-07-0{1 + n % 9} 12:00:00.{n:06d}Z'"
    if not needed and (n + at) % 4 == 0:
        return "NULL"
    text = VALUES[kind][(n + at) % len(VALUES[kind])]
    return "'" + text.replace("'", "''") + "'"


async def held(dsn: str, table: str) -> list[str]:
    """Every row of a table as PostgreSQL's own text, all columns, trailing zeros included."""
    return [str(row) for (row,) in await rows(dsn, f"SELECT t::text FROM historical_data.{table} t ORDER BY 1")]


async def retire(dsn: str, folder: Path | str) -> archive.Pass:
    """One pass of retention."""
    return await archive.run_once(dsn, settings(folder), NOW)
