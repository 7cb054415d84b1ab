"""PostgreSQL is gone for a long time under load: memory stays flat, and everything is there afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path

import asyncpg
import pytest
from benchmarks.blaster import blaster
from benchmarks.messages import coinbase as messages
from harness.daemon import Daemon
from harness.databases import build_template, execute
from harness.full import FULL
from harness.postgres import PostgresServer
from harness.waiting import until

FRAMES = 1_200_000 if FULL else 300_000
# Ten minutes at 2,000 frames/s, compressed into less than one (without FAULT_FULL a quarter of them).
RATE = 25_000
# Beside the other tests, on two cores that are lent: 41,500 on a good day, 7,400 seen. Twice the usual load catches up.
DRAIN_AT_LEAST = 4_000
FLAT_WITHIN = 0.10
# By now queues and caches of the outage are as large as they get.
SETTLED_FRAMES = 150_000

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


async def test_long_outage(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """Memory is flat within 10 % while frames arrive without a database, then every one of them is stored."""
    await execute(private_postgres.dsn(), "CREATE DATABASE outage")
    dsn = private_postgres.dsn("outage")
    await build_template(dsn)
    async with blaster("coinbase", FRAMES, RATE) as venue, Daemon(tmp_path, dsn, venue) as daemon:  # type: ignore[arg-type]
        await daemon.start()
        await daemon.wait_ready()
        private_postgres.stop("immediate")
        rss = await outage(daemon)
        flat, highest = rss[0], max(rss)

        began_s = time.monotonic()
        waiting = (await daemon.status())["books"]["spooled"]
        await asyncio.to_thread(private_postgres.start)
        await drained(daemon)
        rate = waiting / (time.monotonic() - began_s)
        assert await daemon.terminate() == 0

    print(f"resident {flat / 1e6:.0f} MB, at most {highest / 1e6:.0f} MB; {waiting} frames drained at {rate:,.0f}/s")
    assert highest <= flat * (1 + FLAT_WITHIN)
    assert await fingerprint(dsn) == expected()
    assert rate >= DRAIN_AT_LEAST


async def outage(daemon: Daemon) -> list[int]:
    """Wait until all frames have come; return the resident memory once a second, from when it has settled."""
    rss: list[int] = []

    async def all_received() -> bool:
        status = await daemon.status()
        received: int = status["feeds"]["coinbase"]["received"]
        if received > SETTLED_FRAMES:
            assert not status["database"]["up"]
            rss.append(daemon.rss_bytes())
        books = status["books"]
        return bool(books["received"] >= FRAMES)

    await until(all_received, within_s=150, what="every frame to be in the spool", every_s=1)
    return rss


async def drained(daemon: Daemon) -> None:
    """Wait until the spool holds nothing that is not committed, but for the second's ticks."""

    async def empty() -> bool:
        status = await daemon.status()
        return bool(status["database"]["up"] and status["books"]["spooled"] < 10)

    await until(empty, within_s=200, what="the spool to drain", every_s=0.1)


async def fingerprint(dsn: str) -> tuple[int, int, str]:
    """Count, distinct ids, and a digest of all prices and sizes in order of their ids."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            "SELECT count(*), count(DISTINCT trade_id), md5(string_agg(price || ',' || size, ';' ORDER BY trade_id))"
            "  FROM live_data.btc_price_log"
        )
    finally:
        await connection.close()
    assert row is not None
    return tuple(row)


def expected() -> tuple[int, int, str]:
    """The same, from the messages that were sent."""
    trades = [json.loads(message) for message in messages(FRAMES) if b'"match"' in message]
    text = ";".join(f"{trade['price']},{trade['size']}" for trade in trades)
    return len(trades), len(trades), hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
