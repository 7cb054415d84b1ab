"""Disconnects, holes and kills at random under load of both venues, while REST is asked for what was missed.

What came by the sockets and what is declared missing are together all that was made; what REST can repair is repaired.

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
from harness.databases import fetch
from harness.kalshi_venue import KalshiOracle
from harness.progress import commits_since, offset, scalar, settle, settle_kalshi
from harness.venue import OracleVenue
from harness.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

RATE, KALSHI_RATE = 2000, 500
# Kalshi is asked market by market, 2.5 questions a second.
MARKETS = 4
STORM = int(os.environ.get("FAULT_STORM", "20"))
# Ten times as long as the runs of CI.
TIMEOUT_S = 240 + 6 * STORM
REPAIRED_WITHIN_S = 90 + 3 * STORM
REPAIRABLE = """
    (feed = 'coinbase' AND channel = 'matches' AND cause = 'sequence' OR feed = 'kalshi' AND channel = 'trade')
    AND to_time IS NOT NULL
"""
OPEN = f"SELECT count(*) FROM ingest.gaps WHERE {REPAIRABLE} AND coalesce(repaired_at, given_up_at) IS NULL"
GAPS = f"""
    SELECT feed, count(*) AS gaps, sum(recovered)::bigint AS recovered, sum(expected)::bigint AS expected,
           count(repaired_at) AS repaired, count(given_up_at) AS given_up
      FROM ingest.gaps WHERE {REPAIRABLE} GROUP BY feed ORDER BY feed
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(TIMEOUT_S)]


async def test_a_storm(database: str, tmp_path: Path) -> None:
    """Nothing accepted is lost or twice, what did not come lies in a gap, and no trade is missing in the end."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns()))
    dice, done = random.Random(seed), Counter[str]()
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE, markets=MARKETS) as kalshi,
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
        await venue.rest()
        await kalshi.rest()
        await daemon.start()
        await daemon.wait_ready()
        for _ in range(STORM):
            name = dice.choice(sorted(faults))
            await faults[name]()
            done[name] += 1
            # The time between two faults is a part of the fault; no event announces it.
            await asyncio.sleep(dice.uniform(0, 0.6))
            if dice.random() < 0.2:
                await commits_since(database, await offset(database), within_s=90)
        await killed()  # a daemon that was disconnected often waits long: this one connects at once

        await settle(database, venue)
        await settle_kalshi(database, kalshi)
        await until(
            lambda: _no_gap_left(database), within_s=REPAIRED_WITHIN_S, what="the gaps to be repaired", every_s=0.5
        )
        ledger, kalshi_ledger = await venue.ledger(), await kalshi.ledger()
        assert await daemon.terminate() == 0
    report = await oracle.check(database, daemon.spool, ledger)
    kalshi_report = await kalshi_oracle.check(database, daemon.spool, kalshi_ledger)
    gaps = [dict(row) for row in await fetch(database, GAPS)]
    print(f"seed {seed}", dict(done), *gaps, report, kalshi_report, sep="\n")
    report.assert_clean()
    kalshi_report.assert_clean()
    assert report.declared_missing == kalshi_report.declared_of["trade"] == 0  # all of them are rows
    assert kalshi_report.declared_of["ticker"] > 0  # what no REST has
    assert [gap["feed"] for gap in gaps] == ["coinbase", "kalshi"]
    assert all(gap["repaired"] == gap["gaps"] and gap["given_up"] == 0 for gap in gaps)
    assert all(gap["recovered"] >= gap["expected"] > 0 for gap in gaps)


async def _no_gap_left(dsn: str) -> bool:
    return bool(await scalar(dsn, OPEN) == 0)
