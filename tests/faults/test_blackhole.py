"""The network before the database swallows every packet: found, waited out, and each row there once afterwards.

Daemon, venue and test live in one namespace, PostgreSQL in another; what the test asks the server goes by its socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.databases import build_template, execute
from harness.full import only_in_full
from harness.metrics import logged
from harness.networks import ADDRESSES, heal, inside, living_in, swallow, two_networks
from harness.oracle import check
from harness.postgres import PostgresServer
from harness.progress import commits_since, offset, scalar, settle
from harness.venue import OracleVenue
from harness.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RATE = 500
LOCK = 4711
# Within the kernel's limit for what is not acknowledged, and some for a busy machine.
NOTICED_WITHIN_S = 15.0
# An attempt to connect may have begun right before the path is whole again; the server's own limits are 20 and 30 s.
SHIPPED_WITHIN_S = 45.0
# A commit that waits for the test: it holds the lock that this trigger wants at the end of the transaction.
SLOW_COMMIT = (
    f"""CREATE FUNCTION public.wait_for_test() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END'""",
    """CREATE CONSTRAINT TRIGGER wait_for_test AFTER UPDATE ON ingest.offsets DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION public.wait_for_test()""",
)
COMMITTING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT;' AND wait_event = 'advisory'"

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


@asynccontextmanager
async def _shipping(folder: Path, server: PostgresServer) -> AsyncIterator[tuple[Daemon, OracleVenue, str]]:
    """A daemon that records and ships through the wire; yields it, its venue, and the way around the wire."""
    await execute(server.dsn(), "CREATE DATABASE blackhole")
    direct = server.dsn("blackhole")
    await build_template(direct)
    await execute(direct, *SLOW_COMMIT)
    async with OracleVenue(rate=RATE) as venue, Daemon(folder, server.tcp_dsn("blackhole"), venue) as daemon:
        await daemon.start()
        await daemon.wait_ready()
        await commits_since(direct, await offset(direct))
        yield daemon, venue, direct


async def _cut_in_commit(direct: str, cut: Callable[[], None]) -> None:
    """Cut while the server carries out a COMMIT: it succeeds, and its answer reaches nobody."""
    holder = await asyncpg.connect(direct)
    try:
        await holder.execute(f"SELECT pg_advisory_lock({LOCK})")
        await until(lambda: scalar(direct, COMMITTING), within_s=10, what="a COMMIT that waits")
        await asyncio.to_thread(cut)
    finally:
        await holder.close()


async def _cut_between(direct: str, cut: Callable[[], None]) -> None:
    """Cut where no transaction is open, as near as one can come from outside."""
    await commits_since(direct, await offset(direct))
    await asyncio.to_thread(cut)


async def _blackhole(folder: Path, server: PostgresServer, theirs: str, when: str) -> None:
    cutting = _cut_in_commit if when == "in a COMMIT" else _cut_between
    async with _shipping(folder, server) as (daemon, venue, direct):
        await cutting(direct, lambda: swallow(theirs))
        cut_s = time.monotonic()
        (line,) = await logged(daemon, "store.unavailable", within_s=150)
        noticed_s = time.monotonic() - cut_s
        assert line["fault"] == "connection"
        received = (await daemon.status())["books"]["received"]
        await asyncio.sleep(5)
        assert (await daemon.status())["books"]["received"] - received > RATE  # recording goes on
        before = await offset(direct)
        await asyncio.to_thread(heal, theirs)
        healed_s = time.monotonic()
        await commits_since(direct, before, within_s=SHIPPED_WITHIN_S)
        shipped_s = time.monotonic() - healed_s
        ledger = await settle(direct, venue, within_s=SHIPPED_WITHIN_S)
        assert await daemon.terminate() == 0
    report = await check(direct, daemon.spool, ledger)
    print(f"cut {when}: noticed after {noticed_s:.1f} s, shipped {shipped_s:.1f} s after the path was whole; {report}")
    report.assert_clean()
    assert report.declared_missing == 0
    assert len(ledger.connections) == 1  # the feed noticed nothing
    assert noticed_s <= NOTICED_WITHIN_S


async def _stop(folder: Path, server: PostgresServer, theirs: str) -> None:
    async with _shipping(folder, server) as (daemon, venue, direct):
        await _cut_in_commit(direct, lambda: swallow(theirs))
        began_s = time.monotonic()
        assert await daemon.terminate() == 0
        print(f"SIGTERM in a blackholed COMMIT: ended after {time.monotonic() - began_s:.1f} s")
        await asyncio.to_thread(heal, theirs)
        await daemon.start()
        await daemon.wait_ready(within_s=SHIPPED_WITHIN_S)
        ledger = await settle(direct, venue, within_s=SHIPPED_WITHIN_S)
        assert await daemon.terminate() == 0
    report = await check(direct, daemon.spool, ledger)
    report.assert_clean()


Life = Callable[[PostgresServer, str], Coroutine[None, None, None]]


async def _with_server(pristine: Path, label: str, life: Life) -> None:
    with two_networks(label) as (ours, theirs):
        server = PostgresServer(pristine)
        try:
            server.listen(ADDRESSES[1])
            await inside(theirs, server.start)
            await living_in(ours, lambda: life(server, theirs))
        finally:
            server.dispose()


@pytest.mark.parametrize("when", ["in a COMMIT", "between two"])
async def test_a_blackholed_database(pristine_cluster: Path, tmp_path: Path, when: str) -> None:
    """P16: packets to the database vanish: noticed, recorded on, shipped when the path is whole, each row once."""
    await _with_server(pristine_cluster, when[:2], lambda server, theirs: _blackhole(tmp_path, server, theirs, when))


@only_in_full
async def test_a_stop_meanwhile(pristine_cluster: Path, tmp_path: Path) -> None:
    """SIGTERM while a COMMIT hangs in the dark: the daemon ends in time, and the next start ships the rest, once."""
    await _with_server(pristine_cluster, "st", lambda server, theirs: _stop(tmp_path, server, theirs))
