"""The shipper: bad rows are put aside alone, trouble is waited out, and its outcome is read and never guessed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import asyncpg
import pytest
from harness.databases import execute
from harness.postgres import PostgresServer
from sources import Frames, frames, match
from structlog.testing import capture_logs
from test_store import rows

from recio_ingest import ship, store
from recio_ingest.errors import RecioError
from recio_ingest.faults import Fault
from recio_ingest.records import LIVE_STREAM, Frame
from recio_ingest.ship import Shipper
from recio_ingest.store import Position, Store

BATCH = 32
POISON = "ALTER TABLE live_data.btc_price_log ADD CONSTRAINT poison CHECK (price <> 13)"


def shipper(dsn: str, source: Sequence[Frame] | Frames, *, patient: bool = False, max_rows: int = 5000) -> Shipper:
    """A shipper of these frames into the live stream."""

    async def acquire(opened: Store, epoch: int) -> Position:
        return await opened.acquire(LIVE_STREAM, "spool-a", start_no=0, epoch=epoch)

    held = source if isinstance(source, Frames) else Frames(source)
    return Shipper(held, dsn, acquire, min_interval_s=0, patient=patient, max_rows=max_rows)


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    """Wait for something that the shipper does on its own."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_poison_at_every_position(database: str) -> None:
    """One bad row, wherever it stands in a batch, is in the quarantine with its frame, and only that row."""
    await execute(database, POISON)
    for position in range(BATCH):
        first = 1 + position * BATCH
        messages = [match(first + at, "13" if at == position else "60000.10") for at in range(BATCH)]
        await shipper(database, frames(messages, first)).run()

        assert await rows(database, "SELECT count(*) FROM live_data.btc_price_log") == [((BATCH - 1) * (position + 1),)]
        assert await rows(
            database,
            "SELECT frame_no, reason, feed, detail ~ 'poison', convert_from(frame, 'UTF8')::jsonb ->> 'price'"
            "  FROM ingest.quarantine ORDER BY 1 DESC LIMIT 1",
        ) == [(first + position, "refused", "coinbase", True, "13")]

    assert await rows(database, "SELECT count(*) FROM ingest.quarantine") == [(BATCH,)]
    assert await rows(database, "SELECT received_frames, shipped_frames, quarantined_frames FROM ingest.offsets") == [
        (BATCH * BATCH, BATCH * (BATCH - 1), BATCH)
    ]


@pytest.mark.parametrize("bad", [(0, 1), (3, 17, 31), tuple(range(0, BATCH, 2)), tuple(range(BATCH))])
async def test_several_poisonous_rows(database: str, bad: tuple[int, ...]) -> None:
    """Several bad rows of a batch, even all of them, are put aside; their neighbours are stored."""
    await execute(database, POISON)
    messages = [match(1 + at, "13" if at in bad else "60000.10") for at in range(BATCH)]
    await shipper(database, frames(messages)).run()

    stored = [(1 + at,) for at in range(BATCH) if at not in bad]
    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log ORDER BY 1") == stored
    assert await rows(database, "SELECT frame_no FROM ingest.quarantine ORDER BY 1") == [(1 + at,) for at in bad]


async def test_garbage_does_not_fill_the_journal(database: str) -> None:
    """Of many frames that are of no use a few are logged one by one, and the rest as a number; all are kept."""
    with capture_logs() as lines:
        await shipper(database, frames([{"type": "odd", "n": n} for n in range(40)])).run()

    told = [line["event"] for line in lines if line["event"].startswith("frame.")]
    assert told == ["frame.quarantined"] * 5 + ["frame.quarantined_more"]
    assert await rows(database, "SELECT count(*) FROM ingest.quarantine") == [(40,)]


async def test_too_many_bad_rows_are_a_schema_fault(database: str) -> None:
    """More than 100 bad rows in a batch stop the shipping: no row is put aside, the offset stays."""
    await execute(database, POISON)
    messages = [match(1 + at, "13") for at in range(ship.MAX_BAD_ROWS + 1)]
    shipping = shipper(database, frames(messages))
    with pytest.raises(RecioError, match="refuses more than 100 rows"):
        await shipping.run()

    assert shipping.progress.fault is Fault.CONFIGURATION
    assert await rows(database, "SELECT count(*) FROM ingest.quarantine") == [(0,)]
    assert await rows(database, "SELECT frame_no FROM ingest.offsets") == [(0,)]


