"""A rollover that is cut off, killed or watched at any statement: each row is in one place, at every moment."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import asyncpg
from harness.databases import PROGRAM, build_template, execute
from harness.proxy import PgProxy
from rollover_data import LIVE, TOTALS, count, fill, totals

from recio_ingest.moves import MOVES
from recio_ingest.rollover import Pass, Rollover

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from harness.postgres import PostgresServer

    from recio_ingest.moves import Move

DAY_S = 86_400.0
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'recio-ingest'"
)

# Of the third slice of three.
KNOWN = """
INSERT INTO historical_data.price_history ("timestamp", received_at, created_at, trade_id, frame_no, row_no, source,
                                           symbol, side, price, volume, best_bid, best_ask)
SELECT "timestamp", received_at, received_at, trade_id, frame_no, row_no, venue, symbol, side, price, size, best_bid,
       best_ask FROM live_data.btc_price_log WHERE frame_no = 5
"""


def rolling(dsn: str, moves: Sequence[Move] = MOVES) -> Rollover:
    """A rollover with two or three slices per table of 60 rows."""
    return Rollover(dsn, DAY_S, keep_raw=False, slice_rows=25, moves=moves)


async def message(proxy: PgProxy, number: int) -> None:
    """Wait for the client's so many-th message from now on."""
    goal = proxy.counts["client_messages"] + number
    while proxy.counts["client_messages"] < goal:
        await asyncio.sleep(0)


async def finished(work: Awaitable[Pass]) -> bool:
    """Return whether the pass had no trouble."""
    async with asyncio.timeout(60):
        troubles = (await work).troubles
        print(*troubles, sep="\n")
        return not troubles


async def test_cut_after_every_statement(database: str, postgres: PostgresServer) -> None:
    """Whatever message the connection is lost behind, nothing is lost or twice, and the next pass goes on.

    A statement is four messages or more; every third message finds each.
    """
    cuts = 0
    async with PgProxy(postgres.socket) as proxy:
        for step in range(int(os.environ.get("FAULT_FIRST", "1")), 1000, int(os.environ.get("FAULT_EVERY", "3"))):
            await fill(database, 60)
            before = await totals(database)
            lost = proxy.cut_after(step)
            whole = await finished(rolling(proxy.dsn(database), MOVES[:1]).run_once())
            assert await totals(database) == before, step
            if whole:
                break
            cuts += 1
            assert lost.is_set()
        assert not lost.is_set()
    print(f"{cuts} cuts, the last behind message {step}")
    assert cuts > 25
    assert (await count(database, "live_data"))["btc_price_log"] == 0


async def test_cut_where_a_row_is_there_already(database: str, postgres: PostgresServer) -> None:
    """The same where a slice has to be moved a second time, with care, as one of its rows was there before."""
    cuts = 0
    async with PgProxy(postgres.socket) as proxy:
        for step in range(1, 1000, int(os.environ.get("FAULT_EVERY", "5"))):
            await fill(database, 60)
            before = await totals(database)
            await execute(database, KNOWN)
            twice = await totals(database)
            assert twice != before
            proxy.cut_after(step)
            whole = await finished(rolling(proxy.dsn(database), MOVES[:1]).run_once())
            assert await totals(database) in (before, twice), step
            assert await finished(rolling(database, MOVES[:1]).run_once())
            assert await totals(database) == before, step
            if whole:
                break
            cuts += 1
    print(f"{cuts} cuts, the last behind message {step}")
    assert cuts > 15
    assert (await count(database, "live_data"))["btc_price_log"] == 0


