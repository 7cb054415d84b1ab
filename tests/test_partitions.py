"""Names and bounds of the daily partitions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from recio_ingest.partitions import Partition, daily

NEW_YORK = ZoneInfo("America/New_York")


def test_today_and_the_days_ahead() -> None:
    """Two days ahead are three partitions, named by their day, each beginning where the one before ends."""
    assert list(daily("live_data.t", datetime(2026, 12, 30, 23, 59, 59, 999999, UTC), 2)) == [
        Partition("live_data.t", "live_data.t_20261230", datetime(2026, 12, 30, tzinfo=UTC),
                  datetime(2026, 12, 31, tzinfo=UTC)),
        Partition("live_data.t", "live_data.t_20261231", datetime(2026, 12, 31, tzinfo=UTC),
                  datetime(2027, 1, 1, tzinfo=UTC)),
        Partition("live_data.t", "live_data.t_20270101", datetime(2027, 1, 1, tzinfo=UTC),
                  datetime(2027, 1, 2, tzinfo=UTC)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("moment", "first"),
    [
        (datetime(2026, 3, 7, 20, tzinfo=NEW_YORK), "t_20260308"),  # the night before summer time begins
        (datetime(2026, 3, 8, 12, tzinfo=NEW_YORK), "t_20260308"),
        (datetime(2026, 10, 31, 20, 30, tzinfo=NEW_YORK), "t_20261101"),  # the night before it ends
        (datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=NEW_YORK), "t_20261101"),
        (datetime(2026, 2, 28, 23, 0, tzinfo=UTC), "t_20260228"),
    ],
)
def test_days_are_utc_whatever_the_clock_says(moment: datetime, first: str) -> None:
    """Every partition is 24 hours from a UTC midnight, also when summer time begins or ends where the clock is."""
    days = list(daily("t", moment, 5))
    assert days[0].name == first
    assert days[0].lower <= moment < days[0].upper
    assert {day.upper - day.lower for day in days} == {timedelta(hours=24)}
    assert [day.lower for day in days[1:]] == [day.upper for day in days[:-1]]
    assert {day.lower.astimezone(UTC).time().isoformat() for day in days} == {"00:00:00"}


def test_leap_day_has_a_partition() -> None:
    """The 29th of February is a day like any other."""
    assert [day.name for day in daily("t", datetime(2028, 2, 28, tzinfo=UTC), 2)] == [
        "t_20280228",
        "t_20280229",
        "t_20280301",
    ]
