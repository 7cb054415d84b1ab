"""An invented Kalshi: the index, hourly events with their strikes, quotes and trades. No socket, no waiting.

Prices of the index are whole cents, prices of contracts whole cents of a dollar, counts whole hundredths,
times whole seconds or milliseconds since 1970 (UTC). All of it follows from the seed and the time alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from hashlib import blake2b
from math import isqrt
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from recio_ingest.demo.kalshi_clock import HOUR_S
from recio_ingest.demo.market import EPOCH_S, Market

INDEX = "BRTI"
DOLLAR = 100  # cents; a contract pays one or none
TICKS_PER_S = 4  # the index is the price of the simulated Coinbase's BTC-USD, at that one's default rate
WINDOW = 60  # prints whose mean settles an event: those stamped [T - 60 s, T)
STRIKES, STEP_CENTS = 20, 10_000  # strikes are $100 apart, around the index when the event is made
WIDTH_CENTS = 560  # how far the index goes in a second; grows with the root of the time that is left
CREATED_BEFORE_S = 2 * HOUR_S  # the venue makes them a day ahead; two hours are enough to see one unopened
DETERMINED_AFTER_S, SETTLED_AFTER_S = 90, 150
SETTLED_AGAIN_S = (0, 0, 2)  # `settled` is told more than once
KEEP_S = 2 * HOUR_S  # REST knows an event for so long after its close
NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell those who hold `channel` for `key` (a market, an index; empty: everybody)."""

    channel: str
    type: str
    key: str
    subject: Any
    word: str = ""


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade, its price in cents of the yes side."""

    trade_id: str
    ticker: str
    yes_cents: int
    count_e2: int
    taker: str
    ts_ms: int


@dataclass(slots=True, eq=False)
class Strike:
    """One market of an event: it resolves to yes if the index ends above `floor_cents`."""

    event: Event
    floor_cents: int
    ticker: str
    market_id: str
    bid: int = 0
    ask: int = DOLLAR
    volume_e2: int = 0
    open_interest_e2: int = 0
    last_cents: int = 0
    last_e2: int = 0
    trades: list[Trade] = field(default_factory=list)

    def size_e2(self, cents: int) -> int:
        """Return how much is offered at a price; nothing at the ends, where there is no quote."""
        return 100 + _dice(self.ticker, cents)[0] * 1100 if 0 < cents < DOLLAR else 0

    def quote(self, index_cents: int, left_s: int) -> bool:
        """Quote around a likelihood that follows the distance to the index; return whether that is new."""
        bid, ask = 0, DOLLAR  # what is told of an empty book, and after the close
        if left_s > 0:
            distance, width = index_cents - self.floor_cents, WIDTH_CENTS * isqrt(left_s)
            lean = 50 * distance**2 // (distance**2 + width**2)
            fair = 50 + lean if distance > 0 else 50 - lean
            bid, ask = max(0, fair - 1), min(DOLLAR, fair + 1)
        new = (bid, ask) != (self.bid, self.ask)
        self.bid, self.ask = bid, ask
        return new

    def take(self, trade: Trade, *, opens: bool) -> None:
        """Count a trade; one that opens makes new contracts, another hands on old ones."""
        self.trades.append(trade)
        self.last_cents, self.last_e2 = trade.yes_cents, trade.count_e2
        self.volume_e2 += trade.count_e2
        self.open_interest_e2 += trade.count_e2 if opens else 0


class Event:
    """The strikes of one series that close together on the hour `close_s`."""

    def __init__(self, series: str, close_s: int, index: Callable[[int], int], seed: int) -> None:
        self.series, self.close_s = series, close_s
        self.created_s, self.open_s = close_s - CREATED_BEFORE_S, close_s - HOUR_S
        self.determined_s, self.settled_s = close_s + DETERMINED_AFTER_S, close_s + SETTLED_AFTER_S
        self.ticker = f"{series}-{datetime.fromtimestamp(close_s, NEW_YORK):%y%b%d%H}".upper()
        self._index, self._name = index, f"{seed}/{self.ticker}/{close_s}"
        middle = (index(self.created_s) + STEP_CENTS // 2) // STEP_CENTS * STEP_CENTS
        floors = (middle + (i - STRIKES // 2) * STEP_CENTS - 1 for i in range(STRIKES))
        self.strikes = [self._strike(floor) for floor in floors]

    def _strike(self, floor: int) -> Strike:
        ticker = f"{self.ticker}-T{floor // 100}.{floor % 100:02d}"
        return Strike(self, floor, ticker, str(UUID(bytes=_dice(self._name, floor)[:16], version=4)))

    def status(self, now_s: int) -> str:
        """Return the market's state in the words of the venue's answers."""
        if now_s < self.open_s:
            return "initialized"
        after = ((self.close_s, "active"), (self.determined_s, "closed"), (self.settled_s, "determined"))
        return next((word for until, word in after if now_s < until), "finalized")

    @cached_property
    def value_cents(self) -> int:
        """Return what the event settles at: the mean of the last minute's prints, half a cent rounded up."""
        total = sum(self._index(s) for s in range(self.close_s - WINDOW, self.close_s))
        return (2 * total + WINDOW) // (2 * WINDOW)

    def result(self, strike: Strike) -> str:
        """Return how a strike resolves."""
        return "yes" if self.value_cents > strike.floor_cents else "no"

    def trade(self, now_s: int) -> Iterator[tuple[Strike, Trade]]:
        """Make the trades of the second that ends at `now_s`, at the quotes of its start."""
        dice = _dice(self._name, now_s)
        index = self._index(now_s - 1)
        for n in range((0, 0, 0, 1, 1, 2)[dice[0] % 6]):
            at = dice[1 + 29 * n : 30 + 29 * n]
            near = (index - self.strikes[0].floor_cents) // STEP_CENTS + at[0] % 7 - 3
            strike = self.strikes[min(max(near, 0), STRIKES - 1)]
            strike.quote(index, self.close_s - now_s + 1)
            taker = "yes" if at[1] % 2 else "no"
            cents = strike.ask if taker == "yes" else strike.bid
            if not 0 < cents < DOLLAR:
                continue
            count_e2 = 1 + (int.from_bytes(at[2:5]) >> at[5] % 12 + 6)
            ts_ms = now_s * 1000 - 1 - int.from_bytes(at[6:8]) % 500 - (0 if n else 500)
            trade = Trade(str(UUID(bytes=at[8:24], version=4)), strike.ticker, cents, count_e2, taker, ts_ms)
            strike.take(trade, opens=at[24] % 2 == 0)
            yield strike, trade


