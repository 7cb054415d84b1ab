"""The strike ladder: at each second, what the open strikes cost and how far they are from where the price stands.

Built from the rows that the parsers give, and from nothing else: whatever the tables hold builds the same ladder again
after a restart (`RECALL`). Only the newest spots, some hundred bytes, are carried in the state of the stream: to ask a
table for the newest arrival would take an index that every trade pays for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from operator import attrgetter
from typing import Any, NamedTuple

from recio_ingest.records import (
    BtcPrice,
    Frame,
    Gap,
    LiveStrike,
    MarketEvent,
    MarketState,
    Micros,
    Quarantined,
    Repaired,
    Row,
    SpotSource,
    make,
)

RECALL = ("strike_markets", "strike_quotes", "strike_rows")
"""What was told of the markets that are not over, in order; their newest quotes; the quotes of their last rows."""

NEAREST = 10
# A day of hourly events has some 5,000 markets.
MAX_MARKETS = 20_000

_QUOTES = frozenset({"ticker", "rest_quote"})
_OPEN = frozenset({"active", "activated"})
_STEPS = frozenset({"activated", "deactivated", "determined", "settled"})
"""The steps of a market's life that change whether it is open; all others leave that as it is."""
_STRIKE = {
    "greater": "floor_strike",
    "greater_or_equal": "floor_strike",
    "less": "cap_strike",
    "less_or_equal": "cap_strike",
    "between": "floor_strike",
}
"""Which of its numbers is a market's strike; one of another kind has none, and no place on the ladder."""
# A venue's number has twenty digits before the point and twenty after it, at most: their difference has 41.
_EXACT = Context(prec=100)
_NEVER: Micros = 2**63


class Market(NamedTuple):
    """What is known of a market. `word` is the last status or step that says whether it is open."""

    word: str | None = None
    event_ticker: str | None = None
    strike_type: str | None = None
    floor_strike: str | None = None
    cap_strike: str | None = None
    close_time: Micros | None = None


class Rung(NamedTuple):
    """One open strike, in its order on the ladder."""

    strike: Decimal
    ticker: str
    strike_price: str
    strike_type: str
    close_time: Micros


class Spot(NamedTuple):
    """Where the price stands, by one source."""

    price: str
    timestamp: Micros
    received_at: Micros


_told = attrgetter("status", *Market._fields[1:])
_quoted = attrgetter("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price", "volume", "open_interest")
_NOTHING = (None,) * 7
# A change of these four is a new row; volume and last price go along with it, and with the nearest.
_PRICES = slice(4)


