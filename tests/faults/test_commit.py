"""The connection to PostgreSQL is lost at the worst moments: behind a COMMIT, behind every message.

Both venues are under load, so that one transaction holds the rows of both.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from harness import kalshi_oracle, oracle
from harness.daemon import Daemon
from harness.full import FULL
from harness.kalshi_venue import KalshiOracle
from harness.progress import commits_since, market_rows_stored, offset, settle, settle_kalshi, trades_stored
from harness.proxy import PgProxy
from harness.venue import OracleVenue

if TYPE_CHECKING:
    from pathlib import Path

    from harness.postgres import PostgresServer

RATE, KALSHI_RATE = 2000, 500
SWALLOWED = 10
# More client messages than a connection sends until its first COMMIT is through.
SWEEP = 40
EVERY = 1 if FULL else 4
FAULT_WITHIN_S = 20.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


async def under_load(database: str) -> None:
    """Wait until both venues' messages are rows."""
    await trades_stored(database)
    await market_rows_stored(database)


async def finish(database: str, venue: OracleVenue, kalshi: KalshiOracle, daemon: Daemon) -> None:
    """Prove that not one message is missing or twice: the feeds were connected all the time."""
    ledger, kalshi_ledger = await settle(database, venue), await settle_kalshi(database, kalshi)
    assert await daemon.terminate() == 0
    report = await oracle.check(database, daemon.spool, ledger)
    kalshi_report = await kalshi_oracle.check(database, daemon.spool, kalshi_ledger)
    print(report, kalshi_report, sep="\n")
    report.assert_clean()
    kalshi_report.assert_clean()
    assert report.declared_missing == report.open_tail == 0
    assert kalshi_report.declared_missing == kalshi_report.open_tail == 0
    assert all(kalshi_report.rows_of.values())


async def test_commit_answer_lost(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    """A COMMIT whose answer is lost is neither repeated nor forgotten."""
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE) as kalshi,
        PgProxy(postgres.socket) as proxy,
        Daemon(tmp_path, proxy.dsn(database), venue, kalshi=kalshi) as daemon,
    ):
        await daemon.start()
        await under_load(database)
        for n in range(1, SWALLOWED + 1):
            await asyncio.wait_for(proxy.swallow_commit(n).wait(), FAULT_WITHIN_S)
            await commits_since(database, await offset(database))

        await finish(database, venue, kalshi, daemon)
        assert proxy.counts["commits_swallowed"] == SWALLOWED


@pytest.mark.parametrize("where", ["in the stream", "from the first message on"])
async def test_cut_after_message(postgres: PostgresServer, database: str, tmp_path: Path, where: str) -> None:
    """Cutting the connection behind the k-th message loses nothing and doubles nothing, for every k."""
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE) as kalshi,
        PgProxy(postgres.socket) as proxy,
        Daemon(tmp_path, proxy.dsn(database), venue, kalshi=kalshi) as daemon,
    ):
        await daemon.start()
        await under_load(database)
        for k in range(1, SWEEP + 1, EVERY):
            if where == "from the first message on":
                proxy.cut()  # so that the count begins with a new connection
            await asyncio.wait_for(proxy.cut_after(k).wait(), FAULT_WITHIN_S)
            await commits_since(database, await offset(database))

        await finish(database, venue, kalshi, daemon)
        assert proxy.counts["cuts"] == SWEEP // EVERY