class Exchange:
    """All events of some series, second by second."""

    def __init__(self, series: Sequence[str], seed: int, now_s: int) -> None:
        self._market = Market("BTC-USD", seed, 1_000_000 // TICKS_PER_S)
        self.series, self._seed, self.now_s = tuple(series), seed, now_s
        first = (now_s - KEEP_S) // HOUR_S * HOUR_S + HOUR_S
        self.events: list[Event] = []
        for close_s in range(first, now_s + CREATED_BEFORE_S + 1, HOUR_S):
            self._create(close_s)
        for event in self.events:  # what has happened, without telling
            for s in range(event.open_s + 1, min(event.close_s, now_s) + 1):
                deque(event.trade(s), maxlen=0)
            for strike in event.strikes:
                strike.quote(self.index(now_s), event.close_s - now_s if event.status(now_s) == "active" else 0)

    def index(self, at_s: int) -> int:
        """Return the index print stamped with a second."""
        return self._market.price_cents((at_s - EPOCH_S) * TICKS_PER_S)

    def strike(self, ticker: str) -> Strike | None:
        """Find a market."""
        return next((strike for strike in self.strikes() if strike.ticker == ticker), None)

    def strikes(self) -> Iterator[Strike]:
        """Go through all markets, the oldest event first, the lowest strike first."""
        return (strike for event in self.events for strike in event.strikes)

    def step(self) -> list[News]:
        """Let the next second happen, and return its news in order."""
        self.now_s += 1
        now_s, news, traded = self.now_s, list[News](), set[Strike]()
        for event in self.events:
            if event.open_s < now_s <= event.close_s:
                for strike, trade in event.trade(now_s):
                    news.append(News("trade", "trade", trade.ticker, trade))
                    traded.add(strike)
        news.append(News("cfbenchmarks_value", "cfbenchmarks_value", INDEX, now_s))
        if now_s % HOUR_S == 0:
            self.events = [event for event in self.events if event.close_s > now_s - KEEP_S]
            for made in self._create(now_s + CREATED_BEFORE_S):
                news.append(News("market_lifecycle_v2", "event_lifecycle", "", made))
                news += _told(made, "created")
        for event in self.events:
            news += self._lifecycle(event)
            if event.open_s <= now_s <= event.close_s:
                index = self.index(now_s)
                for strike in event.strikes:
                    # Not `or`: the quote must be worked out in any case.
                    if strike.quote(index, event.close_s - now_s) | (strike in traded) | (now_s == event.close_s):
                        news.append(News("ticker", "ticker", strike.ticker, strike))
        return news

    def _lifecycle(self, event: Event) -> Iterator[News]:
        """Tell what changes now; that a market closes is not told."""
        if self.now_s == event.open_s:
            yield from _told(event, "activated")
        if self.now_s == event.determined_s:
            yield from _told(event, "determined")
        for again in SETTLED_AGAIN_S:
            if self.now_s == event.settled_s + again:
                yield from _told(event, "settled")

    def _create(self, close_s: int) -> list[Event]:
        # When New York's clocks go back, an hour has the name of the one before: the simulator leaves it out.
        if datetime.fromtimestamp(close_s, UTC).astimezone(NEW_YORK).fold:
            return []
        made = [Event(series, close_s, self.index, self._seed) for series in self.series]
        self.events += made
        return made


def _told(event: Event, word: str) -> Iterator[News]:
    return (News("market_lifecycle_v2", "market_lifecycle_v2", "", strike, word) for strike in event.strikes)


@lru_cache(maxsize=4096)
def _dice(name: str, n: int) -> bytes:
    """Return 64 random bytes that depend on nothing but `name` and `n`."""
    return blake2b(f"{name}/{n}".encode()).digest()
