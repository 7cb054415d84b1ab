"""What the simulated Kalshi allows on all of its connections, and its errors. Page "WebSocket Commands"."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

CHANNELS = ("ticker", "trade", "market_lifecycle_v2", "cfbenchmarks_value")
BY_MARKET = ("ticker", "trade")
ERRORS = {
    1: "Unable to process message",
    2: "Params required",
    3: "Channels required",
    4: "Subscription IDs required",
    5: "Unknown command",
    7: "Unknown subscription ID",
    8: "Unknown channel name",
    9: "Authentication required",
    10: "Channel error",
    11: "Invalid parameter",
    12: "Exactly one subscription ID is required",
    13: "Unsupported action",
    14: "Market ticker required",
    15: "Action required",
    18: "Command timeout",
    19: "shard_factor must be > 0",
    20: "shard_factor is required when shard_key is set",
    21: "shard_key must be >= 0 and < shard_factor",
    22: "shard_factor must be <= 100",
    23: "Match IDs required",
    24: "Index IDs required",
    25: "Subscription buffer overflow",
    26: "Subscription market limit exceeded",
    27: "Too many requests",
    28: "Underlying tickers required",
}
TERMINAL = (10, 25)  # the subscription is gone after these


class CommandError(Exception):
    """A command cannot be obeyed; the argument is the code of the answer."""


@dataclass(slots=True)
class Order:
    """An error that the next `times` commands (those about `channel`, if given) are answered with."""

    code: int
    channel: str | None
    times: int


@dataclass(slots=True)
class Rules:
    """What holds for every connection now; it may change while they are open."""

    revoked: set[str] = field(default_factory=set)
    most_markets: int | None = None
    silent: bool = False
    orders: list[Order] = field(default_factory=list)

    def ordered(self, channels: Container[str]) -> int | None:
        """Return the error that is ordered for a command about some channels, if one is, and count it as given."""
        for order in self.orders:
            if order.channel is None or order.channel in channels:
                order.times -= 1
                if not order.times:
                    self.orders.remove(order)
                return order.code
        return None

    def limit(self, markets: list[str] | None) -> list[str] | None:
        """Return the markets of a subscription as they would be, each once; all of them (None) have no limit."""
        if markets is None:
            return None
        markets = list(dict.fromkeys(markets))
        if self.most_markets is not None and len(markets) > self.most_markets:
            raise CommandError(26)
        return markets
