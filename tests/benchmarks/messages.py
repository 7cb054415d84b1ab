"""What the venues of the benchmarks send: messages in the real shapes, and answers to whoever subscribes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

MARKETS = tuple(f"KXBTCD-26NOV2412-T{60_000 + 100 * n}.99" for n in range(40))
_COINBASE_CHANNELS = ("matches", "ticker", "heartbeat")


def coinbase(count: int) -> Iterator[bytes]:
    """Yield matches and tickers of a market that walks in cents; sizes hardly ever repeat, as in life."""
    dice = random.Random(1)
    cents, trade_id = 6_000_000, time.time_ns() // 1000
    order = "9d2861bd-1703-47f2-a7f4-7723565a7f5c"
    for _ in range(count // 2):
        cents += dice.randint(-3, 3)
        trade_id += 1
        price, bid, ask = (f"{value // 100}.{value % 100:02d}" for value in (cents, cents - 1, cents + 1))
        size = f"0.{dice.randrange(1, 10**8):08d}"
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        yield (
            f'{{"type":"match","trade_id":{trade_id},"maker_order_id":"{order}","taker_order_id":"{order}","side":"sell",'
            f'"size":"{size}","price":"{price}","product_id":"BTC-USD","sequence":{trade_id * 3},"time":"{now}"}}'
        ).encode()
        yield (
            f'{{"type":"ticker","sequence":{trade_id * 3},"product_id":"BTC-USD","price":"{price}",'
            f'"open_24h":"59000.00","volume_24h":"42492.05081975","low_24h":"58423.37","high_24h":"61259.37","volume_30d":"1093827.95195495",'
            f'"best_bid":"{bid}","best_bid_size":"0.61540890","best_ask":"{ask}","best_ask_size":"0.18528568",'
            f'"side":"sell","time":"{now}","trade_id":{trade_id},"last_size":"{size}"}}'
        ).encode()


def kalshi(count: int) -> Iterator[bytes]:
    """Yield tickers of forty markets; every one is a row, with its quote, sizes and the whole message."""
    dice = random.Random(1)
    for n in range(count):
        market, cents = MARKETS[dice.randrange(len(MARKETS))], dice.randrange(2, 98)
        last, bid, ask = (f"0.{value:02d}00" for value in (cents, cents - 1, cents + 1))
        now_ms = time.time_ns() // 1_000_000
        stamp = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
        yield (
            f'{{"type":"ticker","sid":3,"msg":{{"market_id":"746902ed-fc6e-4836-8ac7-{n % 40:012x}",'
            f'"market_ticker":"{market}","price_dollars":"{last}","yes_bid_dollars":"{bid}","yes_ask_dollars":"{ask}","volume_fp":"{n}.52",'
            f'"open_interest_fp":"{n // 2}.62","dollar_volume":{n // 2},"dollar_open_interest":{n // 4},'
            f'"yes_bid_size_fp":"{dice.randrange(1, 5000)}.00","yes_ask_size_fp":"{dice.randrange(1, 5000)}.00",'
            f'"last_trade_size_fp":"{dice.randrange(1, 99)}.00",'
            f'"ts":{now_ms // 1000},"ts_ms":{now_ms},"time":"{stamp}"}}}}'
        ).encode()


def _answer_coinbase(order: dict[str, Any]) -> tuple[str, bool]:
    held = [{"name": name, "product_ids": ["BTC-USD"]} for name in _COINBASE_CHANNELS]
    del order
    return json.dumps({"type": "subscriptions", "channels": held}), True


def _answer_kalshi(order: dict[str, Any]) -> tuple[str, bool]:
    channel = order["params"]["channels"][0]
    answer = {"id": order["id"], "type": "subscribed", "msg": {"channel": channel, "sid": order["id"]}}
    return json.dumps(answer), channel == "trade"  # the last that the daemon asks for


VENUES: dict[str, tuple[Callable[[int], Iterator[bytes]], Callable[[dict[str, Any]], tuple[str, bool]]]] = {
    "coinbase": (coinbase, _answer_coinbase),
    "kalshi": (kalshi, _answer_kalshi),
}
"""The messages, and the answer to an order with whether it was the last before the data."""


def open_markets() -> bytes:
    """Return what REST says of the markets."""
    market = {"event_ticker": "KXBTCD-26NOV2412", "status": "active", "open_time": "2026-11-24T16:00:00Z"}
    return json.dumps({"markets": [{"ticker": name, **market} for name in MARKETS], "cursor": ""}).encode()
