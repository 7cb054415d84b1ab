"""An invented market whose every trade can be worked out again: no history is kept, and none is ever lost.

Prices are whole cents, sizes whole 1e-8 of the base currency, times whole microseconds since EPOCH (UTC).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from math import isqrt
from uuid import UUID

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)  # trade 0; puts today's ids near the real venues' own, nine digits
EPOCH_S = int(EPOCH.timestamp())
BASE_CENTS = {"BTC-USD": 11_250_000, "ETH-USD": 412_500}
OTHER_BASE_CENTS = 100_000
OCTAVES = 8  # noise over 1, 8, 64 .. 8**7 trades: six days at 4 trades/s
# A walk's range grows with the root of its length: a 40,000th a trade is about 1 % a day at 4 trades/s.
STEP_PART = 40_000
SWEEP_OF_256 = 64  # so many of the odd trades are the second maker of the taker before
# After the machine slept, older trades are not announced, only found by asking, as after a venue's outage.
# Less than a client's queue holds, so that the rest alone never drops a client.
CATCH_UP_TRADES = 1500


@lru_cache(maxsize=2048)
def _dice(name: str, n: int) -> bytes:
    """Return 64 random bytes that depend on nothing but `name` and `n`."""
    return blake2b(f"{name}/{n}".encode()).digest()


@lru_cache(maxsize=8192)  # neighbouring trades share nearly all of their noise
def _noise(name: str, n: int) -> int:
    """Return a number from -2**31 to 2**31 - 1 that depends on nothing but `name` and `n`."""
    return int.from_bytes(blake2b(f"{name}/{n}".encode(), digest_size=4).digest(), signed=True)


def now_us() -> int:
    """Return the microseconds since EPOCH."""
    return time.time_ns() // 1000 - EPOCH_S * 1_000_000


class Market:
    """One product, whose trade n is a pure function of seed, product, interval and n.

    A venue that is started again has the same trades as before, and those of the time it was away, so a
    recorder that was down can ask for what it missed. With another seed or interval it is another market,
    whose ids do not go on from the old ones.
    """

    def __init__(self, product: str, seed: int, interval_us: int) -> None:
        self.product = product
        self.interval_us = interval_us
        self._name = f"{seed}/{product}"
        self._base_cents = BASE_CENTS.get(product, OTHER_BASE_CENTS)
        self._octaves = [
            (f"{self._name}/{k}", 8**k, self._base_cents * isqrt(8**k) // STEP_PART) for k in range(OCTAVES)
        ]
        self.last_id = self._newest(now_us())

    def advance(self, to_us: int) -> range:
        """Let every trade until `to_us` happen; return the ids to announce (a clock set back: none)."""
        before, self.last_id = self.last_id, max(self.last_id, self._newest(to_us))
        return range(max(before + 1, self.last_id - CATCH_UP_TRADES + 1), self.last_id + 1)

    def time_us(self, n: int) -> int:
        """Return when trade n happens: never before trade n - 1."""
        leader = self._leader(n)
        return leader * self.interval_us + self.roll(leader, 0, 4) % self.interval_us

    def price_cents(self, n: int) -> int:
        """Return the price: noise on every time scale, which never leaves 6 % around the base."""
        price = self._base_cents
        for name, span, cents in self._octaves:
            i, part = divmod(n, span)
            here = _noise(name, i)
            there = _noise(name, i + 1) if part else 0
            price += (here * (span - part) + there * part) * cents // (span << 31)
        return price

    def size_e8(self, n: int) -> int:
        """Return the size: mostly dust, now and then more than one whole unit."""
        return 1 + (self.roll(n, 4, 4) % 2**28 >> self.roll(n, 8, 1) % 20)

    def maker_side(self, n: int) -> str:
        """Return the side of the order that lay in the book."""
        return "buy" if self.roll(self._leader(n), 9, 1) % 2 else "sell"

    def maker_and_taker(self, n: int) -> tuple[str, str]:
        """Return the ids of the two orders; one taker may meet two makers."""
        ids = _dice(self._name, n)[32:48], _dice(self._name, self._leader(n))[48:64]
        maker, taker = (str(UUID(bytes=order_id, version=4)) for order_id in ids)
        return maker, taker

    def sequence(self, n: int) -> int:
        """Return the book's sequence: rises with every trade, and in between for orders that are not told."""
        return n * 64 + self.roll(n, 10, 1) % 64

    def roll(self, n: int, at: int, size: int) -> int:
        """Return `size` random bytes of trade n, from `at` (0 to 63), as a number; 16 to 31 are free."""
        return int.from_bytes(_dice(self._name, n)[at : at + size])

    def _leader(self, n: int) -> int:
        """Return the first trade of n's taker: n itself, or the trade before."""
        return n - 1 if n % 2 and self.roll(n, 11, 1) < SWEEP_OF_256 else n

    def _newest(self, at_us: int) -> int:
        n = at_us // self.interval_us + 1
        while self.time_us(n) > at_us:
            n -= 1
        return n
