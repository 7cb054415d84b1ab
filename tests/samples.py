"""Frames and venue messages for tests, written here in the venues' shapes."""

from __future__ import annotations

from typing import Any

import orjson

from recio_ingest.records import DAEMON_FEED, Frame, Kind

START_NS = 1_790_000_000_000_000_000
"""21 September 2026, 14:13:20 UTC."""
TIME = "2026-09-21T14:13:20.000000Z"


def control(frame_no: int, kind: Kind, feed: str = "coinbase", **facts: object) -> Frame:
    """Return a control mark, a millisecond after the frame with the number before."""
    return Frame(frame_no, START_NS + frame_no * 1_000_000, feed, kind, orjson.dumps(facts))


def tick(frame_no: int) -> Frame:
    """Return the mark of a second."""
    return control(frame_no, Kind.TICK, feed=DAEMON_FEED)


def data(frame_no: int, message: object, *, feed: str = "coinbase") -> Frame:
    """Return a frame with a message (bytes: as they are), a millisecond after the frame with the number before."""
    raw = message if isinstance(message, bytes) else orjson.dumps(message)
    return Frame(frame_no, START_NS + frame_no * 1_000_000, feed, Kind.DATA, raw)


def match(trade_id: Any = 1001, **changes: Any) -> dict[str, Any]:
    """Return a Coinbase trade; `side` is the maker's."""
    return {
        "type": "match",
        "trade_id": trade_id,
        "maker_order_id": "0b4b3a2c-6f0e-4c2e-9a53-0d6f4a1f7c11",
        "taker_order_id": "5d2f9c70-17c5-4f43-8c3f-1c0e6d2b9a02",
        "side": "buy",
        "size": "0.01020000",
        "price": "60123.40",
        "product_id": "BTC-USD",
        "sequence": 3003,
        "time": TIME,
    } | changes


def ticker(bid: str = "60123.40", ask: str = "60123.41", **changes: Any) -> dict[str, Any]:
    """Return a Coinbase ticker."""
    return {
        "type": "ticker",
        "sequence": 3004,
        "product_id": "BTC-USD",
        "price": "60123.40",
        "open_24h": "59000.00",
        "volume_24h": "4249.05081975",
        "best_bid": bid,
        "best_bid_size": "0.61540890",
        "best_ask": ask,
        "best_ask_size": "0.18528568",
        "side": "sell",
        "time": TIME,
        "trade_id": 1001,
        "last_size": "0.0102",
    } | changes


def heartbeat(**changes: Any) -> dict[str, Any]:
    """Return a Coinbase heartbeat."""
    return {
        "type": "heartbeat",
        "sequence": 3005,
        "last_trade_id": 1001,
        "product_id": "BTC-USD",
        "time": TIME,
    } | changes


def subscriptions() -> dict[str, Any]:
    """Return Coinbase's answer to a subscription."""
    names = ("matches", "ticker", "heartbeat")
    return {"type": "subscriptions", "channels": [{"name": name, "product_ids": ["BTC-USD"]} for name in names]}
