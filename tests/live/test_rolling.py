"""Ingest while old rows roll over and somebody reads for a long time: its latency hardly changes.

`ROLLED_ROWS` sets how many rows (the published run has 5,000,000).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.metrics import Metrics
from harness.progress import trades_stored
from harness.venue import OracleVenue
from rollover_data import count, fill, totals

from recio_ingest import upkeep
from recio_ingest.rollover import Rollover

if TYPE_CHECKING:
    from pathlib import Path

ROWS = int(os.environ.get("ROLLED_ROWS", "150000"))
RATE = 2000
BEFORE_S = 5.0
MOST_MS = 50.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(120 + ROWS / 5000)]


async def test_ingest_is_not_held_up(database: str, tmp_path: Path) -> None:
    """At 2,000 messages/s the time from arrival to commit (p99) is at most twice that without a rollover, or 50 ms."""
    await fill(database, ROWS // 4, "3 days")
    old = await count(database, "live_data")
    reader = await asyncpg.connect(database)
    try:
        async with OracleVenue(rate=RATE) as venue, Daemon(tmp_path, database, venue) as daemon:
            await daemon.start()
            await trades_stored(database, old["btc_price_log"] + RATE)
            start = await Metrics.of(daemon)
            await asyncio.sleep(BEFORE_S)
            middle = await Metrics.of(daemon)
            async with reader.transaction():
                await reader.fetch("SELECT FROM live_data.btc_price_log LIMIT 1")  # its locks last to the end
                done = await Rollover(database, 86_400, keep_raw=False, rest=upkeep.REST).run_once()
            end = await Metrics.of(daemon)
            assert await daemon.terminate() == 0
    finally:
        await reader.close()
    without, during = middle.latency_since(start, "coinbase"), end.latency_since(middle, "coinbase")
    print(f"without: {without}; during: {during}")
    assert done.troubles == []
    assert done.moved.total() == sum(old.values())
    assert during.p99_ms <= max(2 * without.p99_ms, MOST_MS)
    assert {name: number for name, number, _ in await totals(database)}["strike_history"] == ROWS // 4
