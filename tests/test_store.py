"""The offset row: who may write, from where, and that a batch is in whole or not at all."""

from __future__ import annotations

import json

import asyncpg
import pytest
from harness.databases import execute
from sources import frames, match

from recio_ingest import store
from recio_ingest.decode import Decoder
from recio_ingest.errors import FencedError, MovedError, OtherWriterError
from recio_ingest.records import LIVE_STREAM, Outcome

LONG_AGO = "UPDATE ingest.offsets SET updated_at = now() - interval '31 seconds' WHERE stream = 'live'"


async def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    """What a query answers."""
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_begins_before_its_first_frame(database: str) -> None:
    """A stream that nobody has written begins where the spool does, with epoch 1 and empty books."""
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "spool-a", start_no=99)

    assert (position.frame_no, position.epoch, position.state) == (99, 1, {})
    assert dict.fromkeys(Outcome, 0) == position.counts


async def test_commit_is_whole(database: str) -> None:
    """Offset, state, counts and rows of a batch are there together, digits and all."""
    batch = Decoder({}).decode(frames([match(7, "60000.10", "0.01000000"), match(8, "60000.1", "3")]))
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
        position = await opened.commit(position, batch)

    assert await rows(
        database, "SELECT trade_id, price::text, size::text, side, frame_no FROM live_data.btc_price_log ORDER BY 1"
    ) == [(7, "60000.10", "0.01000000", "buy", 1), (8, "60000.1", "3", "buy", 2)]
    assert await rows(database, "SELECT frame_no, received_frames, shipped_frames FROM ingest.offsets") == [(2, 2, 2)]
    ((state,),) = await rows(database, "SELECT state::text FROM ingest.offsets")
    assert json.loads(str(state)) == batch.state
    assert (position.frame_no, position.counts[Outcome.SHIPPED]) == (2, 2)


async def test_times_are_exact(database: str) -> None:
    """The venue's time and the arrival keep their microseconds and are UTC."""
    batch = Decoder({}).decode(frames([match(7, time="2026-09-21T14:13:20.123456Z")]))
    async with store.session(database) as opened:
        await opened.commit(await opened.acquire(LIVE_STREAM, "spool-a", start_no=0), batch)

    assert await rows(
        database,
        "SELECT \"timestamp\" = '2026-09-21 14:13:20.123456+00', received_at = '2026-09-21 14:13:20.123456+00'"
        "  FROM live_data.btc_price_log",
    ) == [(True, True)]


async def test_same_batch_twice(database: str) -> None:
    """A batch that is in already finds no offset row to move: nothing is added."""
    batch = Decoder({}).decode(frames([match(7)]))
    async with store.session(database) as opened:
        before = await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
        await opened.commit(before, batch)
        with pytest.raises(MovedError):
            await opened.commit(before, batch)

    assert await rows(database, "SELECT count(*) FROM live_data.btc_price_log") == [(1,)]


async def test_failed_copy_leaves_nothing(database: str) -> None:
    """A batch with a row that the table refuses leaves neither rows nor offset."""
    await execute(database, "ALTER TABLE live_data.btc_price_log ADD CONSTRAINT poison CHECK (trade_id <> 8)")
    batch = Decoder({}).decode(frames([match(7), match(8)]))
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
        with pytest.raises(asyncpg.CheckViolationError):
            await opened.commit(position, batch)

    assert await rows(database, "SELECT count(*) FROM live_data.btc_price_log") == [(0,)]
    assert await rows(database, "SELECT frame_no FROM ingest.offsets") == [(0,)]


async def test_restart_raises_the_epoch(database: str) -> None:
    """The same spool goes on where it was, and whoever held the former epoch is fenced."""
    batch = Decoder({}).decode(frames([match(7)]))
    async with store.session(database) as first, store.session(database) as second:
        old = await first.acquire(LIVE_STREAM, "spool-a", start_no=0)
        new = await second.acquire(LIVE_STREAM, "spool-a", start_no=0)
        assert (old.epoch + 1, old.frame_no) == (new.epoch, new.frame_no)
        with pytest.raises(FencedError, match="fenced"):
            await first.commit(old, batch)
        with pytest.raises(FencedError):
            await first.acquire(LIVE_STREAM, "spool-a", start_no=0, epoch=old.epoch)


async def test_reconnect_keeps_the_epoch(database: str) -> None:
    """The writer that comes back after a lost connection is the writer still."""
    async with store.session(database) as opened:
        first = await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
    async with store.session(database) as opened:
        assert first == await opened.acquire(LIVE_STREAM, "spool-a", start_no=0, epoch=first.epoch)


async def test_other_spool_is_refused(database: str) -> None:
    """Another spool may not write while the row is fresh; it may when asked to take over, or when the row is old."""
    async with store.session(database) as opened:
        await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
        with pytest.raises(OtherWriterError, match="another recio-ingest"):
            await opened.acquire(LIVE_STREAM, "spool-b", start_no=500)
        taken = await opened.acquire(LIVE_STREAM, "spool-b", start_no=500, takeover=True)
        assert (taken.frame_no, taken.epoch) == (500, 2)
        await execute(database, LONG_AGO)
        assert (await opened.acquire(LIVE_STREAM, "spool-c", start_no=900)).epoch == 3


async def test_spool_that_comes_back(database: str) -> None:
    """A spool that was taken over goes on after its own last commit: nothing of it is shipped twice."""
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
        await opened.commit(position, Decoder({}).decode(frames([match(7), match(8)])))
        await opened.acquire(LIVE_STREAM, "spool-b", start_no=500, takeover=True)
        back = await opened.acquire(LIVE_STREAM, "spool-a", start_no=0, takeover=True)

    assert back.frame_no == 2


async def test_database_gone_back_in_time(database: str) -> None:
    """A row of an earlier epoch than the writer's own is an older copy of the database: it is filled up again."""
    async with store.session(database) as opened:
        await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
        await opened.acquire(LIVE_STREAM, "spool-b", start_no=500, takeover=True)
        await execute(database, "UPDATE ingest.offsets SET spool_id = 'spool-a', epoch = 1, frame_no = 0")
        again = await opened.acquire(LIVE_STREAM, "spool-b", start_no=500, epoch=2)

    assert (again.frame_no, again.epoch) == (500, 3)


async def test_books_must_balance(database: str) -> None:
    """The database itself refuses books that do not add up."""
    async with store.session(database) as opened:
        await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
    with pytest.raises(asyncpg.CheckViolationError, match="books_balance"):
        await execute(database, "UPDATE ingest.offsets SET received_frames = received_frames + 1")


async def test_least_privilege(database: str) -> None:
    """The daemon's connection can neither drop nor truncate nor create, whoever logged in."""
    connection = await store.connect(database)
    try:
        for forbidden in (
            "DROP TABLE live_data.btc_price_log",
            "TRUNCATE live_data.btc_price_log",
            "CREATE TABLE live_data.other (id int)",
            "DELETE FROM ingest.offsets",
            "ALTER TABLE ingest.gaps ADD COLUMN other int",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()
