"""Settlements are checked: each day those of the last days by the daemon, all of them when asked to.

Events, prints and gaps are read a day of closes at a time, by index, live and historical rows alike. What is found goes
to `ingest.settlements`. Nothing here stands in the path of the frames.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import structlog

from recio_ingest import metrics, store
from recio_ingest.records import Micros
from recio_ingest.settlement import PRINTS, SECOND_US, Event, Hole, Result, Rule, Settlement, by_second, check
from recio_ingest.ship import Progress
from recio_ingest.sql import statement

log = structlog.get_logger()

DAY_US = 86_400 * SECOND_US
EVERY_S = 86_400.0
# A start is busy enough: what was missed is asked for, and its rows are read here.
FIRST_AFTER_S = 30.0
CHECK_EVERY_S = 1.0
RETRY_S = 300.0
# A venue has taken a day to settle an event. What came even later is seen by --verify-settlements.
BACK_US = 8 * DAY_US
# A market is described last when it is settled; within this of its close it was described at least once.
NEAR_US = 40 * DAY_US


class Verifier:
    """The daemon's own check, once a day; `counts` are the last days' events by outcome, None before the first."""

    def __init__(
        self, dsn: str, rules: Sequence[Rule], progress: Progress, first_after_s: float = FIRST_AFTER_S
    ) -> None:
        self.counts: dict[str, int] | None = None
        self._dsn = dsn
        self._rules = rules
        self._progress = progress
        self._first_after_s = first_after_s

    async def run(self) -> None:
        """Check until cancelled."""
        await asyncio.sleep(self._first_after_s)
        while True:
            while not self._progress.schema_ready or self._progress.position is None:
                await asyncio.sleep(CHECK_EVERY_S)
            try:
                await self._check()
            except Exception as exc:  # noqa: BLE001  # whatever a check runs into, the feeds go on
                log.warning("settlements.interrupted", error=repr(exc)[:300], retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(EVERY_S)

    async def _check(self) -> None:
        """Look at the last days, and at all since the last check; an event found equal needs no second look.

        It had all of its prints, so that nothing that comes late can change it.
        """
        now = time.time_ns() // 1000
        async with store.connected(self._dsn) as connection:
            last = await connection.fetchval(statement("settlement_last")) or 0
            async for found in verify(connection, self._rules, min(last, now - BACK_US), again=False):
                if found.outcome is Result.DIFFERS:
                    log.error("settlement.differs", event_ticker=found.event_ticker, why=found.why)
            counts = dict(await connection.fetch(statement("settlement_counts"), now - BACK_US))
        self.counts = {str(result): counts.get(str(result), 0) for result in Result}
        for result, count in self.counts.items():
            metrics.SETTLEMENTS.labels(result).set(count)
        log.info("settlements.checked", **self.counts)


async def verify_all(dsn: str, rules: Sequence[Rule]) -> AsyncIterator[Settlement]:
    """Check every event that is over, as far back as there are rows; yield what is found, in order of the closes."""
    async with store.connected(dsn) as connection:
        async for found in verify(connection, rules, 0, again=True):
            yield found


async def verify(
    connection: asyncpg.Connection, rules: Sequence[Rule], since: Micros, *, again: bool
) -> AsyncIterator[Settlement]:
    """Check the events that closed since then, write down what is found, and yield it.

    `again`: those too that were found equal before.
    """
    until = time.time_ns() // 1000
    first = await connection.fetchval(statement("settlement_first"), since, since - NEAR_US)
    while first is not None and first < until:
        upto = min(first - first % DAY_US + DAY_US, until)
        for rule in rules:
            for found in await _verify_day(connection, rule, first, upto, again=again):
                yield found
        first = await connection.fetchval(statement("settlement_first"), upto, upto - NEAR_US)


async def _verify_day(
    connection: asyncpg.Connection, rule: Rule, lower: Micros, upper: Micros, *, again: bool
) -> list[Settlement]:
    """Check the events of one rule that closed in [lower, upper), a day at most."""
    near = (lower - NEAR_US, upper + NEAR_US, lower - DAY_US, upper + DAY_US)
    rows = await connection.fetch(statement("settlement_events"), rule.venue, rule.series, lower, upper, again, *near)
    events = [Event(*row) for row in rows]
    if not events:
        return []
    closes = sorted({max(event.close_times) for event in events})
    index = (rule.index_venue, rule.symbol)
    within = (lower - PRINTS * SECOND_US, upper)
    prints = _by_close(await connection.fetch(statement("settlement_prints"), *index, closes, *within))
    short = [close for close in closes if len(by_second(close, prints[close])) < PRINTS]
    gaps: dict[Micros, list[Any]] = {}
    if short:
        gaps = _by_close(await connection.fetch(statement("settlement_gaps"), rule.feed, rule.channel, short))
    found = []
    for event in events:
        close = max(event.close_times)
        found.append(check(rule, event, prints[close], [Hole(*gap) for gap in gaps.get(close, ())]))
    await connection.executemany(statement("put_settlement"), [_stored(row) for row in found])
    return found


def _by_close(rows: Sequence[asyncpg.Record]) -> dict[Micros, list[Any]]:
    """Return the rest of each row under its first column."""
    grouped: dict[Micros, list[Any]] = defaultdict(list)
    for close, *rest in rows:
        grouped[close].append(rest)
    return grouped


def _stored(row: Settlement) -> tuple[Any, ...]:
    """Write numbers as the digits that `numeric` keeps."""
    return tuple(format(value, "f") if isinstance(value, Decimal) else value for value in row)
