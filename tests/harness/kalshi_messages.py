"""Kalshi's messages as the venue writes them; `kalshi_rows` says what the tables hold, from the same numbers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INDEX = "BRTI"
KINDS_OF = {"ticker": "ticker", "trade": "trade", "cfbenchmarks_value": "print"}
CHANNELS = {*KINDS_OF, "market_lifecycle_v2"}
CHANNELS_OF = {kind: channel for channel, kind in KINDS_OF.items()}


def dollars(units: int, decimals: int) -> str:
    """Write a price of so many units of the last decimal."""
    return f"{units // 10**decimals}.{units % 10**decimals:0{decimals}}"


def hundredths(count: int) -> str:
    """Write a count, or an index price."""
    return dollars(count, 2)


def rfc3339(ms: int) -> str:
    """Write a time as the venue does, with a fraction only where there is one."""
    moment = EPOCH + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")


class Ticker(NamedTuple):
    """A market's quote; prices in units of the last decimal, an empty side is None and has size 0."""

    number: int
    market: str
    market_id: str
    decimals: int
    bid: int | None
    bid_size: int
    ask: int | None
    ask_size: int
    last: int
    last_size: int
    open_interest: int
    ts_ms: int

    @property
    def one(self) -> int:
        """A dollar in units of the last decimal."""
        return int(10**self.decimals)

    def body(self) -> dict[str, Any]:
        """The `msg`: an empty bid is written as 0 and an empty ask as 1, both with size 0."""
        return {
            "market_ticker": self.market,
            "market_id": self.market_id,
            "price_dollars": dollars(self.last, self.decimals),
            "yes_bid_dollars": dollars(0 if self.bid is None else self.bid, self.decimals),
            "yes_ask_dollars": dollars(self.one if self.ask is None else self.ask, self.decimals),
            "volume_fp": f"{self.number}.00",
            "open_interest_fp": hundredths(self.open_interest),
            "dollar_volume": self.number // 2,
            "dollar_open_interest": self.open_interest // 200,
            "yes_bid_size_fp": hundredths(self.bid_size),
            "yes_ask_size_fp": hundredths(self.ask_size),
            "last_trade_size_fp": hundredths(self.last_size),
            "ts": self.ts_ms // 1000,
            "ts_ms": self.ts_ms,
            "time": rfc3339(self.ts_ms),
        }


class Trade(NamedTuple):
    """One trade; its price is that of YES, its taker the outcome that was taken."""

    number: int
    market: str
    trade_id: str
    decimals: int
    price: int
    size: int
    taker: str
    ts_ms: int

    def body(self) -> dict[str, Any]:
        """The `msg`."""
        return {
            "trade_id": self.trade_id,
            "market_ticker": self.market,
            "yes_price_dollars": dollars(self.price, self.decimals),
            "no_price_dollars": dollars(10**self.decimals - self.price, self.decimals),
            "count_fp": hundredths(self.size),
            "taker_side": self.taker,
            "taker_outcome_side": self.taker,
            "taker_book_side": "bid" if self.taker == "yes" else "ask",
            "is_block_trade": False,
            "ts": self.ts_ms // 1000,
            "ts_ms": self.ts_ms,
        }


class Print(NamedTuple):
    """The index at one second; it is told some milliseconds later, as on the live venue."""

    second: int
    cents: int
    delay_ms: int

    def body(self) -> dict[str, Any]:
        """The `msg`, whose `data` is JSON as text."""
        ms = self.second * 1000
        data = {"type": "value", "id": INDEX, "time": ms, "value": hundredths(self.cents)}
        mean = {
            "value": f"{hundredths(self.cents)}000000",
            "window_size": 60,
            "window_start_ts_ms": ms - 60_000,
            "window_end_ts_exclusive": ms,
        }
        return {
            "index_id": INDEX,
            "received_at": ms + self.delay_ms,
            "data": json.dumps(data, separators=(",", ":")),
            "avg_60s_data": mean,
        }


def uuid(digits: str) -> str:
    """Write 32 hexadecimal digits as a UUID of version 4; those of the first twelve are kept as they are."""
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"


def number_of(trade_id: str) -> int:
    """Read the number of a trade back; 0 if it is none of ours."""
    try:
        return int(trade_id[:8] + trade_id[9:13], 16)
    except ValueError:
        return 0
