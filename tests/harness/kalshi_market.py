"""An hour's markets of which every message is a pure function of its number, so that any row can be computed again.

One number runs over tickers and trades: of every `trade_every` numbers the last is a trade, the others are tickers of
the same market. The index has the second as its number.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

from harness.haste import Haste
from harness.kalshi_messages import Print, Ticker, Trade, hundredths, uuid

NEW_YORK = ZoneInfo("America/New_York")
SECOND_NS = 1_000_000_000
OUTCOMES = ("yes", "no")
KINDS = ("ticker", "trade", "print")

DECIMALS = 4
# Some prices come with six decimals, as the venue allows: none of them may be lost.
FINE_EVERY, FINE_DECIMALS = 50, 6
LOWEST_STRIKE, STRIKE_STEP = 115_000, 100
# Index prices move within one per cent above this one.
LOWEST_CENTS, CENTS = 11_500_000, 115_000


@lru_cache(maxsize=4096)
def market_names(event: str, place: int) -> tuple[str, str]:
    """The ticker and the id of one market of an event."""
    digest = blake2b(f"{event} {place}".encode(), digest_size=16).hexdigest()
    strike = hundredths((LOWEST_STRIKE + STRIKE_STEP * place) * 100 - 1)
    return f"{event}-T{strike}", uuid(digest)


@dataclass(frozen=True)
class Exchange:
    """One event, one message every `step_ns` since `start_ns`, whether or not anybody is connected."""

    series: str
    event: str
    markets: int
    trade_every: int
    first: int
    start_ns: int
    step_ns: int
    print_delay_ms: int
    close_s: int
    haste: tuple[int, int, int] = Haste()

    @classmethod
    def open_now(cls, series: str, markets: int, trade_every: int, rate: float, print_delay_ms: int) -> Exchange:
        """Open an event that closes in some hours, and begin to trade it."""
        start_ns = time.time_ns()
        close_s = (start_ns // SECOND_NS // 3600 + 4) * 3600
        event = f"{series}-{datetime.fromtimestamp(close_s, NEW_YORK):%y%b%d%H}".upper()
        step_ns = int(1e9 / rate)
        return cls(series, event, markets, trade_every, 1_000_000, start_ns, step_ns, print_delay_ms, close_s)

    @property
    def tickers(self) -> list[str]:
        """All markets."""
        return [market_names(self.event, place)[0] for place in range(self.markets)]

    def kind(self, number: int) -> str:
        """What the message of a number is."""
        return "trade" if number % self.trade_every == self.trade_every - 1 else "ticker"

    def place(self, number: int) -> int:
        """Which market the message of a number is about."""
        return number // self.trade_every % self.markets

    def market(self, number: int) -> str:
        """The ticker of that market."""
        return market_names(self.event, self.place(number))[0]

    def last(self, kind: str, number: int) -> int:
        """The number of the last message of a kind, of those until `number`."""
        back = range(number, number - self.trade_every - 1, -1)
        return next(each for each in back if kind == "print" or self.kind(each) == kind)

    def before(self, kind: str, number: int) -> int:
        """The number of the message of a kind that precedes this one."""
        return self.last(kind, number - 1)

    def time_ns(self, number: int) -> int:
        """When the message of a number is made; tickers and trades tell it in milliseconds."""
        return Haste(*self.haste).clock_ns(self.start_ns + (number - self.first) * self.step_ns)

    def newest(self, now_ns: int) -> int:
        """The number of the last message made by then."""
        return self.first + (Haste(*self.haste).made_ns(now_ns) - self.start_ns) // self.step_ns

    def newest_second(self, now_ns: int) -> int:
        """The last second of the index that is told by then."""
        return (now_ns - self.print_delay_ms * 1_000_000) // SECOND_NS

    def latest(self, place: int, newest: int) -> int:
        """The number of a market's last ticker, of those until `newest`."""
        block = newest // self.trade_every
        block -= (block - place) % self.markets
        return min(newest, (block + 1) * self.trade_every - 2)

    def dice(self, number: int) -> list[int]:
        """Eight numbers of 32 bits that belong to this number alone."""
        digest = blake2b(f"{self.event} {number}".encode(), digest_size=32).digest()
        return [int.from_bytes(digest[at : at + 4], "big") for at in range(0, 32, 4)]

    def decimals(self, number: int) -> int:
        """How many decimals the prices of a message have."""
        return FINE_DECIMALS if number % FINE_EVERY in {6, 7} else DECIMALS

    def ticker(self, number: int) -> Ticker:
        """Compute the ticker of that number; one in eight has an empty side, one in sixteen has two."""
        dice, decimals = self.dice(number), self.decimals(number)
        one, empty = 10**decimals, dice[0] % 16
        bid = 1 + dice[1] % (one - 2)
        ask = bid + 1 + dice[2] % (one - 1 - bid)
        no_bid, no_ask = empty in {0, 1}, empty in {0, 2}
        return Ticker(
            number,
            *market_names(self.event, self.place(number)),
            decimals,
            None if no_bid else bid,
            0 if no_bid else 1 + dice[3] % 5_000_000,
            None if no_ask else ask,
            0 if no_ask else 1 + dice[4] % 5_000_000,
            1 + dice[5] % (one - 1),
            1 + dice[6] % 100_000,
            dice[7],
            self.time_ns(number) // 1_000_000,
        )

    def trade(self, number: int) -> Trade:
        """Compute the trade of that number."""
        dice, decimals = self.dice(number), self.decimals(number)
        return Trade(
            number,
            self.market(number),
            uuid(f"{number:012x}{dice[0]:08x}{dice[1]:08x}{dice[2]:08x}"),
            decimals,
            1 + dice[3] % (10**decimals - 1),
            1 + dice[4] % 500_000,
            OUTCOMES[dice[5] % 2],
            self.time_ns(number) // 1_000_000,
        )

    def print(self, second: int) -> Print:
        """Compute the index at that second."""
        return Print(second, LOWEST_CENTS + self.dice(second)[0] % CENTS, self.print_delay_ms)

    def body(self, kind: str, number: int) -> dict[str, Any]:
        """The `msg` of a message."""
        made: Ticker | Trade | Print = getattr(self, kind)(number)
        return made.body()

    def venue_us(self, kind: str, number: int) -> int:
        """The time that a message tells of itself, in microseconds."""
        return number * 1_000_000 if kind == "print" else self.time_ns(number) // 1_000_000 * 1000
