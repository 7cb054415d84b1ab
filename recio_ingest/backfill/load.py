"""Loads one table of one file: reading and converting in a thread, the server's work beside it, a batch ahead.

After any error the progress row is read again and decides; a transaction whose outcome is unknown is never repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import asyncpg

from recio_ingest import store
from recio_ingest.backfill.convert import Block, Converter
from recio_ingest.backfill.door import ROLE, Batch, Door, Progress, Sorted
from recio_ingest.backfill.source import BLOCK_ROWS, Found, Source, row_bytes
from recio_ingest.errors import BadInputError, MovedError, TryLaterError
from recio_ingest.faults import Fault, classify

BATCH_ROWS = 5000
# 5000 rows of the predecessor's have 1 to 4 MB; of a MiB each they would have 5 GB.
BATCH_BYTES = 16 << 20
# A server that restarts is back in seconds; who started the command waits no longer than this.
TRIES, PAUSE_S = 8, 1.0
_PASSING = frozenset({Fault.CONNECTION, Fault.TRANSIENT})

T = TypeVar("T")
Told = Callable[[int], None]
"""Called with the number of rows of the source that are done."""


class Loading(NamedTuple):
    """What a load did, in this run and in those before it; a dry run has no `progress.backfill_id` of its own."""

    progress: Progress
    lasted_s: float


class Loader:
    """Loads one table. A transaction has the rows of whole blocks, `batch_rows` of them or BATCH_BYTES at least."""

    def __init__(self, dsn: str, source: Source, found: Found, user: str, *, batch_rows: int = BATCH_ROWS) -> None:
        self._dsn = dsn
        self._source = source
        self._found = found
        self._user = user
        self._batch_rows = batch_rows
        self._connection: asyncpg.Connection | None = None
        self._door: Door | None = None

    async def run(self, told: Told) -> Loading:
        """Load what is not loaded yet. Raises MovedError or TryLaterError where another program loads the same."""
        began_s = time.monotonic()
        try:
            progress = await self._patiently(lambda door: door.begin(self._source.snapshot))
            if progress.state in {"running", "failed"}:
                progress = await self._all(progress, told)
                await self._patiently(lambda door: door.end(progress))
                progress = progress._replace(state="done")
        except MovedError as exc:
            raise TryLaterError(str(exc), hint="let the other one end, then run this again") from exc
        finally:
            self._cut()
        return Loading(progress, time.monotonic() - began_s)

    async def try_out(self, told: Told) -> tuple[Progress, Counter[str]]:
        """Convert everything and write nothing; return the counts as they would be, and the reasons."""
        done = Progress(0, "dry run", None, 0, 0, 0, 0)
        reasons: Counter[str] = Counter()
        try:
            door = await self._opened()
            there = await door.there()
            # Trades of this file that are not in yet are missed by nobody: references are not looked at.
            async for batch in self._batches(None):
                found = await door.sort(batch, None, refers=False) if there else _unsorted(batch)
                done = _moved(done, batch, found)
                reasons.update(bad.reasons[0][0] for bad in found.bad)
                told(done.rows)
        finally:
            self._cut()
        return done, reasons

    async def _all(self, progress: Progress, told: Told) -> Progress:
        try:
            async for batch in self._batches(progress.last_rowid):
                progress = await self._put(progress, batch)
                told(progress.rows)
        except BadInputError:
            await self._patiently(lambda door: door.fail(progress))
            raise
        return progress

    async def _put(self, progress: Progress, batch: Batch) -> Progress:
        """Commit one batch, whatever it takes short of repeating one whose outcome is unknown."""
        trial = 0

        async def put(door: Door) -> Progress:
            nonlocal trial
            trial += 1
            try:
                if trial == 1 or not (now := await door.read(progress)).holds(batch):
                    await door.make_months(batch)
                    found = await door.sort(batch, progress.backfill_id)
                    now = await self._commit(door, progress, batch, found)
            except MovedError:
                # The commit whose answer was lost may have ended only now.
                now = await door.read(progress)
                if trial == 1 or not now.holds(batch):
                    raise
            return now

        return await self._patiently(put)

    async def _patiently(self, work: Callable[[Door], Awaitable[T]]) -> T:
        """Do something that may be done twice; where the connection is lost, connect again and do it again.

        Raises at once where there was no connection yet: whoever gives a wrong address wants to know.
        """
        for trial in range(1, TRIES + 1):
            try:
                return await work(await self._opened())
            except store.ERRORS as exc:
                known = self._door is not None
                self._cut()
                if not known or classify(exc) not in _PASSING or trial == TRIES:
                    raise
                await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")

    @staticmethod
    async def _commit(door: Door, progress: Progress, batch: Batch, found: Sorted) -> Progress:
        try:
            return await door.commit(progress, batch, found)
        except Exception as exc:
            if classify(exc) is not Fault.BAD_ROW or isinstance(exc, MovedError):
                raise
        # Keys that came since the table was empty are known now; what is refused still is a row's own fault.
        door.looks = True
        found = await door.sort(batch, progress.backfill_id)
        found = await door.find_refused(batch, found, progress.backfill_id)
        return await door.commit(progress, batch, found)

    async def _batches(self, after_rowid: int | None) -> AsyncIterator[Batch]:
        """Yield the batches, the next one being read and converted while one is in hand."""
        batches = self._read(after_rowid)
        ahead = asyncio.create_task(asyncio.to_thread(next, batches, None), name="read ahead")
        try:
            while (batch := await ahead) is not None:
                ahead = asyncio.create_task(asyncio.to_thread(next, batches, None), name="read ahead")
                yield batch
        finally:
            # A thread cannot be stopped; the file must not be closed under it.
            await asyncio.wait([ahead])

    def _read(self, after_rowid: int | None) -> Iterator[Batch]:
        found = self._found
        main = Converter(found.table, found.names, found.declared, found.folds)
        second = found.table.companion
        more = Converter(second, found.names, found.declared, found.folds) if second is not None else None
        batch, size_bytes = _empty(more), 0
        for rows in self._source.blocks(found, after_rowid):
            batch, grown_bytes = _grown(batch, rows, main, more)
            size_bytes += grown_bytes
            if batch.rows >= self._batch_rows or size_bytes >= BATCH_BYTES:
                yield batch
                batch, size_bytes = _empty(more), 0
        if batch.rows:
            yield batch

    async def _opened(self) -> Door:
        if self._connection is None or self._connection.is_closed():
            self._connection = await store.connect(self._dsn, role=ROLE)
            looks = self._door is None or self._door.looks
            self._door = Door(self._connection, self._found, self._user)
            self._door.looks = looks
        assert self._door is not None
        return self._door

    def _cut(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _empty(more: Converter | None) -> Batch:
    return Batch(0, Block([], [], [], [], []), None if more is None else [])


def _grown(batch: Batch, rows: list[tuple[Any, ...]], main: Converter, more: Converter | None) -> tuple[Batch, int]:
    """Convert the next block of rows into the batch; return that, and by how many bytes it grew."""
    block = main.convert(rows)
    if more is not None and batch.derived is not None:
        # A row whose price or derived columns cannot be used is not used at all.
        derived = more.convert(block.rows)
        if derived.bad:
            unusable = {bad.row[0] for bad in derived.bad}
            bad = block.bad + derived.bad
            block = main.convert([row for row in block.rows if row[0] not in unusable])
            block.bad.extend(sorted(bad, key=lambda each: each.row[0]))
        batch.derived.extend(derived.fields)
    batch.block.add(block)
    # The fields of a full block tell its size; large rows, and bad ones, can be far larger than their fields.
    full = len(rows) >= BLOCK_ROWS and not block.bad
    return batch._replace(last_rowid=rows[-1][0]), sum(map(len, block.fields) if full else map(row_bytes, rows))


def _unsorted(batch: Batch) -> Sorted:
    return Sorted(list(range(len(batch.block.keys))), [], 0, list(batch.block.bad))


def _moved(done: Progress, batch: Batch, found: Sorted) -> Progress:
    return done._replace(
        rows=done.rows + batch.rows,
        inserted=done.inserted + len(found.new),
        present=done.present + found.present,
        quarantined=done.quarantined + len(found.bad),
    )
