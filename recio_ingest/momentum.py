"""What a price says beside the earlier ones of its (venue, symbol): the last minute's mean, the changes, the momentum.

* A change over n minutes is the percent by which a price differs from the last price at or before (t - n minutes): by
  `timestamp`, among the rows that arrived earlier; of several with one timestamp the one that arrived last. It is
  rounded half-even to 6 decimals, and None where there is no such price.
* `momentum` is the weighted mean of the changes before they are rounded, over those that exist (the weights
  renormalised), rounded half-even to 6 decimals; None where no change exists.
* `one_minute_avg` is the mean of the prices with a timestamp in (t - 60 s, t], of the rows that arrived earlier and of
  this one, rounded half-even to 8 decimals. So every row that was live has one.

Everything is exact: prices are whole numbers of 10^-20, quotients are rounded once, no float and no context.

A window reaches back 31 minutes from its clock: the largest of its rows' timestamps, where one that lies after its
arrival counts with its arrival, or a single row of the future would empty the window. It keeps one price more, the last
at or before that, for whatever is quiet for longer. Thus a row that is up to a minute late has all its changes; what
an even later one would have to be compared with may be gone, and is None. What a window holds depends on the rows that
arrived and on nothing else, so that it can be built again from the tables (`Windows.wanted`, `state`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from recio_ingest.numeric import pack
from recio_ingest.records import BtcPrice, Micros, Packed, make

MINUTE_US = 60_000_000
REACH_US = 31 * MINUTE_US
MAX_PRICES = 200_000
"""Per window, 90 bytes each: a hundred trades a second. Beyond, the oldest go, and the long changes become None."""
MAX_WINDOWS = 1000
"""Rows of further symbols have no derived columns. The venue with the most has some 500."""

_WEIGHTS = ((1, 6), (2, 5), (3, 4), (4, 3), (15, 1), (30, 1))
"""Minutes and weight; a weight of 1 is 0.05. In ascending order: where one has no price, the longer have none."""
_AGES = tuple((minutes * MINUTE_US, weight) for minutes, weight in _WEIGHTS)
_NO_CHANGE = tuple((None,) * missing for missing in range(len(_WEIGHTS) + 1))

# As many decimals as the parsers let in.
_DECIMALS = 20
_SHIFT = tuple(10 ** (_DECIMALS - decimals) for decimals in range(_DECIMALS + 1))
_MEAN_UNIT = 10 ** (_DECIMALS - 8)
_HUNDRED_PERCENT = 100 * 10**6
# Bits beyond the sixth decimal: enough to round a sum of quotients as the exact sum would be, but once in 10^18.
_GUARD_BITS = 64
_GUARD = 1 << _GUARD_BITS
_HALF = _GUARD // 2
_REST = _GUARD - 1
_RATIO = _HUNDRED_PERCENT * _GUARD
_COMPACT_AT = 1024

Derived = tuple[Packed | None, ...]
"""`one_minute_avg`, `momentum`, and the changes from the shortest to the longest."""
Wanted = tuple[str, str, Micros]
"""What a window wants to have back: venue, symbol, and after which time."""


class Window:
    """The last prices of one (venue, symbol), in order of their timestamps, then of their arrival."""

    def __init__(self) -> None:
        self.clock: Micros = 0
        self._times: list[Micros] = []
        self._prices: list[int] = []
        self._first = 0  # those before it are gone, and are taken out a thousand at a time
        self._minute = 0  # the first of the minute that ends with the newest
        self._minute_sum = 0

    def add(self, moment: Micros, received_at: Micros, price: str) -> Derived:
        """Take the next row in; return what it has beside the earlier ones."""
        value = _whole(price)
        mean = self._insert(moment, value)
        changes = self._changes(moment, value)
        self._drop(min(moment, received_at))
        return (mean, *changes)

    def restore(self, clock: Micros, rows: Iterable[tuple[Micros, str]]) -> None:
        """Begin with these rows, ordered as a window is."""
        self.clock = clock
        for moment, price in rows:
            self._insert(moment, _whole(price))

    def oldest(self) -> tuple[Micros, str] | None:
        """Return the one price that lies before the reach, if there is one."""
        if not self._times:
            return None  # its rows are no longer where they were read again
        moment = self._times[self._first]
        return (moment, _plain(self._prices[self._first])) if moment <= self.clock - REACH_US else None

    def _insert(self, moment: Micros, value: int) -> Packed:
        """Put a price into its place; return the mean of the minute that ends with it."""
        times, prices = self._times, self._prices
        start = moment - MINUTE_US
        if not times or moment >= times[-1]:
            times.append(moment)
            prices.append(value)
            self._minute_sum += value
            while times[self._minute] <= start:
                self._minute_sum -= prices[self._minute]
                self._minute += 1
            return _mean(self._minute_sum, len(times) - self._minute)
        at = bisect_right(times, moment, self._first)
        times.insert(at, moment)
        prices.insert(at, value)
        if moment > times[-1] - MINUTE_US:
            self._minute_sum += value
        else:
            self._minute += 1
        near = prices[bisect_right(times, start, self._first) : at + 1]
        return _mean(sum(near), len(near))

    def _changes(self, moment: Micros, value: int) -> Derived:
        """Return the momentum, and every change."""
        times, prices, first = self._times, self._prices, self._first
        scaled = value * _RATIO
        at, total, weights = len(times), 0, 0
        changes: list[Packed] = []
        for age, weight in _AGES:
            at = bisect_right(times, moment - age, first, at)
            if at == first:
                break
            before = prices[at - 1]
            ratio = scaled // before
            total += weight * ratio
            weights += weight
            ratio += _HALF
            change = (ratio >> _GUARD_BITS) - _HUNDRED_PERCENT
            if not ratio & _REST and change & 1 and not scaled % before:
                change -= 1  # exactly between two: to the even one
            changes.append(_percent(change))
        if not weights:
            return _NONE
        momentum, rest = divmod(total + weights * _HALF, weights * _GUARD)
        if not 0 < rest <= weights * _REST:  # each quotient may be one too small, which might matter here
            momentum = self._exactly(moment, value)
        return (_percent(momentum - _HUNDRED_PERCENT), *changes, *_NO_CHANGE[len(_AGES) - len(changes)])

    def _exactly(self, moment: Micros, value: int) -> int:
        """Return the weighted mean of the ratios, in millionths of a percent, rounded half-even."""
        found = [(bisect_right(self._times, moment - age, self._first), weight) for age, weight in _AGES]
        held = [(self._prices[at - 1], weight) for at, weight in found if at > self._first]
        total = sum((Fraction(weight * value, before) for before, weight in held), Fraction())
        return round(total * _HUNDRED_PERCENT / sum(weight for _, weight in held))

    def _drop(self, moment: Micros) -> None:
        """Let the clock go on, and what is out of reach go."""
        self.clock = max(self.clock, moment)
        times, last = self._times, len(self._times) - 1
        limit = self.clock - REACH_US
        while self._first < last and (times[self._first + 1] <= limit or last - self._first >= MAX_PRICES):
            if self._minute == self._first:
                self._minute_sum -= self._prices[self._first]
                self._minute += 1
            self._first += 1
        if self._first >= _COMPACT_AT and 2 * self._first > last:
            del times[: self._first], self._prices[: self._first]
            self._minute -= self._first
            self._first = 0


class Windows:
    """Every window, begun from a committed state and from what the tables hold of its rows.

    `rows` are (venue, symbol, timestamp, price): those that `wanted` asks for.
    """

    def __init__(self, state: Sequence[Sequence[Any]] = (), rows: Iterable[Sequence[Any]] = ()) -> None:
        held: dict[tuple[str, str], list[tuple[Micros, str]]] = {}
        for venue, symbol, _, oldest in state:
            held[venue, symbol] = [(oldest[0], oldest[1])] if oldest else []
        for venue, symbol, moment, price in rows:
            held[venue, symbol].append((moment, price))
        self._windows = {name: Window() for name in held}
        for venue, symbol, clock, _ in state:
            self._windows[venue, symbol].restore(clock, held[venue, symbol])

    def derive(self, row: BtcPrice) -> BtcPrice:
        """Return the row with its derived columns, and keep its price for the next."""
        moment, received_at, venue, symbol, price = row[:5]
        window = self._windows.get((venue, symbol))
        if window is None:
            if len(self._windows) >= MAX_WINDOWS:
                return row
            window = self._windows[venue, symbol] = Window()
        return make(BtcPrice, row[:_GIVEN] + window.add(moment, received_at, price))

    def state(self) -> list[Any]:
        """Return what the tables do not say, as plain JSON: which windows there are, their clocks, their oldest."""
        return [[*name, window.clock, window.oldest()] for name, window in self._windows.items()]


_GIVEN = BtcPrice._fields.index("one_minute_avg")
_NONE = (None,) * (len(_AGES) + 1)


def wanted(state: Mapping[str, Any]) -> list[Wanted]:
    """Return which rows the windows of a decoder's committed state want to have back."""
    return [(venue, symbol, clock - REACH_US) for venue, symbol, clock, _ in state.get("windows", ())]


@lru_cache(maxsize=4096)  # prices repeat
def _whole(price: str) -> int:
    """Return a decimal text as a whole number of 10^-20. Raises IndexError for more decimals."""
    whole, _, fraction = price.partition(".")
    unit: int = _SHIFT[len(fraction)]
    return int(whole + fraction) * unit


def _plain(value: int) -> str:
    whole, part = divmod(value, _SHIFT[0])
    return f"{whole}.{part:0{_DECIMALS}d}".rstrip("0").rstrip(".")


@lru_cache(maxsize=16_384)  # a price moves by ticks, and within minutes not far
def _percent(millionths: int) -> Packed:
    return pack(millionths, 6)


def _mean(total: int, count: int) -> Packed:
    """Return total / count, rounded half-even to 8 decimals."""
    unit = count * _MEAN_UNIT
    mean, rest = divmod(total + unit // 2, unit)
    if not rest and mean & 1:
        mean -= 1
    return pack(mean, 8)
