"""Retention: months of history that are old enough become files, and are dropped once the files have been proven.

Per month: written from one snapshot, made durable, read back into PostgreSQL and compared, noted in `ingest.archives`,
and dropped, if it still holds the same. Killed anywhere, the next pass does the rest; a finished file is used again.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import NamedTuple

import asyncpg
import structlog

from recio_ingest import metrics, parquet, restore, store
from recio_ingest.errors import BadInputError, RecioError
from recio_ingest.faults import classify
from recio_ingest.parquet import Column, Manifest, Writer
from recio_ingest.records import micros
from recio_ingest.settings import Settings
from recio_ingest.sql import statement

log = structlog.get_logger()

EVERY_S = 3_600.0
# A reader may be gone in a second; so is the daemon's own maker of months, which starts when this does.
DROP_ATTEMPTS, DROP_RETRY_S = 5, 1.0
# 8 MiB of a table, some 60,000 rows: what is in memory at a time, a few times over, and a good size of a row group.
SLICE_PAGES = 1_024


class Pass(NamedTuple):
    """What one pass did; `waiting` are months that are due and still there."""

    archived: int
    dropped: int
    waiting: int


async def keep(dsn: str, settings: Settings) -> None:
    """Run a pass an hour, for ever; whatever one runs into is logged, there is a next, and the feeds go on."""
    while True:
        try:
            done = await run_once(dsn, settings, datetime.now(UTC))
        except Exception as exc:  # noqa: BLE001  # the daemon records; what is old can wait
            _log_failure(exc)
        else:
            metrics.RETENTION_WAITING.set(done.waiting)
        await asyncio.sleep(EVERY_S)


def _log_failure(exc: Exception, **where: str) -> None:
    if isinstance(exc, (*store.ERRORS, RecioError)):
        log.warning("archive.interrupted", fault=str(classify(exc)), error=str(exc)[:300], retry_s=EVERY_S, **where)
    else:
        log.error("archive.failed", exc_info=exc, retry_s=EVERY_S, **where)


async def run_once(dsn: str, settings: Settings, now: datetime) -> Pass:
    """Archive and drop every month that retention lets go now; what one runs into does not keep the others.

    Raises what the database or the disk raises before the first month, or when a connection that was lost is not to be
    had again.
    """
    before = now - timedelta(days=settings.retention.historical_days)
    connection = await store.connect(dsn, role=restore.ROLE)
    try:
        due = await connection.fetch(statement("due_partitions"), micros(before))
        if not due or not await connection.fetchval(statement("one_archiver")):
            return Pass(0, 0, len(due))
        if not settings.archive.dir:
            log.error(
                "archive.nowhere",
                months=len(due),
                oldest=due[0]["partition_name"],
                hint="retention.historical_days is set and archive.dir is not: nothing is dropped that no file holds",
            )
            return Pass(0, 0, len(due))
        folder = Path(settings.archive.dir)
        folder.mkdir(parents=True, exist_ok=True)
        done: list[bool] = []
        for month in due:
            if connection.is_closed():
                connection = await store.connect(dsn, role=restore.ROLE)
                if not await connection.fetchval(statement("one_archiver")):
                    break
            try:
                done.append(await _retire(connection, folder, month))
            except Exception as exc:  # noqa: BLE001  # a month that cannot be archived is kept, and tried again
                _log_failure(exc, partition=month["partition_name"])
        return Pass(len(done), sum(done), len(due) - sum(done))
    finally:
        connection.terminate()  # also where a snapshot is open; nothing is in flight that was not committed


async def _retire(connection: asyncpg.Connection, folder: Path, month: asyncpg.Record) -> bool:
    """Archive one month and drop it; return whether it is gone."""
    path = await _write(connection, folder, month)
    manifest = await restore.try_out(connection, path)
    archive_id = await connection.fetchval(statement("note_archive"), *restore.entry(manifest, path))
    name, rows = month["partition_name"], manifest.rows
    log.info("archive.written", partition=name, rows=rows, file=path.name, size_bytes=manifest.size_bytes)
    for attempt in range(DROP_ATTEMPTS):
        await asyncio.sleep(DROP_RETRY_S if attempt else 0.0)
        try:
            dropped = await connection.fetchval(statement("drop_archived"), archive_id, timeout=restore.WHOLE_MONTH_S)
        except asyncpg.LockNotAvailableError:
            continue
        if dropped:
            log.info("archive.dropped", partition=name, rows=rows)
        else:
            log.info("archive.outdated", partition=name, retry_s=EVERY_S)
        return bool(dropped)
    log.info("archive.busy", partition=name, retry_s=EVERY_S)
    return False


async def _write(connection: asyncpg.Connection, folder: Path, month: asyncpg.Record) -> Path:
    """Write a month as it is in one snapshot, unless a file has it already; return the file."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(statement("idle_patience"))
        manifest = await _describe(connection, month)
        path, there = await restore.in_thread(_place, folder, manifest)
        if not there:
            writer = await restore.in_thread(Writer, path, manifest.columns)
            try:
                await _copy(connection, manifest, writer)
                await restore.in_thread(writer.finish, manifest)
            finally:
                writer.abandon()
    return path


async def _describe(connection: asyncpg.Connection, month: asyncpg.Record) -> Manifest:
    name = month["partition_name"]
    columns = []
    for column, kind in await connection.fetch(statement("relation_columns"), name):
        fits = statement("fits_decimal").replace("{relation}", name).replace("{column}", column)
        decimal = kind == "numeric" and await connection.fetchval(fits, timeout=restore.WHOLE_MONTH_S)
        columns.append(Column(column, kind, bool(decimal)))
    found = await restore.facts(connection, name, [column.name for column in columns])
    first, last = (None if found[time] is None else restore.iso(found[time]) for time in ("min_time", "max_time"))
    return Manifest(
        table=month["table_name"],
        partition=name,
        lower=restore.iso(month["lower"]),
        upper=restore.iso(month["upper"]),
        columns=tuple(columns),
        rows=found["row_count"],
        min_time=first,
        max_time=last,
        checksum=found["checksum"],
    )


async def _copy(connection: asyncpg.Connection, manifest: Manifest, writer: Writer) -> None:
    pages = await connection.fetchval(statement("relation_pages"), manifest.partition)
    fields = ", ".join(sql for column in manifest.columns for _, _, sql in column.fields())
    slices = statement("archived_slice").replace("{fields}", fields).replace("{relation}", manifest.partition)
    for first in range(0, pages, SLICE_PAGES):
        rows = bytearray()

        async def gather(data: bytes, rows: bytearray = rows) -> None:
            rows += data

        query = slices.replace("{first}", str(first)).replace("{after}", str(first + SLICE_PAGES))
        await connection.copy_from_query(query, output=gather, format="csv")
        await restore.in_thread(writer.write, bytes(rows))


def _place(folder: Path, manifest: Manifest) -> tuple[Path, bool]:
    """Return the file that holds this already (True), or a free name (False): no archive is ever written over."""
    name = manifest.partition.split(".")[1]
    for number in count(1):
        path = folder / (f"{name}.parquet" if number == 1 else f"{name}.{number}.parquet")
        if not parquet.manifest_of(path).exists():
            return path, False  # a Parquet file without a manifest was never finished
        try:
            if parquet.check(path).holds(manifest):
                return path, True
        except BadInputError as exc:
            log.error("archive.damaged", file=path.name, error=str(exc))
    raise AssertionError("count() does not end")
