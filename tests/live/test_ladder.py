"""The ladder of the open hour, as the daemon records it beside a simulated Kalshi, and of the next one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.kalshi_live import Venue, at, rows
from harness.progress import scalar
from harness.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S = 3600
BEFORE_S = 25  # of the venue's time, between its start and the full hour
LADDER = "btc_live_strikes"
STRIKES = 20


def _starts_s() -> int:
    """Shortly before a full hour to come: real seconds, and a close that lies in the daemon's future as well."""
    return (int(time.time()) // HOUR_S + 1) * HOUR_S - BEFORE_S


@pytest.mark.timeout(90)
async def test_the_ladder_over_an_hour_boundary(database: str, tmp_path: Path) -> None:
    """Each second has the open event's ten nearest strikes, each strike is there, and the next event follows it."""
    async with (
        Venue(hour_s=HOUR_S, start_s=_starts_s()) as venue,
        Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon,
    ):
        await daemon.start()

        async def event() -> str:
            """The event whose whole ladder is the current one."""
            names = await scalar(database, "SELECT array_agg(event_ticker) FROM live_data.current_strikes") or []
            return names[0] if len(names) == STRIKES and len(set(names)) == 1 else ""

        first = await until(event, within_s=BEFORE_S, what="the ladder of the open hour", every_s=0.2)
        assert venue.now_s % HOUR_S > HOUR_S / 2, "the hour was over before its ladder was there"

        async def next_hour() -> bool:
            return await rows(database, f"event_ticker <> '{first}'", "current_strikes") == STRIKES

        await until(next_hour, within_s=60, what="the ladder of the next hour", every_s=0.5)
        followed = "received_at > now() - interval '2 s' AND spot_source = 'BRTI'"

        async def second() -> bool:
            return await rows(database, followed, LADDER) >= 20

        await until(second, within_s=20, what="two seconds of the next hour", every_s=0.2)
        assert await daemon.terminate() == 0
    connection = await asyncpg.connect(database)
    try:
        marks = await connection.fetch(
            "SELECT event_ticker, frame_no, min(received_at) AS at, count(*) AS seen,"
            " count(DISTINCT spot_price) AS spots,"
            " bool_and(distance = spot_price - strike_price AND spot_source = 'BRTI') AS right"
            f" FROM live_data.{LADDER} WHERE spot_price IS NOT NULL GROUP BY 1, 2 ORDER BY 2, 1"
        )
        whole = await connection.fetch(
            f"SELECT event_ticker, count(DISTINCT ticker) FROM live_data.{LADDER} GROUP BY 1 ORDER BY 1"
        )
        aside = await connection.fetchval("SELECT count(*) FROM ingest.quarantine")
    finally:
        await connection.close()
    assert ([count for _, count in whole], aside) == ([STRIKES, STRIKES], 0)
    assert all(mark["seen"] >= 10 and mark["spots"] == 1 and mark["right"] for mark in marks)
    for event, _ in whole:
        times = [mark["at"].timestamp() for mark in marks if mark["event_ticker"] == event]
        assert times[-1] - times[0] == pytest.approx(len(times) - 1, abs=1), "one a second"
