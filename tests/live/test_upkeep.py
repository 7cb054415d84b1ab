"""The daemon rolls over beside ingest: rows move and none is lost, doubled or other than it would have been."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness.daemon import Daemon
from harness.databases import fresh_database, run_program
from harness.kalshi_live import Venue, at
from harness.metrics import Metrics, log
from harness.progress import scalar
from harness.spool import segments
from harness.venue import OracleVenue
from harness.waiting import until
from rollover_data import LIVE, PAST, count, totals

from recio_ingest.moves import CANDLES

if TYPE_CHECKING:
    from harness.postgres import PostgresServer

ROLLING = (sys.executable, str(Path(__file__).parents[1] / "rolling_child.py"))
RATE = 300
# Of the simulated venue: forty of its seconds a second, from just before an hour, so that markets open, close, settle.
HOUR_S, BEFORE_S = 90.0, 200
KILLS = 3
BETWEEN_S = 5.0
# Of every minute that has rows of the past: whether its candle is made of all of them.
CANDLE_DIFFERS = f"""
SELECT count(*) FROM (SELECT source, symbol, date_trunc('minute', "timestamp", 'UTC') AS minute, count(*) AS trades
                        FROM historical_data.price_history GROUP BY 1, 2, 3) AS p
  FULL JOIN {CANDLES} AS c ON (c.source, c.symbol, c."timestamp") = (p.source, p.symbol, p.minute)
 WHERE p.trades IS DISTINCT FROM c.trades
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


async def moving(dsn: str) -> None:
    """Wait until more slices of both busy tables have moved."""
    query = "SELECT count(*) FROM ingest.rollovers WHERE source_table = 'live_data.' || $1"

    async def slices() -> list[int]:
        return [int(await scalar(dsn, query, table) or 0) for table in LIVE[:2]]

    before = await slices()

    async def look() -> bool:
        return all(now > then for now, then in zip(await slices(), before, strict=True))

    await until(look, within_s=60, what="slices to move", every_s=0.05)


async def told(daemon: Daemon) -> None:
    """Wait until a whole pass was told: what left each busy table, and that no row is in a DEFAULT partition."""
    tables = [f"live_data.{name}" for name in LIVE] + [f"historical_data.{name}" for name in PAST]

    async def look() -> bool:
        metrics = await Metrics.of(daemon)
        left = [metrics("rollover_rows_total", table=table) for table in LIVE[:2]]
        outside = {metrics("default_partition_rows", table=table) for table in tables}
        return all(left) and outside == {0} and (metrics("rollover_last_success_timestamp_seconds") or 0) > began_s

    began_s = time.time()
    await until(look, within_s=60, what="a whole pass to be told", every_s=0.1)


async def test_rows_move_while_they_come(
    postgres: PostgresServer, template: str, database: str, tmp_path: Path
) -> None:
    """Killed -9 again and again while its rows move: live and past together are what the spool gives in one go.

    Each start recalls what has rolled over: momentum, ladder, descriptions and duplicates are those of one run.
    """
    start_s = int(time.time()) // 3600 * 3600 - BEFORE_S
    async with (
        OracleVenue(rate=RATE) as coinbase,
        Venue(hour_s=HOUR_S, start_s=start_s) as kalshi,
        Daemon(tmp_path, database, coinbase, kalshi=at(kalshi, tmp_path), within=ROLLING) as daemon,
    ):
        for _ in range(KILLS):
            await daemon.start()
            await daemon.wait_ready()
            await asyncio.sleep(BETWEEN_S)
            await moving(database)
            await daemon.kill9()
        await daemon.start()
        await daemon.wait_ready()
        await told(daemon)
        assert await daemon.terminate() == 0

    assert log(daemon, "rollover.failed", "rollover.known_otherwise", "frame.quarantined") == []
    live, past = await count(database, "live_data"), await count(database, "historical_data")
    print(f"live: {live}; past: {past}")
    assert all(live[table] for table in ("btc_price_log", "websocket_market_data"))
    assert all(past.values())
    assert await scalar(database, f"SELECT count(*) FROM {CANDLES}")
    assert await scalar(database, CANDLE_DIFFERS) == 0

    async with fresh_database(postgres, template) as again:
        code, output = await run_program(again, tmp_path, "--replay", *segments(daemon.spool), within_s=120)
        assert code == 0, output
        assert await totals(database) == await totals(again)
