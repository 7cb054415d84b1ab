"""A hundred times the usual rate of both venues at once: all of it becomes rows, and nobody is cut off meanwhile.

`FAULT_BURST_S` sets for how many seconds (the published run has 60).
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from harness import kalshi_oracle, oracle
from harness.daemon import Daemon
from harness.full import only_in_full
from harness.kalshi_venue import KalshiOracle
from harness.metrics import log
from harness.progress import market_rows_stored, scalar, settle, settle_kalshi, trades_stored
from harness.venue import OracleVenue
from harness.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

BURST_S = float(os.environ.get("FAULT_BURST_S", "10"))
TIMES = 100
# 8,000 and 4,000 messages/s in the burst: what two cores can send, take and store at once.
RATE, KALSHI_RATE = 80, 40
# A daemon at full load takes 122 MB (`make bench`); the rest of the burst waits in the spool or at the venue.
MOST_BYTES = 180_000_000
# As before the burst: nothing waits but what came in the last moment.
NORMAL_FRAMES, NORMAL_LAG_S = 100, 1.0
NORMAL_WITHIN_S = 60 + 5 * BURST_S

pytestmark = [pytest.mark.long, pytest.mark.timeout(240 + 12 * BURST_S)]


@dataclass
class Watch:
    """What was seen of a daemon, twice a second."""

    daemon: Daemon
    unhealthy: list[bytes] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)

    async def look(self) -> bool:
        """Look once; tell whether it is as usual."""
        code, body = await self.daemon.get("/healthz")
        status = await self.daemon.status()
        if code != 200:
            self.unhealthy.append(body + str(status["problems"]).encode())
        self.rss_bytes.append(self.daemon.rss_bytes())
        self.waiting.append(status["spool"]["pending_frames"])
        self.lags_s.append(max(feed["lag_s"] for feed in status["feeds"].values()))
        return self.waiting[-1] < NORMAL_FRAMES and self.lags_s[-1] < NORMAL_LAG_S

    async def until_normal(self) -> float:
        """Return after how many seconds it is as usual, twice in a row."""
        began_s = time.monotonic()

        async def twice() -> bool:
            return await self.look() and await self.look()

        await until(twice, within_s=NORMAL_WITHIN_S, what="the usual lag", every_s=0.2)
        return time.monotonic() - began_s


@only_in_full
async def test_a_burst(database: str, tmp_path: Path) -> None:
    """W22: nothing is shed, no connection ends, memory is bounded, health is told, and the lag is soon as before."""
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE) as kalshi,
        Daemon(tmp_path, database, venue, kalshi=kalshi) as daemon,
    ):
        await daemon.start()
        await trades_stored(database, RATE)
        await market_rows_stored(database, KALSHI_RATE)
        watch = Watch(daemon)
        await watch.until_normal()
        for each in (venue, kalshi):
            await each.burst(BURST_S, TIMES)
        ends_s = time.monotonic() + BURST_S
        while time.monotonic() < ends_s:
            await watch.look()
            await asyncio.sleep(0.5)
        normal_s = await watch.until_normal()
        ledger, kalshi_ledger = await settle(database, venue), await settle_kalshi(database, kalshi)
        assert await daemon.terminate() == 0
    report = await oracle.check(database, daemon.spool, ledger)
    kalshi_report = await kalshi_oracle.check(database, daemon.spool, kalshi_ledger)
    print(
        f"{BURST_S:.0f} s of {TIMES} times {RATE} and {KALSHI_RATE}/s: {report.rows} and {kalshi_report.rows} rows; "
        f"at most {max(watch.rss_bytes) / 1e6:.0f} MB, {max(watch.waiting)} frames waiting, "
        f"{max(watch.lags_s):.1f} s behind; as before {normal_s:.1f} s after the end"
    )
    assert [(line["event"], line["cause"]) for line in log(daemon, "feed.disconnected", "feed.paused")] == []
    report.assert_clean()
    kalshi_report.assert_clean()
    assert report.rows == ledger.count("BTC-USD") > 0.7 * RATE * TIMES * BURST_S  # a fifth are tickers
    assert kalshi_report.rows > 0.9 * KALSHI_RATE * TIMES * BURST_S
    assert report.quarantined_frames == report.declared_missing == kalshi_report.declared_missing == 0
    assert await scalar(database, "SELECT count(*) FROM ingest.gaps WHERE to_time IS NOT NULL") == 0
    assert len(ledger.connections) == len(kalshi_ledger.connections) == 1
    assert watch.unhealthy == []
    assert max(watch.rss_bytes) <= MOST_BYTES
