"""Frames to committed rows: reads the spool, decodes, commits, for ever, whatever the database does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from recio_ingest import metrics, momentum, store
from recio_ingest.backoff import delays
from recio_ingest.decode import Decoder, recall
from recio_ingest.errors import (
    ConfigError,
    DatabaseUnavailableError,
    MovedError,
    RecioError,
    SchemaError,
    SpoolError,
    TryLaterError,
)
from recio_ingest.faults import Fault, classify, sqlstate
from recio_ingest.records import LIVE_STREAM, Batch, Frame, Outcome, Quarantined
from recio_ingest.store import BadRow, Position, Store

log = structlog.get_logger()

# More bad rows than this in one batch are not bad rows: the table has changed under the program.
MAX_BAD_ROWS = 100
# A venue that sends nothing but garbage fills a table, not also the journal.
LOGGED_ROWS = 5
RECHECK_S = 30.0
FIRST_DELAY_S = 0.1
# A restarted database should see rows again within 5 s, and a dead one not be hammered.
MAX_DELAY_S = 2.0
MIN_BATCH_ROWS = 50
LOOK_EVERY_S = 1.0


class Source(Protocol):
    """Durable frames, in order: the spool, or a file that is replayed."""

    async def read(self, after_no: int, max_frames: int) -> list[Frame]:
        """Return the next frames after a number; an empty list is the end (a spool has none)."""
        ...

    def committed(self, frame_no: int) -> None:
        """Note that everything up to this frame is in the database."""
        ...


@dataclass(slots=True)
class Progress:
    """What the rest of the program may know of the shipper."""

    position: Position | None = None
    fault: Fault | None = None
    detail: str = ""
    schema_ready: bool = False
    committed_at_s: float = 0.0
    gaps: int = 0
    """How many gaps were opened, filled or closed since the start."""

    async def prepared(self) -> None:
        """Wait until the schema is ready, which it stays."""
        while not self.schema_ready:
            await asyncio.sleep(LOOK_EVERY_S)


class Shipper:
    """Ships one stream. `run` returns when the source ends, and raises only what another writer or a bug causes."""

    def __init__(
        self,
        source: Source,
        dsn: str,
        acquire: Callable[[Store, int], Awaitable[Position]],
        *,
        stream: str = LIVE_STREAM,
        max_rows: int = 5000,
        min_interval_s: float = 0.02,
        prepare: Callable[[], Awaitable[None]] | None = None,
        refine: Callable[[Store, Batch], Awaitable[Batch]] | None = None,
        patient: bool = True,
    ) -> None:
        self.progress = Progress()
        self._source = source
        self._dsn = dsn
        self._acquire = acquire
        self._stream = stream
        self._max_rows = self._limit = max_rows
        self._min_interval_s = min_interval_s
        self._prepare = prepare
        self._refine = refine
        self._patient = patient
        self._epoch = 0

    async def run(self) -> None:
        """Ship until the source ends. Errors of the database are waited out; the offset is read again after each."""
        pauses = delays(FIRST_DELAY_S, MAX_DELAY_S)
        while True:
            before = self.progress.committed_at_s
            try:
                await self._session()
            except TryLaterError:
                raise
            except (*store.ERRORS, SchemaError, SpoolError, MovedError) as exc:
                failed, pause_s = exc, self._failed(exc, pauses)
            else:
                return
            if not self._patient:
                raise one_shot(failed)
            if self.progress.committed_at_s != before:
                pauses = delays(FIRST_DELAY_S, MAX_DELAY_S)
            await asyncio.sleep(pause_s)

    async def _session(self) -> None:
        if self._prepare is not None and not self.progress.schema_ready:
            await self._prepare()
            self.progress.schema_ready = True
        async with store.session(self._dsn) as opened:
            position = await self._acquire(opened, self._epoch)
            self._epoch = position.epoch
            self._up(position)
            await self._ship(opened, position)

    async def _ship(self, opened: Store, position: Position) -> None:
        loop = asyncio.get_running_loop()
        decoder = await _decoder(opened, position)
        while frames := await self._source.read(position.frame_no, self._limit):
            started_s = loop.time()
            batch = decoder.decode(frames)
            if self._refine is not None:
                batch = await self._refine(opened, batch)
            decoded = batch
            position, batch = await self._commit(opened, position, batch)
            self._committed(position, batch)
            if batch is not decoded:
                decoder = await _decoder(opened, position)  # it remembers rows that no table has
            self._limit = min(self._max_rows, self._limit * 2)
            # Even a commit that took longer than the interval gives the sockets their turn.
            await asyncio.sleep(max(0.0, self._min_interval_s - (loop.time() - started_s)))

    async def _commit(self, opened: Store, position: Position, batch: Batch) -> tuple[Position, Batch]:
        """Commit; where rows are bad, find them, put them aside, and commit the rest. Two rounds, then it is us."""
        for _ in range(2):
            try:
                return await opened.commit(position, batch), batch
            except Exception as exc:
                if classify(exc) is not Fault.BAD_ROW or isinstance(exc, RecioError):
                    raise
                bad = await opened.find_bad_rows(batch, MAX_BAD_ROWS + 1)
                if not bad or len(bad) > MAX_BAD_ROWS:
                    raise SchemaError(
                        f"the database refuses more than {MAX_BAD_ROWS} rows of a batch, or all of it: {exc}",
                        hint="compare the tables with the migrations; frames wait in the spool until it is mended",
                    ) from exc
                batch = without(batch, bad)
        return await opened.commit(position, batch), batch

    def _up(self, position: Position) -> None:
        if self.progress.fault is not None or self.progress.position is None:
            log.info("store.connected", stream=self._stream, frame_no=position.frame_no, epoch=position.epoch)
        self.progress.position, self.progress.fault, self.progress.detail = position, None, ""
        metrics.DATABASE_UP.set(1)

    def _failed(self, exc: Exception, pauses: Iterator[float]) -> float:
        """Log once per change, count always; return how long to wait."""
        fault = Fault.CONFIGURATION if isinstance(exc, SchemaError) else classify(exc)
        metrics.DATABASE_UP.set(0)
        metrics.DATABASE_ERRORS.labels(sqlstate(exc) or "client").inc()
        if sqlstate(exc) == "57014" or isinstance(exc, TimeoutError):
            self._limit = max(MIN_BATCH_ROWS, self._limit // 2)
        waits = fault in (Fault.RESOURCES, Fault.CONFIGURATION)
        pause_s = RECHECK_S if waits else next(pauses)
        detail = str(exc) or type(exc).__name__
        if fault is not self.progress.fault:
            log.warning(
                "store.unavailable",
                stream=self._stream,
                fault=str(fault),
                sqlstate=sqlstate(exc),
                error=detail[:500],
                hint=getattr(exc, "hint", None) or _HINTS[fault],
            )
        self.progress.fault, self.progress.detail = fault, detail
        return pause_s

    def _committed(self, position: Position, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        self.progress.position = position
        self.progress.committed_at_s = loop.time()
        self.progress.gaps += len(batch.gaps)
        metrics.count_batch(batch)
        for bad in batch.quarantine[:LOGGED_ROWS]:
            log.warning(
                "frame.quarantined", feed=bad.feed, reason=bad.reason, frame_no=bad.frame_no, detail=bad.detail[:200]
            )
        if (more := len(batch.quarantine) - LOGGED_ROWS) > 0:
            log.warning("frame.quarantined_more", count=more, hint="all of them are in ingest.quarantine")
        self._source.committed(position.frame_no)


async def _decoder(opened: Store, position: Position) -> Decoder:
    recalled = await opened.recall(recall(), position.state)
    return Decoder(position.state, recalled, await opened.recall_prices(momentum.wanted(position.state)))


_HINTS = {
    Fault.CONNECTION: "waiting for PostgreSQL; frames wait in the spool",
    Fault.TRANSIENT: "tried again at once; frames wait in the spool",
    Fault.RESOURCES: "free disk, memory or connections of PostgreSQL; looked at again every 30 s",
    Fault.CONFIGURATION: "mend the rights or the tables (--migrate); looked at again every 30 s",
    Fault.BAD_ROW: "this is a bug: a bad row should have been put aside",
}


def one_shot(exc: BaseException) -> RecioError:
    """Return what a command that does not wait makes of an error of the database: its words and its exit code."""
    if isinstance(exc, RecioError):
        return exc
    text = str(exc) or type(exc).__name__
    if classify(exc) is Fault.CONFIGURATION:
        return ConfigError(f"the database refuses: {text}", hint="correct database.dsn or the login's rights")
    return DatabaseUnavailableError(f"the database is not available: {text}", hint="bring it back and run this again")


def without(batch: Batch, bad: list[BadRow]) -> Batch:
    """Return the batch with these rows in the quarantine, each frame's outcome changed to match."""
    refused = {(entry.row.frame_no, entry.row.row_no): entry for entry in bad}
    tables = {
        row_type: [row for row in rows if (row.frame_no, row.row_no) not in refused]
        for row_type, rows in batch.tables.items()
    }
    frames = {frame.frame_no: frame for frame in batch.frames}
    aside = [
        Quarantined(frame_no, row_no, frame.feed, frame.recv_ns // 1000, "refused", entry.why, frame.data)
        for (frame_no, row_no), entry in refused.items()
        for frame in (frames[frame_no],)
    ]
    return replace(
        batch.moved({frame_no for frame_no, _ in refused}, Outcome.QUARANTINED),
        tables={row_type: rows for row_type, rows in tables.items() if rows},
        quarantine=[*batch.quarantine, *aside],
    )
