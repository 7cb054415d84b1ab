"""Kills at random times under load: nothing accepted is lost, nothing is twice, every hole is declared."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
from harness.daemon import Daemon
from harness.databases import execute
from harness.oracle import check
from harness.progress import commits_since, offset, settle
from harness.venue import OracleVenue

if TYPE_CHECKING:
    from pathlib import Path

    from harness.postgres import PostgresServer

RATE = 2000
DAEMON_KILLS = 50
SERVER_KILLS = 20
# One kill in so many falls into the start, whatever it does there: migrating, locking, reading its offset.
START_KILLS = 5
COMMIT_WITHIN_S = 10.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(170)]


def seeded() -> random.Random:
    """Dice whose seed a failed run shows, and FAULT_SEED sets."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns()))
    print(f"seed {seed}")
    return random.Random(seed)


async def test_daemon_killed(database: str, tmp_path: Path) -> None:
    """After 50 kills of the daemon every accepted trade is one row, and every other one a declared gap."""
    dice = seeded()
    async with OracleVenue(rate=RATE) as venue, Daemon(tmp_path, database, venue) as daemon:
        for kill in range(DAEMON_KILLS):
            before = await offset(database)
            await daemon.start()
            if kill % START_KILLS:
                await commits_since(database, before)
            # The time of the kill is the fault itself; no event announces it. A start takes about a second.
            await asyncio.sleep(dice.uniform(0, 0.5 if kill % START_KILLS else 1.5))
            await daemon.kill9()

        await daemon.start()
        await daemon.wait_ready()
        ledger = await settle(database, venue)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    print(report)
    report.assert_clean()
    assert report.open_tail == 0
    assert report.declared_missing > 0  # the market went on while the daemon was dead


async def test_server_killed(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """After 20 kills of PostgreSQL not one trade is missing, and each time rows came again by themselves."""
    dice = seeded()
    await execute(private_postgres.dsn(), "CREATE DATABASE recio")
    dsn = private_postgres.dsn("recio")
    async with OracleVenue(rate=RATE) as venue, Daemon(tmp_path, dsn, venue) as daemon:
        await daemon.start()
        await daemon.wait_ready()
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

        ledger = await settle(dsn, venue)
        assert await daemon.terminate() == 0

        report = await check(dsn, daemon.spool, ledger)
    print(report)
    report.assert_clean()
    assert report.declared_missing == report.open_tail == 0
