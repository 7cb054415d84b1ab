"""Ingest while old rows roll over and somebody reads for a long time: its latency hardly changes.

`ROLLED_ROWS` sets how many rows (the published run has 5,000,000). With as many the strict figure holds as well, and
somebody reads for a minute while the rows move.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.databases import execute
from harness.metrics import Latency, Metrics
from harness.progress import trades_stored
from harness.venue import OracleVenue
from rollover_data import count, fill, totals

from recio_ingest import upkeep
from recio_ingest.rollover import Rollover

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = 5_000_000
ROWS = int(os.environ.get("ROLLED_ROWS", "150000"))
EACH = ROWS * 10 // 31  # three tables have so many, one a tenth
RATE = 2000
# Counting all those rows, to know that the daemon's are among them, has held it up.
SETTLES_S = 5.0
BEFORE_S = 20.0 if ROWS >= PUBLISHED else 5.0
READ_S = 60.0 if ROWS >= PUBLISHED else 2.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(120 + READ_S + ROWS / 5000)]


async def read(dsn: str) -> float:
    """Hold one SELECT on the parent of the prices, of rows that move under it; return for how long."""
    connection = await asyncpg.connect(dsn)
    began_s = time.monotonic()
    try:
        query = "SELECT count(*), pg_sleep($1) FROM (SELECT FROM live_data.btc_price_log LIMIT 1000) AS rows"
        await connection.fetch(query, READ_S)
    finally:
        await connection.close()
    return time.monotonic() - began_s


def check(without: Latency, during: Latency) -> None:
    """Judge by the median, as another's load on a lent core moves the 99th percentile; strictly in the full run."""
    print(f"without: {without}; during: {during}")
    assert without.count
    assert during.count
    assert during.p50_ms <= max(3 * without.p50_ms, 100)
    assert during.p99_ms <= 1000
    if ROWS >= PUBLISHED:
        assert during.p99_ms <= max(2 * without.p99_ms, 50)


async def test_ingest_is_not_held_up(database: str, tmp_path: Path) -> None:
    """At 2,000 messages/s the time from arrival to commit hardly changes, whether old rows move or not."""
    await fill(database, EACH, "3 days")
    # Or what was filled is vacuumed and written to disk while the daemon is measured alone.
    await execute(database, "VACUUM (ANALYZE)", "CHECKPOINT")
    old = await count(database, "live_data")
    async with OracleVenue(rate=RATE) as venue, Daemon(tmp_path, database, venue) as daemon:
        daemon.settings["rollover"] = {"live_window_s": 30 * 86_400}  # the one that is measured is ours
        await daemon.start()
        await trades_stored(database, old["btc_price_log"] + RATE)
        await asyncio.sleep(SETTLES_S)
        start = await Metrics.of(daemon)
        await asyncio.sleep(BEFORE_S)
        middle = await Metrics.of(daemon)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read(database))
            rolling = Rollover(database, 86_400, keep_raw=False, rest=upkeep.REST)
            done = await rolling.run_once()
        end = await Metrics.of(daemon)
        assert await daemon.terminate() == 0
    assert reading.result() >= READ_S
    assert done.troubles == []
    assert done.moved.total() == sum(old.values())
    assert {name: number for name, number, _ in await totals(database)}["strike_history"] == EACH
    check(middle.latency_since(start, "coinbase"), end.latency_since(middle, "coinbase"))
