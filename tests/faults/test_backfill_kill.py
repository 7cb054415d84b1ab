"""A backfill that is killed, or loses the answer to its COMMIT, and runs again: the same rows as without."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import backfill_child
import backfill_files as files
import pytest
from harness.proxy import PgProxy

if TYPE_CHECKING:
    from harness.postgres import PostgresServer

CHILD = Path(backfill_child.__file__)
ROWS, BATCH_ROWS = 2_000, 250
BATCHES = ROWS // BATCH_ROWS
# Every batch and fifty random moments take minutes; the short round kills at three batches and five moments.
LONG = bool(os.environ.get("BACKFILL_LONG"))
KILLED_AT = range(1, BATCHES + 1) if LONG else (1, 5, BATCHES)
MOMENTS = 50 if LONG else 5

pytestmark = [pytest.mark.long, pytest.mark.timeout(900 if LONG else 120)]


def source(folder: Path) -> Path:
    """Write a file with clean and dirty trades."""
    bad = {number: {"pnl": "n/a"} for number in range(100, ROWS, 333)} | {number: {"side": "?"} for number in (7, 1999)}
    rows = (files.trade(number, **bad.get(number, {})) for number in range(1, ROWS + 1))
    return files.write(folder / "trades.db", "trades", rows)


async def load(dsn: str, path: Path) -> asyncio.subprocess.Process:
    """Start a load."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        CHILD,
        dsn,
        path,
        path.parent / "copies",
        str(BATCH_ROWS),
        stdout=asyncio.subprocess.PIPE,
    )


async def whole(dsn: str, path: Path) -> None:
    """Load to the end."""
    process = await load(dsn, path)
    await process.communicate()
    assert process.returncode == 0


async def state(dsn: str) -> list[list[tuple[Any, ...]]]:
    """Return all that a load leaves, but for its times: rows, quarantine, books."""
    names = ", ".join(name for name in files.trade(1))
    queries = (
        f"SELECT {names}, backfill_id FROM users.trades_0001 ORDER BY id",
        "SELECT stream, frame_no, reason, detail, frame FROM ingest.quarantine ORDER BY frame_no",
        """SELECT backfill_id, state, last_rowid, source_rows, inserted_rows, present_rows, quarantined_rows
             FROM ingest.backfills""",
    )
    connection = await asyncpg.connect(dsn)
    try:
        return [[tuple(row) for row in await connection.fetch(query)] for query in queries]
    finally:
        await connection.close()


async def empty(dsn: str) -> None:
    """Take everything away, and begin to count anew."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "DELETE FROM users.trades_0001; TRUNCATE ingest.quarantine, ingest.backfills RESTART IDENTITY"
    )
    await connection.close()


@pytest.fixture
async def undisturbed(database: str, tmp_path: Path) -> list[list[tuple[Any, ...]]]:
    """What an undisturbed load leaves."""
    await whole(database, source(tmp_path))
    left = await state(database)
    assert [len(part) for part in left] == [ROWS - 8, 8, 1]
    await empty(database)
    return left


async def test_killed_at_a_batch(database: str, tmp_path: Path, undisturbed: list[list[tuple[Any, ...]]]) -> None:
    """Killed as soon as a batch is in, at each of them, and run again, a load leaves what an undisturbed one does."""
    for batches in KILLED_AT:
        process = await load(database, tmp_path / "trades.db")
        assert process.stdout is not None
        for _ in range(batches):
            assert await process.stdout.readline()
        process.kill()
        await process.communicate()
        await whole(database, tmp_path / "trades.db")
        assert await state(database) == undisturbed
        await empty(database)


async def test_killed_at_any_moment(database: str, tmp_path: Path, undisturbed: list[list[tuple[Any, ...]]]) -> None:
    """Killed again and again at random moments, a load comes to its end in the end, and leaves what it should."""
    chance = random.Random(20251102)
    for _ in range(MOMENTS):
        process = await load(database, tmp_path / "trades.db")
        assert process.stdout is not None
        if chance.random() < 0.8:
            await process.stdout.readline()
        await asyncio.sleep(chance.uniform(0, 0.1))
        if process.returncode is None:
            process.kill()
        await process.communicate()
        rows, _, books = await state(database)
        for book in books:
            assert (book[3], book[4]) == (sum(map(int, book[4:])), len(rows)), book
        if chance.random() < 0.3:
            await whole(database, tmp_path / "trades.db")
            assert await state(database) == undisturbed
            await empty(database)
    await whole(database, tmp_path / "trades.db")
    assert await state(database) == undisturbed
    # The copies of killed runs are swept away by the next.
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize("number", range(1, BATCHES + 1) if LONG else (1, 4))
async def test_the_answer_to_a_commit_is_lost(
    postgres: PostgresServer,
    database: str,
    tmp_path: Path,
    undisturbed: list[list[tuple[Any, ...]]],
    number: int,
) -> None:
    """The server has committed and the program cannot know: it reads the progress, and no row comes twice."""
    async with PgProxy(postgres.socket) as proxy:
        lost = proxy.swallow_commit(number)
        await whole(proxy.dsn(database), tmp_path / "trades.db")
        assert lost.is_set()
    assert await state(database) == undisturbed


async def test_cut_anywhere(
    postgres: PostgresServer, database: str, tmp_path: Path, undisturbed: list[list[tuple[Any, ...]]]
) -> None:
    """The connection ends behind any message: the load connects again, and goes on from what is committed."""
    for messages in range(12, 200, 7 if LONG else 47):
        async with PgProxy(postgres.socket) as proxy:
            proxy.cut_after(messages)
            await whole(proxy.dsn(database), tmp_path / "trades.db")
        assert await state(database) == undisturbed, messages
        await empty(database)


async def test_two_at_once(database: str, tmp_path: Path, undisturbed: list[list[tuple[Any, ...]]]) -> None:
    """Two loads of one file: no row comes twice, and what one leaves another run finishes."""
    both = [await load(database, tmp_path / "trades.db") for _ in range(2)]
    for process in both:
        await process.communicate()
    await whole(database, tmp_path / "trades.db")
    assert await state(database) == undisturbed
