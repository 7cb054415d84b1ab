"""Candles of a minute follow the prices that a load brings or takes back, in the transaction that does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import asyncpg

from recio_ingest.backfill.tables import Table
from recio_ingest.records import Micros
from recio_ingest.sql import statement

MINUTE_US = 60_000_000
# Two years are a million minutes; as one call they are an hour's work without a word.
AT_ONCE = 20_000


def minutes(moments: Iterable[Micros]) -> list[Micros]:
    """Return the minutes that these moments lie in, each once, in order."""
    return sorted({moment - moment % MINUTE_US for moment in moments})


async def of_load(connection: asyncpg.Connection, leaf: str, backfill_id: int) -> list[Micros]:
    """Return the minutes that one load has prices in."""
    rows = await connection.fetch(statement("backfill_minutes").format(leaf=leaf), backfill_id)
    return [minute for (minute,) in rows]


async def refresh(connection: asyncpg.Connection, table: Table, touched: Sequence[Micros], timeout_s: float) -> None:
    """Make the candles of these minutes again, from what the table holds now."""
    fixed = dict(table.fixed)
    for start in range(0, len(touched), AT_ONCE):
        some = touched[start : start + AT_ONCE]
        sources, symbols = [fixed["source"]] * len(some), [fixed["symbol"]] * len(some)
        await connection.execute(statement("refresh_candles"), sources, symbols, some, timeout=timeout_s)
