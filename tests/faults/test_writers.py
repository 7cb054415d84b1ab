"""Two daemons never write the same stream: one is refused with a clear word, or the other is fenced."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from harness.daemon import Daemon
from harness.databases import execute
from harness.oracle import check
from harness.progress import commits_since, offset, scalar, settle, trades_stored
from harness.venue import OracleVenue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TRY_LATER = 75
ANSWER_WITHIN_S = 20.0
EPOCH = "SELECT epoch FROM ingest.offsets WHERE stream = 'live'"


@pytest.fixture
async def venue() -> AsyncIterator[OracleVenue]:
    """A venue of moderate speed."""
    async with OracleVenue(rate=500) as venue:
        yield venue


@pytest.fixture
async def first(tmp_path: Path, database: str, venue: OracleVenue) -> AsyncIterator[Daemon]:
    """A daemon that has committed already."""
    async with Daemon(tmp_path / "first", database, venue) as daemon:
        await daemon.start()
        await daemon.wait_ready()
        await trades_stored(database)
        yield daemon


async def finish(database: str, venue: OracleVenue, daemon: Daemon, *, whole_spool: bool = True) -> None:
    """Prove that the second daemon did no harm."""
    ledger = await settle(database, venue)
    assert await daemon.terminate() == 0
    (await check(database, daemon.spool, ledger, whole_spool=whole_spool)).assert_clean()


async def test_same_spool(first: Daemon, database: str, venue: OracleVenue) -> None:
    """A second daemon on the same spool is refused, and the first goes on undisturbed."""
    async with Daemon(first.folder, database, venue) as second:
        await second.start()
        assert await second.wait_exit(ANSWER_WITHIN_S) == TRY_LATER
        assert re.search("another .*spool", second.stderr, re.IGNORECASE)

    await commits_since(database, await offset(database))
    await finish(database, venue, first)


async def test_same_database(first: Daemon, tmp_path: Path, database: str, venue: OracleVenue) -> None:
    """A second daemon with another spool is refused before it touches anything."""
    epoch = await scalar(database, EPOCH)
    async with Daemon(tmp_path / "second", database, venue) as second:
        await second.start()
        assert await second.wait_exit(ANSWER_WITHIN_S) == TRY_LATER
        assert re.search("another .*database", second.stderr, re.IGNORECASE)
        assert "--takeover" in second.stderr  # what the operator can do about it

    assert await scalar(database, EPOCH) == epoch
    await commits_since(database, await offset(database))
    await finish(database, venue, first)


async def test_takeover(first: Daemon, tmp_path: Path, database: str, venue: OracleVenue) -> None:
    """The daemon that takes over fences the other, which says so and ends; no row is twice."""
    async with Daemon(tmp_path / "second", database, venue) as second:
        await second.start("--takeover")
        assert await first.wait_exit(ANSWER_WITHIN_S) == TRY_LATER
        assert re.search("took over|fenced", first.stderr, re.IGNORECASE)

        await second.wait_ready()
        await commits_since(database, await offset(database))
        await finish(database, venue, second, whole_spool=False)


LONG_AGO = "UPDATE ingest.offsets SET updated_at = now() - interval '31 seconds' WHERE stream = 'live'"


async def test_refused_daemon_leaves_nothing(first: Daemon, tmp_path: Path, database: str, venue: OracleVenue) -> None:
    """A daemon that may not write has recorded nothing that could be shipped later."""
    async with Daemon(tmp_path / "second", database, venue) as second:
        await second.start()
        assert await second.wait_exit(ANSWER_WITHIN_S) == TRY_LATER
        assert list(second.spool.glob("*.db")) == []

    await finish(database, venue, first)


async def test_copied_spool_is_refused(first: Daemon, tmp_path: Path, database: str, venue: OracleVenue) -> None:
    """A copy of the spool, as a cloned machine has it, is not taken for the spool: the original goes on undisturbed."""
    assert await first.terminate() == 0
    shutil.copytree(first.state_dir, tmp_path / "second" / "state")
    await first.start()
    await commits_since(database, await offset(database))
    async with Daemon(tmp_path / "second", database, venue) as second:
        await second.start()
        assert await second.wait_exit(ANSWER_WITHIN_S) == TRY_LATER
        assert "another spool" in second.stderr

    await finish(database, venue, first)


async def test_spool_cut_short(first: Daemon, database: str, venue: OracleVenue) -> None:
    """A spool that lost what the database has already goes on behind it: nothing new is skipped, nothing doubled."""
    assert await first.terminate() == 0
    for path in first.spool.glob("*.db"):
        path.unlink()
    before = await offset(database)
    await execute(database, LONG_AGO)
    await first.start()
    await first.wait_ready()
    await commits_since(database, before)

    await finish(database, venue, first, whole_spool=False)
    assert await offset(database) > before