async def test_backend_terminated(database: str, postgres: PostgresServer) -> None:
    """The server ends the connection after any message: the same."""
    connection = await asyncpg.connect(database)
    ended = 0
    try:
        async with PgProxy(postgres.socket) as proxy:
            for step in range(30, 400, int(os.environ.get("FAULT_EVERY", "30"))):
                await fill(database, 60)
                before = await totals(database)
                async with asyncio.TaskGroup() as tasks:
                    rolls = tasks.create_task(finished(rolling(proxy.dsn(database)).run_once()))
                    watch = tasks.create_task(message(proxy, step))
                    await asyncio.wait({rolls, watch}, return_when=asyncio.FIRST_COMPLETED)
                    watch.cancel()
                    await connection.fetch(TERMINATE)
                    ended += not await rolls
                assert await totals(database) == before, step
    finally:
        await connection.close()
    assert ended > 5


async def test_process_killed(database: str, postgres: PostgresServer, tmp_path: Path) -> None:
    """`kill -9` of --rollover behind any message: the same; the next run moves the rest."""
    killed = 0
    async with PgProxy(postgres.socket) as proxy:
        environment = {
            "HOME": str(tmp_path),
            "RECIO_STATE_DIR": str(tmp_path),
            "RECIO_DATABASE__DSN": proxy.dsn(database),
        }
        for step in range(80, 320, 60):
            await fill(database, 60)
            before = await totals(database)
            process = await asyncio.create_subprocess_exec(
                PROGRAM, "--rollover", env=environment, stdout=asyncio.subprocess.DEVNULL
            )
            ending, watch = asyncio.ensure_future(process.wait()), asyncio.ensure_future(message(proxy, step))
            async with asyncio.timeout(60):
                await asyncio.wait({ending, watch}, return_when=asyncio.FIRST_COMPLETED)
                watch.cancel()
                if process.returncode is None:
                    process.kill()
                killed += await ending == -9
            assert await totals(database) == before, step
    assert killed >= 2
    await finished(rolling(database).run_once())
    assert await count(database, "live_data") == dict.fromkeys(LIVE, 0)


async def watched(dsn: str, isolation: str, done: Callable[[], bool]) -> int:
    """Read live and past as one again and again; return how often. Within a snapshot, twice the same."""
    connection = await asyncpg.connect(dsn)
    reads, first = 0, None
    try:
        while not done():
            async with connection.transaction(isolation=isolation, readonly=True):
                for _ in range(2):
                    seen = await connection.fetch(TOTALS)
                    twice = await connection.fetch(
                        'SELECT source, symbol, trade_id, "timestamp" FROM historical_data.price_timeline'
                        " GROUP BY 1, 2, 3, 4 HAVING count(*) > 1"
                    )
                    first = first or seen
                    assert (seen, twice) == (first, [])
                    reads += 1
    finally:
        await connection.close()
    return reads


async def test_readers_see_each_row_once(database: str) -> None:
    """Readers at READ COMMITTED and REPEATABLE READ find every row once, all the while rows move under them."""
    await fill(database, 3000)
    ended = False

    async def roll() -> None:
        nonlocal ended
        try:
            # Twice: the second pass finds nothing, and drops nothing that a reader may still see.
            mover = rolling(database)
            assert await finished(mover.run_once())
            assert await finished(mover.run_once())
        finally:
            ended = True

    async with asyncio.TaskGroup() as tasks:
        readers = [
            tasks.create_task(watched(database, isolation, lambda: ended))
            for isolation in ("read_committed", "repeatable_read")
        ]
        tasks.create_task(roll())
    assert min(reader.result() for reader in readers) >= 4
    assert await count(database, "live_data") == dict.fromkeys(LIVE, 0)


async def test_server_killed(private_postgres: PostgresServer) -> None:
    """A server that falls in the middle comes back with each row in one place, though it kept commits in memory."""
    await execute(private_postgres.dsn(), "CREATE DATABASE recio")
    dsn = private_postgres.dsn("recio")
    await build_template(dsn)
    await fill(dsn, 6000)
    before = await totals(dsn)
    for _ in range(3):
        work = asyncio.ensure_future(rolling(dsn).run_once())
        await asyncio.sleep(0.3)
        private_postgres.kill()
        await work
        private_postgres.start()
        assert await totals(dsn) == before
    assert sum((await count(dsn, "live_data")).values()) > 0
