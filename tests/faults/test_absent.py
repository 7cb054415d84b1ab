"""PostgreSQL is not there when the daemon starts: it records, ends in peace, and catches up by itself later."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness.daemon import Daemon
from harness.databases import execute
from harness.oracle import check
from harness.postgres import PostgresServer
from harness.progress import settle
from harness.venue import OracleVenue
from harness.waiting import until

RECORDED = 500


async def recorded(daemon: Daemon) -> None:
    """Wait until so many frames are durable; the daemon must not call itself healthy."""

    async def enough() -> bool:
        try:
            status = await daemon.status()
        except OSError:
            return False
        assert not status["database"]["up"]
        return int(status["books"]["spooled"]) >= RECORDED

    await until(enough, within_s=20, what="frames in the spool", every_s=0.1)
    assert (await daemon.get("/readyz"))[0] == (await daemon.get("/healthz"))[0] == 503


async def test_absent_at_start(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """Frames recorded before the database was ever reached, in two runs of the daemon, are all there once it is."""
    await execute(private_postgres.dsn(), "CREATE DATABASE late")
    private_postgres.stop()
    dsn = private_postgres.dsn("late")
    async with OracleVenue(rate=500) as venue, Daemon(tmp_path, dsn, venue) as daemon:
        await daemon.start()
        await recorded(daemon)
        assert await daemon.terminate() == 0

        await daemon.start()
        await recorded(daemon)
        assert daemon.stderr.count("store.unavailable") == 2  # one line for each run, not for each attempt
        await asyncio.to_thread(private_postgres.start)
        await daemon.wait_ready()
        ledger = await settle(dsn, venue)
        assert await daemon.terminate() == 0

    report = await check(dsn, daemon.spool, ledger)
    report.assert_clean()
    assert report.open_tail == report.unshipped_frames == 0
