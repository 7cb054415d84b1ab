"""What the daemon does for its tables by the clock: partitions ahead of need, and old rows out of the live tables."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from recio_ingest import metrics, store
from recio_ingest.faults import classify
from recio_ingest.partitions import (
    HISTORY_AHEAD,
    HISTORY_TABLES,
    LIVE_DAYS_AHEAD,
    LIVE_TABLES,
    Partition,
    daily,
    monthly,
)
from recio_ingest.rollover import Rollover
from recio_ingest.ship import Progress
from recio_ingest.sql import statement
from recio_ingest.store import Store

log = structlog.get_logger()

PARTITIONS_EVERY_S = 3600.0
PARTITIONS_RETRY_S = 30.0
# Often, so that a pass is short: ten minutes of a lively day are a slice or two per table.
ROLL_EVERY_S = 600.0
# A start has other things to do.
FIRST_ROLL_AFTER_S = 60.0
# How long to rest after a slice, in times of what it took: half of the machine stays free.
REST = 1.0


async def keep_partitions(dsn: str, progress: Progress) -> None:
    """Make partitions ahead, for ever; nothing else is in their transactions."""
    await progress.prepared()
    while True:
        pause_s = PARTITIONS_EVERY_S
        try:
            await make_partitions(dsn)
        except store.ERRORS as exc:
            pause_s = PARTITIONS_RETRY_S
            log_partitions(exc)
        await asyncio.sleep(pause_s)


async def make_partitions(dsn: str, tables: Sequence[str] = (*LIVE_TABLES, *HISTORY_TABLES)) -> None:
    """Make what is missing of the days and months ahead; what one table lacks because of a reader, others have."""
    troubles: list[Exception] = []
    async with store.connected(dsn) as connection:
        for table in tables:
            try:
                for wanted in _ahead(table, datetime.now(UTC)):
                    key = "received_at" if table in LIVE_TABLES else "timestamp"
                    if await Store(connection).make_partition(wanted, key):
                        log.info("partitions.made", partition=wanted.name)
            except store.ERRORS as exc:
                troubles.append(exc)
            if not connection.is_closed():
                until = await connection.fetchval(statement("partitioned_until"), table)
                metrics.PARTITIONS_AHEAD.labels(table).set(until / 1e6 - time.time() if until else 0.0)
    if troubles:
        raise troubles[0]


def log_partitions(exc: BaseException) -> None:
    """Say what kept a partition from being made."""
    log.warning("partitions.not_made", fault=str(classify(exc)), error=str(exc)[:300], retry_s=PARTITIONS_RETRY_S)


async def keep_rolling(rollover: Rollover, progress: Progress) -> None:
    """Roll over, for ever; whatever one pass runs into, there is a next, and the feeds go on."""
    metrics.ROLLOVER_SUCCESS.set(time.time())
    await progress.prepared()
    await asyncio.sleep(FIRST_ROLL_AFTER_S)
    while True:
        try:
            done = await rollover.run_once()
            if done.moved:
                log.info("rollover.moved", rows=dict(done.moved))
        except Exception:  # the daemon records; what is old can wait
            metrics.ROLLOVER_FAILURES.labels("all", "bug").inc()
            log.exception("rollover.failed", retry_s=ROLL_EVERY_S)
        await asyncio.sleep(ROLL_EVERY_S)


def _ahead(table: str, now: datetime) -> Iterator[Partition]:
    if table in LIVE_TABLES:
        return daily(table, now, LIVE_DAYS_AHEAD)
    # A day of last month may be rolled over today.
    return monthly(table, now - timedelta(days=1), now + HISTORY_AHEAD)
