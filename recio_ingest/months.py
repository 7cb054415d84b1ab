"""The months of the past: made before rows need them, and filled with what the DEFAULT partitions caught."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg
import structlog

from recio_ingest import metrics, store
from recio_ingest.faults import Fault, classify
from recio_ingest.partitions import HISTORY_AHEAD, OLDEST, monthly
from recio_ingest.records import Micros, aware, micros
from recio_ingest.sql import statement
from recio_ingest.store import Store

log = structlog.get_logger()


async def make(
    connection: asyncpg.Connection, tables: Sequence[str], months: Sequence[Micros], made: set[tuple[str, Micros]]
) -> None:
    """Make these months of these tables, but for those in `made`, where all of them are then.

    Each is its own transaction. Where a reader holds the DEFAULT partition, its month is not made now: rows go to
    DEFAULT, and out of it when their month is made (`drain`). So do those of a time that cannot be, long ago or ahead.
    """
    first, last = micros(OLDEST), micros(datetime.now(UTC) + HISTORY_AHEAD)
    for table in tables:
        for month in months:
            if not first <= month <= last or (table, month) in made:
                continue
            moment = aware(month)
            (wanted,) = monthly(table, moment, moment)
            try:
                if await Store(connection).make_partition(wanted, "timestamp"):
                    log.info("partitions.made", partition=wanted.name)
            except store.ERRORS as exc:
                if classify(exc) is not Fault.TRANSIENT:
                    raise
                log.info("partitions.not_now", partition=wanted.name, error=str(exc)[:300])
            made.add((table, month))


async def drain(connection: asyncpg.Connection, table: str) -> None:
    """Give what the DEFAULT partition of a table of the past holds the months that it belongs to."""
    found = await watch(connection, table)
    if found:
        await make(connection, [table], found, set())
        await watch(connection, table)


async def watch(connection: asyncpg.Connection, table: str) -> Sequence[Micros]:
    """Count what the DEFAULT partition of a table holds; return the months of it."""
    found = await connection.fetchrow(statement("default_rows").replace("{table}", table))
    metrics.DEFAULT_ROWS.labels(table).set(found["found"])
    return found["months"] or ()
