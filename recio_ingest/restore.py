"""Brings an archived partition back; and, as a trial that is rolled back, tells whether a file could be brought back.

The same steps for both: nothing is dropped that this way did not bring back once, to the byte, in this database.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from recio_ingest import parquet, store
from recio_ingest.errors import BadInputError, RecioError, TryLaterError
from recio_ingest.parquet import Manifest, Reader
from recio_ingest.records import Micros, aware, micros
from recio_ingest.sql import statement

ROLE = "recio_rollover"
# PostgreSQL looks at a whole month at once, twice: some 2,000,000 rows a second, and an index is made of them.
WHOLE_MONTH_S = 7_200.0

_REFUSED = (
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateTableError,
    asyncpg.LockNotAvailableError,
    asyncpg.CheckViolationError,
)

_T = TypeVar("_T")


async def restore(dsn: str, path: Path) -> Manifest:
    """Bring a file's rows back, equal to the byte, in one transaction: as the partition that they were, or into it.

    `path` is the Parquet file or its manifest. Raises BadInputError where a file is damaged or something else, and
    TryLaterError where a row of it, or another table of the partition's name, is there already.
    """
    path = path.with_suffix(".parquet")
    manifest = await in_thread(parquet.check, path)
    connection = await store.connect(dsn, role=ROLE)
    try:
        if await connection.fetchval(statement("archived_otherwise"), manifest.partition, manifest.sha256):
            raise BadInputError(
                f"{path.name} is none of the files that ingest.archives has of {manifest.partition}",
                hint="it was changed, checksums and all, or another database wrote it",
            )
        if await connection.fetchval(statement("restored_already"), manifest.partition, manifest.sha256):
            raise TryLaterError(f"{path.name} is there already", hint=f"it was brought back into {manifest.partition}")
        async with connection.transaction():
            if await _load(connection, path, manifest) == manifest.partition:
                moments = _bounds(manifest)
                await connection.execute(
                    statement("end_restore"), manifest.table, manifest.partition, *moments, timeout=WHOLE_MONTH_S
                )
            else:
                await connection.execute(statement("merge_restored"), manifest.partition, timeout=WHOLE_MONTH_S)
            await connection.execute(statement("note_restored"), *entry(manifest, path))
    except _REFUSED as exc:
        raise _refusal(exc, manifest, path) from exc
    finally:
        await connection.close(timeout=store.CONNECT_TIMEOUT_S)
    return manifest


def _refusal(exc: asyncpg.PostgresError, manifest: Manifest, path: Path) -> RecioError:
    """Return what an error of the database says to whoever wants a file back."""
    name = manifest.partition
    if isinstance(exc, asyncpg.UniqueViolationError):
        hint = "they came after it was archived, or with another of its files; delete those that you do not want"
        return TryLaterError(f"{manifest.table} has rows of {path.name} already: {exc.detail}", hint=hint)
    if isinstance(exc, asyncpg.DuplicateTableError):
        return TryLaterError(f"{name} is there already, as something else", hint="drop or rename it first")
    if isinstance(exc, asyncpg.LockNotAvailableError):
        return TryLaterError(f"somebody holds {name}, or the DEFAULT partition beside it", hint="run it again")
    if exc.constraint_name == "restored_within_bounds":
        return BadInputError(f"{path.name} has rows outside the bounds that its manifest tells of")
    return TryLaterError(f"a row of {name} came into the DEFAULT partition meanwhile", hint="run it again")


async def _load(connection: asyncpg.Connection, path: Path, manifest: Manifest) -> str:
    """Load a file into a table of its own, and compare; return which."""
    reader = await in_thread(Reader, path, manifest)
    try:
        name = await _begin(connection, manifest, manifest.partition, trial=False)
        for group in range(reader.groups):
            await _fill(connection, manifest, name, await in_thread(reader.read, group))
        found = await facts(connection, name, [column.name for column in manifest.columns])
    finally:
        reader.close()
    if (found["row_count"], found["checksum"]) != (manifest.rows, manifest.checksum):
        raise BadInputError(f"{path.name} does not hold the rows that its manifest tells of")
    return name


async def try_out(connection: asyncpg.Connection, path: Path) -> Manifest:
    """Return the manifest of a file out of which PostgreSQL has just made every row again; raise BadInputError."""
    manifest = await in_thread(parquet.check, path)
    reader = await in_thread(Reader, path, manifest)
    rows, checksum = 0, 0
    try:
        for group in range(reader.groups):
            found = await _try_group(connection, manifest, await in_thread(reader.read, group))
            rows, checksum = rows + found["row_count"], checksum + int(found["checksum"])
    finally:
        reader.close()
    if (rows, str(checksum)) != (manifest.rows, manifest.checksum):
        raise BadInputError(f"{path.name} does not give back what was archived")
    return manifest


async def _try_group(connection: asyncpg.Connection, manifest: Manifest, data: bytes) -> asyncpg.Record:
    trial = f"{manifest.partition}_trial"
    transaction = connection.transaction()
    await transaction.start()
    try:
        await _begin(connection, manifest, trial, trial=True)
        await _fill(connection, manifest, trial, data)
        return await facts(connection, trial, [column.name for column in manifest.columns])
    finally:
        await transaction.rollback()


async def _begin(connection: asyncpg.Connection, manifest: Manifest, name: str, *, trial: bool) -> str:
    fields = [field for column in manifest.columns for field, _, _ in column.fields()]
    bounds = _bounds(manifest)
    return str(await connection.fetchval(statement("begin_restore"), manifest.table, name, *bounds, fields, trial))


async def _fill(connection: asyncpg.Connection, manifest: Manifest, name: str, data: bytes) -> None:
    schema, table = name.split(".")
    await connection.copy_to_table(f"{table}_staged", schema_name=schema, source=io.BytesIO(data), format="csv")
    columns = ", ".join(f'"{column.name}"' for column in manifest.columns)
    values = ", ".join(column.value() for column in manifest.columns)
    fill = statement("fill_restored").replace("{relation}", name)
    await connection.execute(fill.replace("{columns}", columns).replace("{values}", values))
    await connection.execute(statement("empty_staged").replace("{relation}", name))


async def facts(connection: asyncpg.Connection, relation: str, columns: list[str]) -> asyncpg.Record:
    """Return row_count, min_time, max_time and checksum of a table."""
    return await connection.fetchrow(statement("rows_checksum"), relation, columns, timeout=WHOLE_MONTH_S)


def entry(manifest: Manifest, path: Path) -> tuple[Any, ...]:
    """Return what ingest.archives says of a file."""
    times = [micros_of(time) if time else None for time in (manifest.min_time, manifest.max_time)]
    return (
        *(manifest.table, manifest.partition, *_bounds(manifest)),
        [column.name for column in manifest.columns],
        *(manifest.rows, *times, manifest.checksum, path.name, manifest.size_bytes, manifest.sha256),
    )


def _bounds(manifest: Manifest) -> tuple[Micros, Micros]:
    return micros_of(manifest.lower), micros_of(manifest.upper)


def micros_of(text: str) -> Micros:
    """Return a manifest's time."""
    return micros(datetime.fromisoformat(text))


def iso(moment: Micros) -> str:
    """Return a time as a manifest has it."""
    return aware(moment).isoformat()


async def in_thread(work: Callable[..., _T], *arguments: Any) -> _T:  # noqa: ANN401  # those of the work
    """Run work beside the event loop, and do not leave before it has ended: it holds files open."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
