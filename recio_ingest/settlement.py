"""Whether a venue settled an event on the value that its own index gave, from the prints that were recorded.

An event that closes at T is settled on the mean of the index's 60 prints in [T - 60 s, T), one a second, rounded half
up to cents. The venue's rules say so in words; that exact form was found by others on 10,075 expirations up to
2026-09-25. Before 2026-08-21 a half cent was rounded in another way.

Nothing is guessed: with one print missing there is no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import floor
from typing import NamedTuple

from recio_ingest.records import Micros, aware

SECOND_US = 1_000_000
PRINTS = 60
# A print is sent some milliseconds after its second, so a line that broke just after a second has lost that one too.
PRINT_DELAY_US = SECOND_US
# Beyond, a `why` is for nobody to read.
MAX_RANGES = 5

Print = tuple[Micros, Decimal]
"""The venue's time, and the index."""


class Rule(NamedTuple):
    """Which events are settled so: those of these series, on the prints of this index."""

    venue: str
    series: tuple[str, ...]
    index_venue: str
    symbol: str
    feed: str
    """Whose gaps explain a missing print, and below by which channel."""
    channel: str


class Result(StrEnum):
    """What a check found."""

    EQUAL = "equal"
    DIFFERS = "differs"
    INCOMPLETE = "incomplete"
    UNPUBLISHED = "unpublished"


class Event(NamedTuple):
    """An event as its markets were last described: each close, and each value that is named, once."""

    event_ticker: str
    close_times: Sequence[Micros]
    published: Sequence[Decimal]
    computed: Decimal | None = None
    """What an earlier check made of all prints of this close."""


class Hole(NamedTuple):
    """A gap of the ledger in the index's channel; `to_time` is None while it is open."""

    frame_no: int
    gap_no: int
    cause: str
    from_time: Micros
    to_time: Micros | None


class Settlement(NamedTuple):
    """A row of `ingest.settlements`. `computed` is None without all prints, `why` where all is well."""

    event_ticker: str
    venue: str
    close_time: Micros
    prints: int
    computed: Decimal | None
    published: Decimal | None
    outcome: Result
    why: str | None


def mean(prices: Sequence[Decimal]) -> Decimal:
    """Return the mean, rounded half up to cents; once, where a context of 28 digits could round twice."""
    cents = floor(sum(map(Fraction, prices), Fraction()) * 100 / len(prices) + Fraction(1, 2))
    return Decimal(cents).scaleb(-2)


def minute(close_time: Micros) -> range:
    """Return the seconds whose prints count for a close."""
    first = -(-(close_time - PRINTS * SECOND_US) // SECOND_US)
    return range(first * SECOND_US, (first + PRINTS) * SECOND_US, SECOND_US)


def by_second(close_time: Micros, prints: Iterable[Print]) -> dict[Micros, set[Decimal]]:
    """Return what was printed for each second of the minute, in whatever order and however often it was stored."""
    seconds = minute(close_time)
    found: dict[Micros, set[Decimal]] = {}
    for moment, price in prints:
        if moment in seconds:
            found.setdefault(moment, set()).add(price)
    return found


def check(rule: Rule, event: Event, prints: Iterable[Print], holes: Sequence[Hole] = ()) -> Settlement:
    """Return what the prints say of an event's settlement. `holes` are those that touch its minute."""
    close_time, published = max(event.close_times), event.published[0] if event.published else None
    found = by_second(close_time, prints)
    row = Settlement(event.event_ticker, rule.venue, close_time, len(found), None, published, Result.INCOMPLETE, None)
    if event.computed is not None and not found:  # all of them are gone: they went to the archive, and were true
        return _compare(row._replace(prints=PRINTS, computed=event.computed), event.computed, event.published)
    if why := _incomplete(event, found, holes):
        return row._replace(why=why)
    computed = mean([price for prices in found.values() for price in prices])
    return _compare(row._replace(computed=computed), computed, event.published)


def _incomplete(event: Event, found: Mapping[Micros, set[Decimal]], holes: Sequence[Hole]) -> str:
    """Say why there is no value; empty where there is one."""
    if len(event.close_times) > 1:
        return f"its markets close at different times: {', '.join(map(_clock, sorted(event.close_times)))}"
    if missing := [second for second in minute(event.close_times[0]) if second not in found]:
        return f"{len(found)} of {PRINTS} prints; missing {_missing(missing, holes)}"
    doubtful = sorted(second for second, prices in found.items() if len(prices) > 1)
    return f"more than one value for {_ranges(doubtful)}" if doubtful else ""


def _compare(row: Settlement, computed: Decimal, published: Sequence[Decimal]) -> Settlement:
    if not published:
        return row._replace(outcome=Result.UNPUBLISHED, why="the venue has not published a value")
    wrong = [value for value in published if value != computed]
    if not wrong:
        return row._replace(outcome=Result.EQUAL)
    why = "; ".join(f"published {value:f}, which is {value - computed:+f}" for value in wrong)
    return row._replace(outcome=Result.DIFFERS, published=wrong[0], why=f"the prints give {computed:f}; {why}")


def _missing(seconds: Sequence[Micros], holes: Sequence[Hole]) -> str:
    """Say which seconds are missing, and what the ledger says of them."""
    covering = [hole for hole in holes if any(_covers(hole, second) for second in seconds)]
    bare = [second for second in seconds if not any(_covers(hole, second) for hole in covering)]
    words = [_ranges(seconds), *map(_told, covering[:MAX_RANGES])]
    if len(covering) > MAX_RANGES:
        words.append(f"{len(covering) - MAX_RANGES} more gaps")
    if bare:
        words.append("in no gap" if bare == seconds else f"in no gap: {_ranges(bare)}")
    return "; ".join(words)


def _covers(hole: Hole, second: Micros) -> bool:
    return hole.from_time - PRINT_DELAY_US <= second and (hole.to_time is None or second <= hole.to_time)


def _told(hole: Hole) -> str:
    until = "and still open" if hole.to_time is None else f"to {_clock(hole.to_time)}"
    return f"gap {hole.frame_no}/{hole.gap_no} ({hole.cause}, {_clock(hole.from_time)} {until})"


def _ranges(seconds: Sequence[Micros]) -> str:
    """Write ascending seconds as ranges."""
    ranges: list[list[Micros]] = []
    for second in seconds:
        if ranges and second == ranges[-1][1] + SECOND_US:
            ranges[-1][1] = second
        else:
            ranges.append([second, second])
    words = [_clock(a) if a == b else f"{_clock(a)} to {_clock(b)}" for a, b in ranges[:MAX_RANGES]]
    if len(ranges) > MAX_RANGES:
        words.append(f"and {len(ranges) - MAX_RANGES} more")
    return ", ".join(words)


def _clock(moment: Micros) -> str:
    return aware(moment).isoformat(timespec="milliseconds" if moment % SECOND_US else "seconds").replace("+00:00", "Z")
