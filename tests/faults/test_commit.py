"""The connection to PostgreSQL is lost at the worst moments: behind a COMMIT, behind every message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from harness.daemon import Daemon
from harness.oracle import check
from harness.progress import commits_since, offset, settle, trades_stored
from harness.proxy import PgProxy
from harness.venue import OracleVenue

if TYPE_CHECKING:
    from pathlib import Path

    from harness.postgres import PostgresServer

RATE = 2000
SWALLOWED = 10
# More client messages than a connection sends until its first COMMIT is through.
SWEEP = 40
FAULT_WITHIN_S = 20.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(170)]


async def finish(database: str, venue: OracleVenue, daemon: Daemon) -> None:
    """Prove that not one trade is missing or twice: the feed was connected all the time."""
    ledger = await settle(database, venue)
    assert await daemon.terminate() == 0
    report = await check(database, daemon.spool, ledger)
    print(report)
    report.assert_clean()
    assert report.declared_missing == report.open_tail == 0


async def test_commit_answer_lost(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    """A COMMIT whose answer is lost is neither repeated nor forgotten."""
    async with (
        OracleVenue(rate=RATE) as venue,
        PgProxy(postgres.socket) as proxy,
        Daemon(tmp_path, proxy.dsn(database), venue) as daemon,
    ):
        await daemon.start()
        await trades_stored(database)
        for n in range(1, SWALLOWED + 1):
            await asyncio.wait_for(proxy.swallow_commit(n).wait(), FAULT_WITHIN_S)
            await commits_since(database, await offset(database))

        await finish(database, venue, daemon)
        assert proxy.counts["commits_swallowed"] == SWALLOWED


@pytest.mark.parametrize("where", ["in the stream", "from the first message on"])
async def test_cut_after_message(postgres: PostgresServer, database: str, tmp_path: Path, where: str) -> None:
    """Cutting the connection behind the k-th message loses nothing and doubles nothing, for every k."""
    async with (
        OracleVenue(rate=RATE) as venue,
        PgProxy(postgres.socket) as proxy,
        Daemon(tmp_path, proxy.dsn(database), venue) as daemon,
    ):
        await daemon.start()
        await trades_stored(database)
        for k in range(1, SWEEP + 1):
            if where == "from the first message on":
                proxy.cut()  # so that the count begins with a new connection
            await asyncio.wait_for(proxy.cut_after(k).wait(), FAULT_WITHIN_S)
            await commits_since(database, await offset(database))

        await finish(database, venue, daemon)
        assert proxy.counts["cuts"] == SWEEP
