"""A name server that is silent costs the venue whose name it should know, and nobody else, nor the daemon's end.

The daemon is real, and so is its resolver: glibc's, with a resolv.conf of its own, in a network of its own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from harness import kalshi_oracle, oracle
from harness.daemon import Daemon
from harness.full import only_in_full
from harness.kalshi_venue import KalshiOracle
from harness.metrics import Metrics, logged
from harness.networks import living_in, two_networks
from harness.progress import commits_since, market_rows_stored, offset, settle, settle_kalshi, trades_stored
from harness.resolver import Resolver, resolving, with_resolvers
from harness.venue import OracleVenue
from harness.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

HOST = "venue.test"
RATE, KALSHI_RATE = 200, 200
# No lookup is waited for: what is left is the drain, which is quick where the database is there.
STOPPED_WITHIN_S = 5.0
# A loop that waits for a lookup stands still for seconds; the rest is the machine's.
LATE_MS = 1000.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@only_in_full
async def test_a_resolver_that_hangs(database: str, tmp_path: Path) -> None:
    """W26: no name server answers: the other venue is recorded, SIGTERM ends the daemon, an answer mends it all."""
    with two_networks("dns") as (ours, _):
        await living_in(ours, lambda: _hang(database, tmp_path))


async def _hang(database: str, folder: Path) -> None:
    async with (
        resolving() as resolver,
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(folder, rate=KALSHI_RATE) as kalshi,
        Daemon(folder, database, venue, kalshi=kalshi, within=with_resolvers(folder)) as daemon,
    ):
        where = {"url": f"ws://{HOST}:{venue.port}", "rest_url": f"http://{HOST}:{venue.port}"}
        daemon.settings["feeds.coinbase"] |= where
        await venue.rest()
        await daemon.start()
        await market_rows_stored(database, 100, within_s=60)
        await _others_go_on(daemon, resolver)
        for _ in range(2):
            await _stops(daemon, resolver)
        await market_rows_stored(database, 100, within_s=60)
        resolver.answering = True
        answered_s = time.monotonic()
        await trades_stored(database, within_s=60)
        print(f"the venue's first trade {time.monotonic() - answered_s:.1f} s after the resolver answered")
        resolver.answering = False
        await commits_since(database, await offset(database))
        await venue.disconnect()
        await _stops(daemon, resolver)
        resolver.answering = True
        await commits_since(database, await offset(database))
        ledger, kalshi_ledger = await settle(database, venue, within_s=60), await settle_kalshi(database, kalshi)
        assert await daemon.terminate() == 0
    (await oracle.check(database, daemon.spool, ledger)).assert_clean()
    (await kalshi_oracle.check(database, daemon.spool, kalshi_ledger)).assert_clean()


async def _others_go_on(daemon: Daemon, resolver: Resolver) -> None:
    """Two attempts fail, of the socket and of REST's questions; the other venue's rows are as prompt as ever."""
    before = await Metrics.of(daemon)
    (line,) = (await logged(daemon, "feed.disconnected", within_s=60))[:1]
    assert (line["feed"], line["cause"]) == ("coinbase", "timeout")

    async def again() -> bool:
        return ((await Metrics.of(daemon))("reconnects_total", feed="coinbase", cause="timeout") or 0) >= 2

    await until(again, within_s=60, what="another attempt")
    latency = (await Metrics.of(daemon)).latency_since(before, "kalshi")
    print(f"meanwhile the other venue: {latency}; the resolver was asked {resolver.asked} times")
    assert latency.count
    assert latency.p99_ms < LATE_MS
    assert resolver.asked > 0


async def _stops(daemon: Daemon, resolver: Resolver) -> None:
    """SIGTERM while a lookup hangs; then the next start."""
    asked = resolver.asked
    await until(lambda: _more(resolver, asked), within_s=60, what="a lookup")
    began_s = time.monotonic()
    assert await daemon.terminate() == 0
    stopped_s = time.monotonic() - began_s
    print(f"SIGTERM while a lookup hangs: ended after {stopped_s:.1f} s")
    await daemon.start()
    assert stopped_s <= STOPPED_WITHIN_S


async def _more(resolver: Resolver, asked: int) -> bool:
    return resolver.asked > asked