class Ladder:
    """Keeps the open strikes of all events. `see` every row, and ask for the rows of a second's mark with `at`."""

    def __init__(
        self,
        sources: Sequence[SpotSource],
        spots: Mapping[str, Sequence[Any]],
        recalled: Mapping[str, Sequence[Sequence[Any]]],
    ) -> None:
        self._sources = {(source.venue, source.symbol): source.name for source in sources}
        self._ranked = [(source.name, source.within_us) for source in sorted(sources, key=lambda each: each.rank)]
        self._spots = {name: Spot(*kept) for name, kept in spots.items()}
        self._markets: dict[str, Market] = {}
        for ticker, *told in recalled.get("strike_markets", ()):
            self._learn(ticker, Market(*told))
        known = self._markets
        self._quotes = {name: tuple(quote) for name, *quote in recalled.get("strike_quotes", ()) if name in known}
        self._last = {name: tuple(quote) for name, *quote in recalled.get("strike_rows", ()) if name in known}
        self._changed: set[str] = set()
        self._events: list[tuple[str, list[Rung]]] = []
        self._stale = True
        self._next_close: Micros = _NEVER

    def state(self) -> dict[str, list[Any]]:
        """Return what no table gives back at a reasonable price, as plain JSON."""
        return {name: list(spot) for name, spot in self._spots.items()}

    def see(self, rows: Sequence[Row | Gap | Quarantined | Repaired]) -> None:
        """Take in what one frame gave."""
        for row in rows:
            if isinstance(row, MarketEvent):
                self._event(row)
            elif isinstance(row, BtcPrice):
                self._price(row)
            elif isinstance(row, MarketState):
                self._learn(row.ticker, Market(*_told(row)))

    def at(self, frame: Frame) -> tuple[LiveStrike, ...]:
        """Return the rows of a second's mark: what is quoted anew, and the strikes nearest to the spot."""
        now = frame.recv_ns // 1000
        if self._stale or now >= self._next_close:
            self._build(now)
        changed, self._changed = self._changed, set()
        source, price = self._spot(now)
        spot = None if price is None else Decimal(price)
        # Without a price that counts, the strikes around the last one are still those whose quotes are looked for.
        around = spot if spot is not None or not self._spots else Decimal(self._last_spot().price)
        rows: list[LiveStrike] = []
        for event, rungs in self._events:
            low, high = (0, 0) if around is None else nearest(rungs, around)
            for place, rung in enumerate(rungs):
                if not (low <= place < high or (changed and rung.ticker in changed)):
                    continue
                quote = self._quotes.get(rung.ticker, _NOTHING)
                if not low <= place < high and self._last.get(rung.ticker) == quote[_PRICES]:
                    continue
                self._last[rung.ticker] = quote[_PRICES]
                distance = None if spot is None else format(_EXACT.subtract(spot, rung.strike), "f")
                about = (now, now, event, rung.ticker, rung.strike_price, rung.strike_type)
                left = _seconds(rung.close_time - now)
                rows.append(
                    make(LiveStrike, (*about, *quote, price, source, distance, left, frame.frame_no, len(rows)))
                )
        return tuple(rows)

    def _price(self, row: BtcPrice) -> None:
        name = self._sources.get((row.venue, row.symbol))
        if name is None:
            return
        kept = self._spots.get(name)
        # One that comes late (out of order, or by repair) is not the newest; one stamped in the future is not for long.
        if kept is None or row.timestamp >= min(kept.timestamp, kept.received_at):
            self._spots[name] = make(Spot, (row.price, row.timestamp, row.received_at))

    def _spot(self, now: Micros) -> tuple[str | None, str | None]:
        for name, within_us in self._ranked:
            kept = self._spots.get(name)
            if kept is not None and (within_us is None or now - kept.received_at <= within_us):
                return name, kept.price
        return None, None

    def _last_spot(self) -> Spot:
        return max(self._spots.values(), key=lambda kept: kept.received_at)

    def _event(self, row: MarketEvent) -> None:
        ticker = row.ticker
        if ticker is None or ticker not in self._markets:  # nothing counts of a market before it was described
            return
        if row.event_type in _QUOTES:
            self._quotes[ticker] = _quoted(row)
            self._changed.add(ticker)
        elif row.event_type in _STEPS:
            self._learn(ticker, Market(row.event_type))

    def _learn(self, ticker: str, told: Market) -> None:
        """Put what was told over what was known. Who closes when, unknown, is no market yet: it could never leave."""
        known = self._markets.get(ticker)
        if known is None:
            if told.close_time is None:
                return
            if len(self._markets) >= MAX_MARKETS:
                self._forget(next(iter(self._markets)))
        else:
            told = known._replace(**{name: fact for name, fact in told._asdict().items() if fact is not None})
        if told != known:
            self._markets[ticker] = told
            self._stale = True

    def _forget(self, ticker: str) -> None:
        del self._markets[ticker]
        self._quotes.pop(ticker, None)
        self._last.pop(ticker, None)

    def _build(self, now: Micros) -> None:
        """Put the open strikes in order, and forget the markets that are over."""
        for ticker in [name for name, market in self._markets.items() if (market.close_time or 0) <= now]:
            self._forget(ticker)
        events: dict[str, list[Rung]] = {}
        for ticker, market in self._markets.items():
            rung = _rung(ticker, market)
            if rung is not None:
                events.setdefault(str(market.event_ticker), []).append(rung)
        self._events = [(event, sorted(rungs)) for event, rungs in sorted(events.items())]
        # What opens now may have been quoted before.
        self._changed.update(rung.ticker for _, rungs in self._events for rung in rungs)
        self._next_close = min((market.close_time or 0 for market in self._markets.values()), default=_NEVER)
        self._stale = False


def nearest(rungs: Sequence[Rung], spot: Decimal) -> tuple[int, int]:
    """Return where the strikes nearest to the spot begin and end; of two as far, the lower one is nearer."""
    low = high = bisect_left(rungs, spot, key=lambda rung: rung.strike)
    while high - low < min(NEAREST, len(rungs)):
        if high == len(rungs) or (
            low and _EXACT.subtract(spot, rungs[low - 1].strike) <= _EXACT.subtract(rungs[high].strike, spot)
        ):
            low -= 1
        else:
            high += 1
    return low, high


def _rung(ticker: str, market: Market) -> Rung | None:
    """Return the place on the ladder of a market that is open, and whose event and strike are known."""
    event, kind = market.event_ticker, market.strike_type
    # A text is the venue's; one that no table takes would cost every second's rows.
    if market.word not in _OPEN or not event or not event.isascii() or not event.isprintable():
        return None
    strike = getattr(market, _STRIKE[kind]) if kind in _STRIKE else None
    if kind is None or strike is None or market.close_time is None:
        return None
    return Rung(Decimal(strike), ticker, strike, kind, market.close_time)


def _seconds(left_us: Micros) -> str:
    return f"{left_us // 1_000_000}.{left_us // 1000 % 1000:03d}"
