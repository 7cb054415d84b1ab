"""Kills at random times under load of both venues: nothing is lost, nothing is twice, every hole is declared."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
from harness import kalshi_oracle, oracle
from harness.daemon import Daemon
from harness.databases import execute
from harness.full import FULL
from harness.kalshi_venue import KalshiOracle
from harness.progress import commits_since, market_rows_stored, offset, settle, settle_kalshi
from harness.venue import OracleVenue

if TYPE_CHECKING:
    from pathlib import Path

    from harness.postgres import PostgresServer

RATE, KALSHI_RATE = 2000, 500
DAEMON_KILLS = 50 if FULL else 10
SERVER_KILLS = 20 if FULL else 5
# One kill in so many falls into the start, whatever it does there: migrating, locking, reading its offset.
START_KILLS = 5
COMMIT_WITHIN_S = 10.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


def seeded() -> random.Random:
    """Dice whose seed a failed run shows, and FAULT_SEED sets."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns()))
    print(f"seed {seed}")
    return random.Random(seed)


async def judged(
    dsn: str, venue: OracleVenue, kalshi: KalshiOracle, daemon: Daemon
) -> tuple[oracle.Report, kalshi_oracle.KalshiReport]:
    """Let the last messages become rows, end the daemon in peace, and judge both venues' rows."""
    ledger, kalshi_ledger = await settle(dsn, venue), await settle_kalshi(dsn, kalshi)
    assert await daemon.terminate() == 0
    report = await oracle.check(dsn, daemon.spool, ledger)
    kalshi_report = await kalshi_oracle.check(dsn, daemon.spool, kalshi_ledger)
    print(report, kalshi_report, sep="\n")
    report.assert_clean()
    kalshi_report.assert_clean()
    assert report.open_tail == kalshi_report.open_tail == 0
    return report, kalshi_report


async def test_daemon_killed(database: str, tmp_path: Path) -> None:
    """After 50 kills of the daemon every accepted message is one row, and every other one in a declared gap."""
    dice = seeded()
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE) as kalshi,
        Daemon(tmp_path, database, venue, kalshi=kalshi) as daemon,
    ):
        for kill in range(DAEMON_KILLS):
            before = await offset(database)
            await daemon.start()
            if kill % START_KILLS:
                await commits_since(database, before)
                await kalshi.live("ticker", "trade")
            # The time of the kill is the fault itself; no event announces it. A start takes about a second.
            await asyncio.sleep(dice.uniform(0, 0.5 if kill % START_KILLS else 1.5))
            await daemon.kill9()

        await daemon.start()
        await daemon.wait_ready()
        report, kalshi_report = await judged(database, venue, kalshi, daemon)

    # The markets went on while the daemon was dead.
    assert report.declared_missing > 0
    assert all(kalshi_report.declared_of.values())


async def test_server_killed(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """After 20 kills of PostgreSQL not one message is missing, and each time rows came again by themselves."""
    dice = seeded()
    await execute(private_postgres.dsn(), "CREATE DATABASE recio")
    dsn = private_postgres.dsn("recio")
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE) as kalshi,
        Daemon(tmp_path, dsn, venue, kalshi=kalshi) as daemon,
    ):
        await daemon.start()
        await daemon.wait_ready()
        await market_rows_stored(dsn)
        done, longest_s = await commits_since(dsn, 0), 0.0
        for _ in range(SERVER_KILLS):
            await asyncio.sleep(dice.uniform(0, 0.5))
            private_postgres.kill()
            await asyncio.sleep(dice.uniform(0, 0.5))
            private_postgres.start()
            # A commit just before the kill is no sign of life, so look again before waiting.
            ready_at, done = time.monotonic(), max(done, await offset(dsn))
            done = await commits_since(dsn, done, within_s=COMMIT_WITHIN_S)
            longest_s = max(longest_s, time.monotonic() - ready_at)
        print(f"longest time from ready to commit: {longest_s:.2f} s")
        report, kalshi_report = await judged(dsn, venue, kalshi, daemon)
    assert report.declared_missing == kalshi_report.declared_missing == 0
