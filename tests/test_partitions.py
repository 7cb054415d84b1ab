"""Names and bounds of the daily and monthly partitions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from recio_ingest.partitions import Partition, daily, monthly

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


def test_months_from_the_first_row_to_the_last() -> None:
    """Whole UTC months, over the end of a year and a leap day, each beginning where the one before ends."""
    found = list(monthly("h.t", datetime(2027, 12, 31, 20, tzinfo=NEW_YORK), datetime(2028, 3, 1, tzinfo=UTC)))
    assert [(part.name, part.lower.day, part.lower.utcoffset()) for part in found] == [
        (f"h.t_{month}", 1, timedelta(0)) for month in (202801, 202802, 202803)
    ]
    assert [part.upper for part in found] == [*(part.lower for part in found[1:]), datetime(2028, 4, 1, tzinfo=UTC)]


def test_a_moment_has_one_month() -> None:
    """The first microsecond of a month lies in it, and so does the last."""
    for moment in (datetime(2025, 7, 1, tzinfo=UTC), datetime(2025, 7, 31, 23, 59, 59, 999999, UTC)):
        assert [part.name for part in monthly("h.t", moment, moment)] == ["h.t_202507"]
