"""Disconnects, holes and kills at random under load of both venues: stored and declared together are all that was sent.

`FAULT_STORM` sets how many (the published run has 200), `FAULT_SEED` the dice.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from harness import kalshi_oracle, oracle
from harness.daemon import Daemon
from harness.kalshi_venue import KalshiOracle
from harness.progress import commits_since, offset, settle, settle_kalshi
from harness.venue import OracleVenue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

RATE, KALSHI_RATE = 2000, 500
STORM = int(os.environ.get("FAULT_STORM", "40"))
# Ten times as long as the runs of CI.
TIMEOUT_S = 120 + 3 * STORM

pytestmark = [pytest.mark.long, pytest.mark.timeout(TIMEOUT_S)]


async def test_a_storm(database: str, tmp_path: Path) -> None:
    """Whatever mixture comes: nothing accepted is lost or twice, and every message that is no row lies in a gap."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns()))
    dice, done = random.Random(seed), Counter[str]()
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE) as kalshi,
        Daemon(tmp_path, database, venue, kalshi=kalshi) as daemon,
    ):

        async def killed() -> None:
            await daemon.kill9()
            await daemon.start()
            await daemon.wait_ready()

        faults: dict[str, Callable[[], Awaitable[None]]] = {
            "coinbase disconnects": venue.disconnect,
            "kalshi disconnects": kalshi.disconnect,
            "coinbase loses": lambda: venue.skip(dice.randint(1, 20)),
            "kalshi loses": lambda: kalshi.skip(dice.randint(1, 20)),
            "coinbase repeats": lambda: venue.repeat(dice.randint(1, 20)),
            "killed": killed,
        }
        await daemon.start()
        await daemon.wait_ready()
        for _ in range(STORM):
            name = dice.choice(sorted(faults))
            await faults[name]()
            done[name] += 1
            # The time between two faults is a part of the fault; no event announces it.
            await asyncio.sleep(dice.uniform(0, 0.6))
            if dice.random() < 0.2:
                await commits_since(database, await offset(database))
        await killed()  # a daemon that was disconnected often waits long: this one connects at once

        ledger, kalshi_ledger = await settle(database, venue), await settle_kalshi(database, kalshi)
        assert await daemon.terminate() == 0
    report = await oracle.check(database, daemon.spool, ledger)
    kalshi_report = await kalshi_oracle.check(database, daemon.spool, kalshi_ledger)
    print(f"seed {seed}", dict(done), report, kalshi_report, sep="\n")
    report.assert_clean()
    kalshi_report.assert_clean()
    assert report.declared_missing > 0
