"""A market whose every trade is a pure function of its number, so that any row can be computed again."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from harness.haste import Haste

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SIDES = ("buy", "sell")
# Prices move within one per cent above this one, whatever the product.
LOWEST_CENTS = 11_500_000
CENTS = 115_000
TICK = Decimal("0.01")


class Trade(NamedTuple):
    """One trade in the words of the venue; `maker_side` is what its messages call `side`."""

    product: str
    trade_id: int
    price: str
    size: str
    maker_side: str
    time: datetime
    maker_order_id: str
    taker_order_id: str

    @property
    def taker_side(self) -> str:
        """The side that the tables hold: who took, not who waited."""
        return SIDES[1 - SIDES.index(self.maker_side)]

    def fields(self) -> dict[str, str | int]:
        """What the websocket messages and the REST answer have in common."""
        return {
            "trade_id": self.trade_id,
            "maker_order_id": self.maker_order_id,
            "taker_order_id": self.taker_order_id,
            "side": self.maker_side,
            "size": self.size,
            "price": self.price,
            "time": self.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def message(self, kind: str = "match") -> dict[str, str | int]:
        """The websocket's message, `match` or `last_match`."""
        return {
            "type": kind,
            **self.fields(),
            "product_id": self.product,
            "sequence": 7 * self.trade_id,  # the order book's: it rises, and not by one
        }

    def ticker(self) -> dict[str, str | int]:
        """The ticker that follows this trade."""
        return {
            "type": "ticker",
            "sequence": 7 * self.trade_id + 1,
            "product_id": self.product,
            "price": self.price,
            "open_24h": "115000.00",
            "volume_24h": "42492.05081975",
            "low_24h": "115000.00",
            "high_24h": "116150.00",
            "volume_30d": "1093827.95195495",
            "best_bid": str(Decimal(self.price) - TICK),
            "best_bid_size": self.size,
            "best_ask": str(Decimal(self.price) + TICK),
            "best_ask_size": self.size,
            "side": self.taker_side,
            "time": self.fields()["time"],
            "trade_id": self.trade_id,
            "last_size": self.size,
        }


def _uuid(text: str) -> str:
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:32]}"


@dataclass(frozen=True)
class Market:
    """A product traded every `step_ns` since `start_ns`, whether or not anybody is connected."""

    product: str
    first_id: int
    start_ns: int
    step_ns: int
    haste: tuple[int, int, int] = Haste()

    def trade(self, trade_id: int) -> Trade:
        """Compute the trade of that number."""
        dice = hashlib.blake2b(f"{self.product} {trade_id}".encode(), digest_size=48).hexdigest()
        cents = LOWEST_CENTS + int(dice[64:72], 16) % CENTS
        lots = 1 + int(dice[72:84], 16) % 300_000_000
        due_ns = self.start_ns + (trade_id - self.first_id) * self.step_ns
        microseconds = Haste(*self.haste).clock_ns(due_ns) // 1000
        return Trade(
            product=self.product,
            trade_id=trade_id,
            price=f"{cents // 100}.{cents % 100:02}",
            size=f"{lots // 10**8}.{lots % 10**8:08}",
            maker_side=SIDES[int(dice[84:86], 16) % 2],
            time=EPOCH + timedelta(microseconds=microseconds),
            maker_order_id=_uuid(dice[:32]),
            taker_order_id=_uuid(dice[32:64]),
        )

    def newest_id(self, now_ns: int | None = None) -> int:
        """The number of the last trade made by then."""
        return self.first_id + (Haste(*self.haste).made_ns(now_ns or time.time_ns()) - self.start_ns) // self.step_ns
