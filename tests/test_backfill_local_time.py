"""New York's clocks: instants of wall-clock text, and the hour that comes twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recio_ingest.backfill import local_time
from recio_ingest.backfill.local_time import Tick
from recio_ingest.backfill.tables import NEW_YORK, BadValue
from recio_ingest.records import micros

# Wall-clock times have no zone: that is the point of this module.
HOUR = datetime.fromisoformat("2025-11-02T01:00:00")


def ticks(first: int, start: datetime, count: int) -> list[Tick]:
    """Rows of one second each, from a rowid on."""
    return [Tick(first + number, start + timedelta(seconds=number)) for number in range(count)]


@given(st.datetimes(HOUR.replace(year=1970), HOUR.replace(year=2099), timezones=st.just(UTC)))
def test_an_instant_comes_back(moment: datetime) -> None:
    """Every instant, shown on New York's clocks, is read as itself, given which of two it is."""
    wall = moment.astimezone(ZoneInfo(NEW_YORK))
    for text in (f"{wall:%Y-%m-%dT%H:%M:%S.%f}", f"{wall:%Y-%m-%d %H:%M:%S.%f}"):
        assert local_time.instant(text, NEW_YORK, wall.fold) == micros(moment)
    whole = moment.replace(microsecond=0)
    assert local_time.instant(f"{wall:%Y-%m-%dT%H:%M:%S}", NEW_YORK, wall.fold) == micros(whole)
    assert local_time.instant(f"{moment:%Y-%m-%dT%H:%M:%S}Z", NEW_YORK) == micros(whole)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2025-11-02T01:30:00", "ambiguous_time"),
        ("2025-03-09T02:30:00", "no_such_time"),
        ("2025-02-30T01:00:00", "not_a_date"),
        ("2025-02-03T24:00:00", "not_a_time"),
        ("2025-02-03T10:60:00", "not_a_time"),
        ("2025-02-03", "not_a_time"),
        ("2025-W07-1T10:00:00", "not_a_date"),
        ("\uff12\uff10\uff12\uff15-02-03T10:00:00", "not_a_date"),
        ("2025-02-03T10:00:00+25:00", "not_a_time"),
        ("2025-02-03T10:00:00.1234567", "not_a_time"),
    ],
)
def test_what_is_no_time_has_a_reason(text: str, reason: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(BadValue) as caught:
        local_time.instant(text, NEW_YORK)
    assert caught.value.reason == reason


def test_a_time_of_day_is_on_or_after_its_row() -> None:
    """A trade closed at 00:10 that was opened at 23:50 closed on the day after."""
    opened = ("2025-07-01", "23:50:00", NEW_YORK)
    assert local_time.on_its_day("23:55:00", *opened) == micros(datetime(2025, 7, 2, 3, 55, tzinfo=UTC))
    assert local_time.on_its_day("00:10:00", *opened) == micros(datetime(2025, 7, 2, 4, 10, tzinfo=UTC))


def test_plain_days_are_an_addition() -> None:
    """Through the days about both changes of the clocks: the same instants, or the closer look is asked for."""
    midnights = local_time.Midnights(NEW_YORK)
    plain = []
    for day in ("2025-03-07", "2025-03-08", "2025-03-09", "2025-03-10", "2025-10-31", "2025-11-01", "2025-11-02"):
        midnight = midnights[day]
        if midnight is None:
            continue
        plain.append(day)
        for text, began in (("23:55:00", "23:50:00"), ("00:10:00", "23:50:00"), ("01:30:00", "01:30:00")):
            wanted = local_time.on_its_day(text, day, began, NEW_YORK)
            assert local_time.on_plain_day(text, midnight, began) == wanted
        for odd in ("24:00:00", "23:60:00", "1:30:00", "01-30:00", "01:30:00.5", "", None, b"01:30:00"):
            assert local_time.on_plain_day(odd, midnight, "00:00:00") is None
            assert local_time.on_plain_day("01:30:00", midnight, odd) is None
    assert plain == ["2025-03-07", "2025-03-10", "2025-10-31"]
    assert [midnights[day] for day in ("2025-02-30", "9999-12-31", " 2025-06-02", None, 5, b"2025-06-02")] == [None] * 6


def test_long_texts_are_not_remembered() -> None:
    """A text that is no day can have a MiB, and a century of them does not fit into the memory."""
    midnights = local_time.Midnights(NEW_YORK)
    assert [midnights[day] for day in ("2025-06-02 ", b"2025-06-02\x00", "no day", "2025-02-30")] == [None] * 4
    assert set(midnights) == {"no day", "2025-02-30"}


def test_the_doubled_hours_are_found() -> None:
    """One a year, and none outside the days asked for."""
    assert list(local_time.doubled_hours(date(2024, 1, 1), date(2025, 11, 2), NEW_YORK)) == [
        HOUR.replace(year=2024, day=3),
        HOUR,
    ]
    assert list(local_time.doubled_hours(date(2025, 11, 3), date(2026, 10, 1), NEW_YORK)) == []


def test_both_passes_are_told_apart() -> None:
    """The clock goes back between the rows that the first pass left and those of the second."""
    first, second = ticks(50, HOUR + timedelta(seconds=30), 10), ticks(60, HOUR, 30)
    folds = local_time.decide(first + second, Tick(19, HOUR - timedelta(seconds=1)), None, HOUR)
    assert folds == {tick.rowid: 0 for tick in first} | {tick.rowid: 1 for tick in second}


def test_a_second_pass_that_replaced_all_of_the_first() -> None:
    """A hole of the size of the run lies before it, and the next hour follows."""
    before, after = Tick(9, HOUR - timedelta(seconds=1)), Tick(50, HOUR + timedelta(hours=1))
    run = ticks(30, HOUR, 20)
    assert set(local_time.decide(run, before, after, HOUR).values()) == {1}
    # A hole of one row is a second written twice, and tells nothing.
    assert local_time.decide(run, Tick(28, before.wall), after, HOUR) == {}


def test_one_pass_between_its_neighbours_stays_open() -> None:
    """It may be either of the two, also where nothing near follows: VACUUM closes the hole of a second pass."""
    before, after = Tick(9, HOUR - timedelta(seconds=1)), Tick(30, HOUR + timedelta(hours=1))
    run = ticks(10, HOUR, 20)
    assert local_time.decide(run, before, after, HOUR) == {}
    assert local_time.decide(run, before, Tick(30, HOUR + timedelta(hours=5)), HOUR) == {}
    assert local_time.decide(run, before, None, HOUR) == {}
    assert local_time.decide(run, None, None, HOUR) == {}


def test_what_goes_on_from_the_hour_before_is_summer() -> None:
    """A run right behind the hour before, with a hole behind it; not where the recorder was down in between."""
    run, later = ticks(10, HOUR + timedelta(seconds=20), 20), ticks(50, HOUR + timedelta(seconds=100), 5)
    before = Tick(9, HOUR - timedelta(seconds=1))
    assert local_time.decide(run + later, before, None, HOUR) == {tick.rowid: 0 for tick in run}
    assert local_time.decide(run + later, Tick(9, HOUR - timedelta(minutes=5)), None, HOUR) == {}


def test_a_clock_that_goes_back_twice_tells_nothing() -> None:
    """Three passes of one hour are not what summer time does."""
    rows = ticks(10, HOUR, 5) + ticks(15, HOUR, 5) + ticks(20, HOUR, 5)
    assert local_time.decide(rows, None, None, HOUR) == {}
