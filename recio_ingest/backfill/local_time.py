"""New York wall-clock text to instants, and which of its two hours a row lies in when summer time ends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from recio_ingest.backfill.tables import BadValue
from recio_ingest.records import Micros, micros

HOUR = timedelta(hours=1)
# A row a second; whoever was down for longer may as well have been down for an hour more.
SOON = timedelta(minutes=1)
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:(Z)|([+-])(\d\d):(\d\d))?", re.ASCII)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SIXTY, _DAY_HOURS, _HOUR_US, _DAY_US = 60, 24, 3_600_000_000, 86_400_000_000
# A century; a file that has more days does without.
_DAYS = 36_525

# The text of every hour, and of every second of one: looking it up checks it too, and takes a fifth of a regex's time.
_HOURS = {f"{hour:02d}": hour * _HOUR_US for hour in range(24)}
_WITHIN = {f"{second // 60:02d}:{second % 60:02d}": second * 1_000_000 for second in range(3600)}
_LONG_DATE, _LONG_TIME, _LONG_STAMP = len("YYYY-MM-DD"), len("HH:MM:SS"), len("YYYY-MM-DDTHH:MM:SS")


class AmbiguousError(BadValue):
    """The time came twice; only its neighbours can tell which of the two it is."""

    def __init__(self) -> None:
        super().__init__("ambiguous_time", "this hour came twice, and the row's neighbours do not tell which it is")


def time_of_day(text: str) -> Micros:
    """Return the microseconds since midnight of `HH:MM:SS[.ffffff]`. Raises BadValue."""
    if len(text) == _LONG_TIME and text[2] == ":" and text[:2] in _HOURS and text[3:] in _WITHIN:
        return _HOURS[text[:2]] + _WITHIN[text[3:]]
    match = _TIME.fullmatch(text)
    if match is None or int(match[1]) >= _DAY_HOURS:
        raise BadValue("not_a_time", text)
    return int(match[1]) * _HOUR_US + _within_hour(text, *match.group(2, 3, 4))


def instant(text: str, zone: str, fold: int | None = None) -> Micros:
    """Return the instant of `YYYY-MM-DD[T ]HH:MM:SS[.ffffff][Z or +HH:MM]`; `zone` is for text without an offset.

    `fold` says which of two an ambiguous time is (0 the first). Raises BadValue, AmbiguousError where that is needed.
    """
    if len(text) == _LONG_STAMP and text[10] in "T " and text[13] == ":" and text[14:] in _WITHIN:
        return _hour_start(text[:10], text[11:13], zone, fold) + _WITHIN[text[14:]]
    match = _STAMP.fullmatch(text)
    if match is None:
        raise BadValue("not_a_time", text)
    day, hour, minute, second, fraction, utc, sign, off_hours, off_minutes = match.groups()
    rest = _within_hour(text, minute, second, fraction)
    if utc or sign is None:
        return _hour_start(day, hour, "UTC" if utc else zone, fold) + rest
    offset_min = int(off_hours) * _SIXTY + int(off_minutes)
    if int(off_hours) >= _DAY_HOURS or int(off_minutes) >= _SIXTY:
        raise BadValue("not_a_time", text)
    offset_us = offset_min * _SIXTY * 1_000_000 * (-1 if sign == "-" else 1)
    return _hour_start(day, hour, "UTC", None) + rest - offset_us


def on_its_day(text: str, day: str, began: str, zone: str) -> Micros:
    """Return the first instant with this time of day on or after a row's own date and time. Raises BadValue."""
    if len(text) == len(began) == _LONG_TIME and text[2] == ":" and text[:2] in _HOURS and text[3:] in _WITHIN:
        # Of the same length and checked, times are in the order of their texts.
        there = day if text >= began and began[3:] in _WITHIN else _next_day(day, text, began)
        return _hour_start(there, text[:2], zone, None) + _WITHIN[text[3:]]
    moment_us, began_us = time_of_day(text), time_of_day(began)
    a_date(day)
    return instant(f"{_later(day) if moment_us < began_us else day}T{text}", zone)


class Midnights(dict[object, Micros | None]):
    """When each day began; None for what is no day, and for one on which, or behind which, the clocks change."""

    def __init__(self, zone: str) -> None:
        super().__init__()
        self._zone = zone

    def __missing__(self, day: object) -> Micros | None:
        found = None
        if isinstance(day, str):
            try:
                starts = [_hour_start(each, "00", self._zone, None) for each in (day, _later(day), _later(_later(day)))]
            except BadValue:
                starts = []
            if [later - earlier for earlier, later in pairwise(starts)] == [_DAY_US, _DAY_US]:
                found = starts[0]
        # A text that is no day can be of any length.
        if len(self) < _DAYS and (not isinstance(day, str | bytes) or len(day) <= _LONG_DATE):
            self[day] = found
        return found


def on_plain_day(text: object, midnight: Micros, began: object) -> Micros | None:
    """Do as `on_its_day` of a day that `Midnights` knows; None for what takes a closer look."""
    try:
        at = _HOURS[text[:2]] + _WITHIN[text[3:]]  # type: ignore[index]  # what is no text ends below
        first = _HOURS[began[:2]] + _WITHIN[began[3:]]  # type: ignore[index]  # same
        plain = text[2] == began[2] == ":"  # type: ignore[index]  # same
    except (KeyError, TypeError, IndexError):
        return None
    if not plain:
        return None
    return midnight + at if at >= first else midnight + at + _DAY_US


