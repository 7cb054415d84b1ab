"""The words of Coinbase Exchange: its messages about a market, and the requests that it understands. Pure.

They follow the Coinbase Exchange documentation (docs.cdp.coinbase.com/exchange), pages "WebSocket Overview",
"WebSocket Channels" and "Get product trades". What those leave open follows the live feed: `match` and
`ticker` cut the trailing zeros of prices and sizes ("0.05"); book prices, volumes and REST keep them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

from recio_ingest.demo.market import EPOCH, Market, now_us

if TYPE_CHECKING:
    from collections.abc import Container

CHANNELS = ("ticker", "heartbeat", "matches")
NEEDS_KEY = ("level2", "level3", "full", "user")  # authenticated since 2023-08-01 (the venue's changelog)
DAY_US = 86_400_000_000


def _number(units: int, decimals: int) -> str:
    """Write a count of the smallest unit as decimal text, every decimal kept."""
    return f"{units // 10**decimals}.{units % 10**decimals:0{decimals}d}"


def _short(units: int, decimals: int) -> str:
    """Write a number as `match` and `ticker` do: without trailing zeros."""
    return _number(units, decimals).rstrip("0").removesuffix(".")


def _time(us: int) -> str:
    """Write microseconds since EPOCH as the venue's UTC text, always with six decimals."""
    return (EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def match(market: Market, n: int, kind: str = "match") -> dict[str, Any]:
    """Tell trade n; `side` is the maker's."""
    maker, taker = market.maker_and_taker(n)
    return {
        "type": kind,
        "trade_id": n,
        "maker_order_id": maker,
        "taker_order_id": taker,
        "side": market.maker_side(n),
        "size": _short(market.size_e8(n), 8),
        "price": _short(market.price_cents(n), 2),
        "product_id": market.product,
        "sequence": market.sequence(n),
        "time": _time(market.time_us(n)),
    }


def ticker(market: Market, n: int) -> dict[str, Any]:
    """Tell the `ticker` after trade n; the day is looked at every four hours, volumes are only likely."""
    price, size, side = market.price_cents(n), market.size_e8(n), market.maker_side(n)
    day, spread = DAY_US // market.interval_us, 1 + market.roll(n, 16, 1)
    seen = [market.price_cents(n - day * i // 6) for i in range(7)]
    return {
        "type": "ticker",
        "sequence": market.sequence(n),
        "product_id": market.product,
        "price": _short(price, 2),
        "open_24h": _short(seen[-1], 2),
        "volume_24h": _number(day * 4_000_000 + size, 8),
        "low_24h": _short(min(seen), 2),
        "high_24h": _short(max(seen), 2),
        "volume_30d": _number(day * 120_000_000 + size, 8),
        "best_bid": _number(price if side == "buy" else price - spread, 2),
        "best_bid_size": _number(1 + market.roll(n, 17, 4), 8),
        "best_ask": _number(price if side == "sell" else price + spread, 2),
        "best_ask_size": _number(1 + market.roll(n, 21, 4), 8),
        "side": "buy" if side == "sell" else "sell",  # the taker's: seen on the live feed, not documented
        "time": _time(market.time_us(n)),
        "trade_id": n,
        "last_size": _short(size, 8),
    }


def last_match(market: Market, n: int) -> dict[str, Any]:
    """Tell trade n, which happened before the client subscribed."""
    return match(market, n, "last_match")


def heartbeat(market: Market, n: int) -> dict[str, Any]:
    """Tell that trade n is the last one now."""
    return {
        "type": "heartbeat",
        "last_trade_id": n,
        "product_id": market.product,
        "sequence": market.sequence(n),
        "time": _time(now_us()),
    }


def rest_trade(market: Market, n: int) -> dict[str, Any]:
    """Tell trade n as REST does, eight decimals throughout; `side` is the maker's."""
    return {
        "trade_id": n,
        "side": market.maker_side(n),
        "size": _number(market.size_e8(n), 8),
        "price": _number(market.price_cents(n) * 10**6, 8),
        "time": _time(market.time_us(n)),
    }


class RefusedError(Exception):
    """A request cannot be met; the two arguments are the answer's `message` and `reason`."""


def _names(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise RefusedError("Malformed JSON", "channels and product_ids are lists of names")
    return value


def read_request(text: str | bytes, products: Container[str]) -> tuple[str, dict[str, list[str]]]:
    """Read a request into its type and, for each channel that it names, the products."""
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RefusedError("Malformed JSON", str(error)) from error
    kind = request.get("type") if isinstance(request, dict) else None
    if kind not in ("subscribe", "unsubscribe"):
        raise RefusedError("subscribe or unsubscribe required", f"{kind} is not a valid type")
    refused, named = f"Failed to {kind}", request.get("channels")
    if not isinstance(named, list) or not named:
        raise RefusedError(refused, "No channels provided")
    wanted: dict[str, list[str]] = {}
    for entry in named:
        channel = entry if isinstance(entry, dict) else {"name": entry}
        (name,) = _names([channel.get("name")])
        # A channel's own products come on top of the request's ("WebSocket Overview", second example).
        ids = [*_names(request.get("product_ids", [])), *_names(channel.get("product_ids", []))]
        if name in NEEDS_KEY:
            raise RefusedError(refused, f"{name} channel requires authentication")
        if name not in CHANNELS:
            raise RefusedError(refused, f"{name} is not a valid channel")
        if unknown := [product for product in ids if product not in products]:
            raise RefusedError(refused, f"{unknown[0]} is not a valid product")
        if kind == "subscribe" and not ids:
            raise RefusedError(refused, f"You need to specify at least one product ID for channel {name}")
        wanted.setdefault(name, []).extend(ids)
    return kind, wanted


def change(held: dict[str, list[str]], kind: str, wanted: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Apply a request to what a client holds; return what is new, as (channel, product)."""
    new: list[tuple[str, str]] = []
    for channel, products in wanted.items():
        holds = held.pop(channel, [])
        if kind == "subscribe":
            fresh = [product for product in dict.fromkeys(products) if product not in holds]
            new += [(channel, product) for product in fresh]
            held[channel] = holds + fresh
        elif kept := [product for product in holds if products and product not in products]:
            held[channel] = kept  # a channel without products goes as a whole ("WebSocket Overview")
    return new
