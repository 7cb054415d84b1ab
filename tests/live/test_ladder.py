"""The ladder of the open hour, as the daemon records it beside a simulated Kalshi, and of the next one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.kalshi_live import Venue, at, rows
from harness.progress import scalar
from harness.spool import read_spool
from harness.waiting import until

from recio_ingest.records import Kind

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S = 3600
# The daemon takes an event off the ladder by its own clock: what closes within the test would leave in its midst.
NEEDS_S = 40
WITHIN_S = 40
LADDER = "btc_live_strikes"
STRIKES = 20
EVENTS = "SELECT array_agg(event_ticker ORDER BY event_ticker) FROM live_data.current_strikes"
MARKS = f"""
    SELECT event_ticker, count(DISTINCT ticker) AS strikes,
           array_agg(DISTINCT frame_no ORDER BY frame_no) FILTER (WHERE spot_price IS NOT NULL) AS marks
      FROM live_data.{LADDER} GROUP BY 1 ORDER BY min(frame_no)
"""
WRONG = f"""
    SELECT event_ticker, frame_no, count(*) AS seen FROM live_data.{LADDER} WHERE spot_price IS NOT NULL GROUP BY 1, 2
    HAVING count(*) < 10 OR count(DISTINCT spot_price) <> 1 OR count(DISTINCT ticker) <> count(*)
        OR NOT bool_and(distance = spot_price - strike_price AND spot_source = 'BRTI')
"""


async def _full_hour() -> int:
    """The next full hour. Real seconds, and less than an hour away: what is later, the daemon takes for a mistake."""
    left_s = HOUR_S - time.time() % HOUR_S
    if left_s < NEEDS_S:
        await asyncio.sleep(left_s)
    return (int(time.time()) // HOUR_S + 1) * HOUR_S


async def _over_the_hour(dsn: str, venue: Venue, hour_s: int) -> None:
    """Wait for the open event's ladder; go to the hour's last seconds; wait for some marks of the next event's."""

    async def open_hour() -> bool:
        names = await scalar(dsn, EVENTS) or []
        return len(names) == STRIKES and len(set(names)) == 1

    await until(open_hour, within_s=WITHIN_S, what="the ladder of the open hour", every_s=0.2)
    first = (await scalar(dsn, EVENTS))[0]
    await venue.subscribed(within_s=WITHIN_S)
    venue.skip_to(hour_s - 2)

    async def next_hour() -> bool:
        return await rows(dsn, f"event_ticker <> '{first}'", "current_strikes") == STRIKES

    await until(next_hour, within_s=WITHIN_S, what="the ladder of the next hour", every_s=0.2)
    assert venue.now_s >= hour_s

    async def marks() -> bool:
        return await rows(dsn, f"event_ticker <> '{first}' AND spot_source = 'BRTI'", LADDER) >= STRIKES + 3 * 10

    await until(marks, within_s=WITHIN_S, what="four seconds of the next hour", every_s=0.2)


@pytest.mark.timeout(200)
async def test_the_ladder_over_an_hour_boundary(database: str, tmp_path: Path) -> None:
    """Each second has the open event's ten nearest strikes, each strike is there, and the next event follows it."""
    hour_s = await _full_hour()
    async with (
        Venue(hour_s=HOUR_S, start_s=hour_s - HOUR_S // 2) as venue,
        Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon,
    ):
        await daemon.start()
        await _over_the_hour(database, venue, hour_s)
        assert await daemon.terminate() == 0
    ticks = [frame.frame_no for frame in read_spool(daemon.spool) if frame.kind == Kind.TICK]
    connection = await asyncpg.connect(database)
    try:
        ladders = await connection.fetch(MARKS)
        wrong = await connection.fetch(WRONG)
        aside = await connection.fetchval("SELECT count(*) FROM ingest.quarantine")
    finally:
        await connection.close()
    assert ([ladder["strikes"] for ladder in ladders], wrong, aside) == ([STRIKES, STRIKES], [], 0)
    for marks in (ladder["marks"] for ladder in ladders):
        assert marks == [tick for tick in ticks if marks[0] <= tick <= marks[-1]], "a row at each second's mark"
    first, following = (ladder["marks"] for ladder in ladders)
    assert following[0] <= ticks[ticks.index(first[-1]) + 1], "no second between the two"
    assert following[-1] == ticks[-1]