async def test_hostile_text_is_kept(database: str) -> None:
    """A frame of NULs, broken UTF-8 and lone surrogates ends in the quarantine byte for byte."""
    hostile = [
        b'{"type":"match\\u0000","x":"\\ud800"}',
        b"\xff\xfe\x00",
        b'{"type":"match","trade_id":1,"time":"\\u0000"}',
    ]
    source = [frame._replace(data=data) for frame, data in zip(frames([1, 2, 3]), hostile, strict=True)]
    await shipper(database, source).run()

    assert await rows(database, "SELECT frame FROM ingest.quarantine ORDER BY frame_no") == [
        (data,) for data in hostile
    ]


async def test_permission_revoked_and_given_back(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its rights the shipper waits and says so; with them again it goes on, and nothing is lost or twice."""
    monkeypatch.setattr(ship, "RECHECK_S", 0.05)
    await execute(database, "REVOKE INSERT ON live_data.btc_price_log FROM recio_ingest")
    shipping = shipper(database, frames([match(1), match(2)]), patient=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(shipping.run())
        await until(lambda: shipping.progress.fault is Fault.CONFIGURATION)
        await execute(database, "GRANT INSERT ON live_data.btc_price_log TO recio_ingest")

    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log ORDER BY 1") == [(1,), (2,)]


async def test_column_renamed_and_back(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is gone stops the shipping; when it is back, everything is stored."""
    monkeypatch.setattr(ship, "RECHECK_S", 0.05)
    await execute(database, "ALTER TABLE live_data.btc_price_log RENAME COLUMN size TO amount")
    shipping = shipper(database, frames([match(1)]), patient=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(shipping.run())
        await until(lambda: shipping.progress.fault is Fault.CONFIGURATION)
        await execute(database, "ALTER TABLE live_data.btc_price_log RENAME COLUMN amount TO size")

    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log") == [(1,)]


async def test_missing_partition_is_no_bad_row(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a partition for them, not even DEFAULT, rows wait; they are not put aside one by one."""
    monkeypatch.setattr(ship, "RECHECK_S", 0.05)
    detach = "ALTER TABLE live_data.btc_price_log DETACH PARTITION live_data.btc_price_log_default"
    attach = "ALTER TABLE live_data.btc_price_log ATTACH PARTITION live_data.btc_price_log_default DEFAULT"
    await execute(database, detach)
    shipping = shipper(database, frames([match(1)]), patient=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(shipping.run())
        await until(lambda: shipping.progress.fault is Fault.CONFIGURATION)
        await execute(database, attach)

    assert await rows(database, "SELECT count(*) FROM ingest.quarantine") == [(0,)]
    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log") == [(1,)]


async def test_lock_is_waited_out(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long lock on the table costs time, nothing else."""
    monkeypatch.setitem(store._SETTINGS, "lock_timeout", "100")
    blocker = await asyncpg.connect(database)
    await blocker.execute("BEGIN; LOCK TABLE live_data.btc_price_log IN ACCESS EXCLUSIVE MODE")
    shipping = shipper(database, frames([match(1)]), patient=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(shipping.run())
        await until(lambda: shipping.progress.fault is Fault.TRANSIENT)
        await blocker.close()

    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log") == [(1,)]


async def test_read_only_database(database: str) -> None:
    """A standby, or a server made read-only, is a lost connection: waited out, then gone on with."""
    name = database.split("@/")[1].split("?", maxsplit=1)[0]
    await execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    shipping = shipper(database, frames([match(1)]), patient=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(shipping.run())
        await until(lambda: shipping.progress.fault is Fault.CONNECTION)
        await execute(database, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL")

    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log") == [(1,)]


async def test_backend_terminated(database: str) -> None:
    """A connection that the server cuts, again and again between batches, costs no row and doubles none."""
    count = 60
    shipping = shipper(database, frames([match(1 + at) for at in range(count)]), patient=True, max_rows=3)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(shipping.run())
        pause_s = 0.05
        while not task.done():
            await execute(
                database,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'recio-ingest' AND datname = current_database()",
            )
            await asyncio.sleep(pause_s)
            pause_s *= 1.1  # a busy machine may need longer than any fixed pause for its first batch

    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log ORDER BY 1") == [
        (1 + at,) for at in range(count)
    ]


async def test_server_restart(private_postgres: PostgresServer) -> None:
    """A database that is stopped and started is found again by itself."""
    from harness.databases import build_template  # noqa: PLC0415  # only here

    await execute(private_postgres.dsn(), "CREATE DATABASE restarted")
    dsn = private_postgres.dsn("restarted")
    await build_template(dsn)
    await asyncio.to_thread(private_postgres.stop, "immediate")
    shipping = shipper(dsn, frames([match(1)]), patient=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(shipping.run())
        await until(lambda: shipping.progress.fault is Fault.CONNECTION)
        await asyncio.to_thread(private_postgres.start)

    assert await rows(dsn, "SELECT trade_id FROM live_data.btc_price_log") == [(1,)]