def _next_day(day: str, text: str, began: str) -> str:
    return _later(day) if time_of_day(text) < time_of_day(began) else day


@lru_cache(maxsize=4096)
def _later(day: str) -> str:
    try:
        return (a_date(day) + timedelta(days=1)).isoformat()
    except OverflowError:
        raise BadValue("out_of_range", day) from None


def is_time_of_day(text: str) -> bool:
    """Tell a time without its day: the predecessor wrote `closed_at` so."""
    return (len(text) == _LONG_TIME and text[3:] in _WITHIN) or _TIME.fullmatch(text) is not None


def _within_hour(text: str, minute: str, second: str, fraction: str | None) -> int:
    if int(minute) >= _SIXTY or int(second) >= _SIXTY:
        raise BadValue("not_a_time", text)
    return (int(minute) * _SIXTY + int(second)) * 1_000_000 + (int(fraction.ljust(6, "0")) if fraction else 0)


def a_date(text: str) -> date:
    """Return the day of `YYYY-MM-DD`. Raises BadValue."""
    try:
        if not _DATE.fullmatch(text):  # fromisoformat knows weeks too
            raise BadValue("not_a_date", text)
        return date.fromisoformat(text)
    except ValueError:
        raise BadValue("not_a_date", text) from None


@lru_cache(maxsize=65_536)
def _hour_start(day: str, hour: str, zone: str, fold: int | None) -> Micros:
    """Return when this hour began: New York changes its clocks at whole hours only."""
    if hour not in _HOURS:
        raise BadValue("not_a_time", f"{day} {hour}:00")
    naive = datetime.combine(a_date(day), time(int(hour)))
    if zone == "UTC":
        return micros(naive.replace(tzinfo=UTC))
    there = ZoneInfo(zone)
    try:
        both = [naive.replace(tzinfo=there, fold=each).astimezone(UTC) for each in (0, 1)]
        real = [moment for moment in both if moment.astimezone(there).replace(tzinfo=None) == naive]
    except OverflowError as exc:
        raise BadValue("out_of_range", day) from exc
    if not real:
        raise BadValue("no_such_time", f"the clocks of {zone} passed over this hour")
    if real[0] != real[1]:
        if fold is None:
            raise AmbiguousError
        return micros(real[fold])
    return micros(real[0])


class Tick(NamedTuple):
    """A row as this module sees it: its rowid, and its time as the clock on the wall showed it."""

    rowid: int
    wall: datetime


def doubled_hours(first: date, last: date, zone: str) -> Iterator[datetime]:
    """Yield the wall-clock hours between two days that come twice."""
    there = ZoneInfo(zone)
    for year in range(max(first.year, 1970), min(last.year, 2100) + 1):
        for day in range(366):
            wall = datetime.combine(date(year, 1, 1), time(1)) + timedelta(days=day)
            if wall.year == year and first <= wall.date() <= last and _comes_twice(wall, there):
                yield wall


def _comes_twice(wall: datetime, there: ZoneInfo) -> bool:
    summer, winter = (wall.replace(tzinfo=there, fold=fold).utcoffset() for fold in (0, 1))
    return summer is not None and winter is not None and summer > winter


def decide(ticks: Sequence[Tick], before: Tick | None, after: Tick | None, hour: datetime) -> Mapping[int, int]:
    """Return which hour (0 summer, 1 winter) the rows of a doubled hour lie in, by rowid, as far as that can be told.

    The rows come in the order of their rowids, with the nearest row on either side. They were written with INSERT OR
    REPLACE: the second pass gives a replaced second a new rowid at the end and leaves a hole. So a run that follows the
    row of before the hour without a hole, within a minute, and has a hole behind it is summer; one that follows a hole
    of its size, and is followed by the row of after the hour, is winter; and where the clock goes back, summer ended.
    What both or neither holds for stays open: so does a run alone, as VACUUM may have closed the hole before it, or the
    recorder may have been down for the first of the two hours.
    """
    runs = _runs(ticks)
    if not runs:
        return {}
    follows = before is not None and before.rowid + 1 == ticks[0].rowid and ticks[0].wall - SOON <= before.wall < hour
    leads = after is not None and ticks[-1].rowid + 1 == after.rowid and hour + HOUR <= after.wall < hour + 2 * HOUR
    backward = [place for place in range(1, len(runs)) if runs[place][0].wall <= runs[place - 1][-1].wall]
    if len(backward) > 1:
        return {}
    folds: list[int | None] = [None] * len(runs)
    if backward:
        folds = [int(place >= backward[0]) for place in range(len(runs))]
    else:
        earlier = runs[-2][-1] if len(runs) > 1 else before
        # A hole of a row or two is a second that was written twice.
        hole = runs[-1][0].rowid - earlier.rowid - 1 if earlier is not None else 0
        if leads and 2 * hole >= len(runs[-1]):
            folds[-1] = 1
        if follows and len(runs) > 1:
            folds[0] = 0
    return {tick.rowid: fold for run, fold in zip(runs, folds, strict=True) if fold is not None for tick in run}


def _runs(ticks: Sequence[Tick]) -> list[list[Tick]]:
    """Cut where a rowid is missing and where the clock goes back."""
    runs: list[list[Tick]] = []
    for tick in ticks:
        if runs and tick.rowid == runs[-1][-1].rowid + 1 and tick.wall > runs[-1][-1].wall:
            runs[-1].append(tick)
        else:
            runs.append([tick])
    return runs
