"""The shapes of Kalshi's messages and REST objects. Pure.

They follow docs.kalshi.com: "Market Ticker", "Public Trades", "Market & Event Lifecycle", "Get Markets" and
"Get Trades". Prices are dollars with four decimals and counts have two, both text; a strike is a JSON number.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from recio_ingest.demo.kalshi_market import INDEX, NEW_YORK, WINDOW, Event, Strike, Trade

SHARD = 2  # crypto's `exchange_index`
QUARTER_S = 900
EXPECTED_AFTER_S, LATEST_AFTER_S = 300, 7 * 86_400
LEVELS = {
    "price_level_structure": "linear_cent",
    "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}],
}


def dollars(cents: int) -> str:
    """Write cents as dollars with four decimals."""
    return f"{cents // 100}.{cents % 100:02d}00"


def decimal2(e2: int) -> str:
    """Write hundredths with two decimals: a count, or an index price."""
    return f"{e2 // 100}.{e2 % 100:02d}"


def utc(ms: int) -> str:
    """Write a time as the venue does, with a fraction only where there is one."""
    time = datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
    return time.isoformat(timespec="microseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")


def _mean(prints: Sequence[int], end_s: int, start_s: int) -> dict[str, Any]:
    """Write the mean of some prints with eight decimals, a half rounded up."""
    e8 = (2 * sum(prints) * 1_000_000 + len(prints)) // (2 * len(prints))
    return {
        "value": f"{e8 // 10**8}.{e8 % 10**8:08d}",
        "window_size": len(prints),
        "window_start_ts_ms": start_s * 1000,
        "window_end_ts_exclusive": end_s * 1000,
    }


def index_print(prints: Sequence[int], at_s: int, seen: int) -> dict[str, Any]:
    """Tell an index print: the last of `prints`, which holds the minute before it too.

    The first mean is over what the subscription has `seen` of the minute before, as on the live feed. The
    second, told before each quarter of an hour, ends with the newest print: it is not what settles an event.
    """
    value, size = prints[-1], min(seen, WINDOW, len(prints) - 1)
    mean = _mean(list(prints)[-size - 1 : -1] or [value], at_s, at_s - WINDOW) | {"window_size": size}
    text = orjson.dumps({"type": "value", "time": at_s * 1000, "id": INDEX, "value": decimal2(value)}).decode()
    message = {"index_id": INDEX, "received_at": at_s * 1000 + 53, "data": text, "avg_60s_data": mean}
    size = (at_s - 1) % QUARTER_S - (QUARTER_S - WINDOW) + 1
    if 0 < size <= len(prints):
        message["last_60s_windowed_average_15min"] = _mean(list(prints)[-size:], at_s, at_s - size)
    return message


def ticker(strike: Strike, now_s: int) -> dict[str, Any]:
    """Tell a market's quote and last trade."""
    ts_ms = now_s * 1000
    return {
        "market_id": strike.market_id,
        "market_ticker": strike.ticker,
        "price_dollars": dollars(strike.last_cents),
        "yes_bid_dollars": dollars(strike.bid),
        "yes_ask_dollars": dollars(strike.ask),
        "volume_fp": decimal2(strike.volume_e2),
        "open_interest_fp": decimal2(strike.open_interest_e2),
        "dollar_volume": strike.volume_e2 // 200,  # half a dollar a contract, as on the live feed
        "dollar_open_interest": strike.open_interest_e2 // 200,
        "yes_bid_size_fp": decimal2(strike.size_e2(strike.bid)),
        "yes_ask_size_fp": decimal2(strike.size_e2(strike.ask)),
        "last_trade_size_fp": decimal2(strike.last_e2),
        "ts": now_s,
        "ts_ms": ts_ms,
        "time": utc(ts_ms),
    }


def _trade(trade: Trade) -> dict[str, Any]:
    return {
        "trade_id": trade.trade_id,
        "yes_price_dollars": dollars(trade.yes_cents),
        "no_price_dollars": dollars(100 - trade.yes_cents),
        "count_fp": decimal2(trade.count_e2),
        "taker_side": trade.taker,
        "taker_outcome_side": trade.taker,
        "taker_book_side": "bid" if trade.taker == "yes" else "ask",
        "is_block_trade": False,
    }


def trade(told: Trade) -> dict[str, Any]:
    """Tell a trade."""
    return _trade(told) | {"market_ticker": told.ticker, "ts": told.ts_ms // 1000, "ts_ms": told.ts_ms}


def rest_trade(told: Trade) -> dict[str, Any]:
    """Tell a trade as REST does."""
    return _trade(told) | {"ticker": told.ticker, "created_time": utc(told.ts_ms)}


def _close_words(event: Event) -> tuple[str, str]:
    """Return the close's hour and day in New York, as the rules name them."""
    close = datetime.fromtimestamp(event.close_s, NEW_YORK)
    return f"{(close.hour + 11) % 12 + 1} {close:%p %Z}", f"{close:%b} {close.day}, {close.year}"


def _words(strike: Strike) -> dict[str, Any]:
    """Return what a market's object and its `created` message say alike."""
    hour, day = _close_words(strike.event)
    above = f"${(strike.floor_cents + 1) // 100:,} or above"
    return {
        "title": f"Bitcoin price on {day}?",
        "yes_sub_title": above,
        "no_sub_title": above,
        "rules_primary": "If the simple average of the sixty seconds of CF Benchmarks' Bitcoin Real-Time Index (BRTI) "
        f"before {hour} is above {decimal2(strike.floor_cents)} at {hour} on {day}, then the market resolves to Yes.",
        "rules_secondary": "At the last minute before expiration, 60 RTI prices are collected. "
        "The official and final value is the average of these prices.",
        "can_close_early": True,
        "event_ticker": strike.event.ticker,
        "strike_type": "greater",
        "floor_strike": orjson.Fragment(decimal2(strike.floor_cents)),
    }


def lifecycle(strike: Strike, word: str, now_s: int) -> dict[str, Any]:
    """Tell what became of a market."""
    event = strike.event
    message: dict[str, Any] = {"market_ticker": strike.ticker, "event_type": word}
    if word == "settled":
        return message | {"settled_ts": now_s}
    message |= {"exchange_index": SHARD}
    if word == "determined":
        result = event.result(strike)
        message |= {"determination_ts": now_s, "result": result, "settlement_value": _settled_at(result)}
    if word == "created":
        words = _words(strike)
        expected = {"name": words["yes_sub_title"], "expected_expiration_ts": event.close_s + EXPECTED_AFTER_S}
        message |= {"open_ts": event.open_s, "close_ts": event.close_s, "additional_metadata": expected | words}
        message |= LEVELS
    return message


def event_lifecycle(event: Event) -> dict[str, Any]:
    """Tell that there is a new event."""
    hour, day = _close_words(event)
    return {
        "event_ticker": event.ticker,
        "exchange_index": SHARD,
        "title": f"Bitcoin price on {day}?",
        "subtitle": f"On {day} at {hour}",
        "collateral_return_type": "",
        "series_ticker": event.series,
        "strike_date": utc(event.close_s * 1000),
    }


def market(strike: Strike, now_s: int) -> dict[str, Any]:
    """Return a market's object as REST gives it: what is null is left out, an open result is empty."""
    event, status = strike.event, strike.event.status(now_s)
    known = status in ("determined", "finalized")
    closes, expires = utc(event.close_s * 1000), utc((event.close_s + EXPECTED_AFTER_S) * 1000)
    latest, result = utc((event.close_s + LATEST_AFTER_S) * 1000), event.result(strike) if known else ""
    no_quote = status in ("initialized", "closed", "determined", "finalized")
    bid, ask = (0, 100) if no_quote else (strike.bid, strike.ask)
    changes = (event.created_s, event.open_s, event.close_s, event.determined_s, event.settled_s)
    whole = {
        "ticker": strike.ticker,
        "market_type": "binary",
        "subtitle": f"${(strike.floor_cents + 1) // 100:,} or above",
        "created_time": utc(event.created_s * 1000),
        "updated_time": utc(max(s for s in changes if s <= now_s) * 1000),
        "open_time": utc(event.open_s * 1000),
        "close_time": closes,
        "expected_expiration_time": expires,
        "occurrence_datetime": expires,
        "expiration_time": latest,
        "latest_expiration_time": latest,
        "settlement_timer_seconds": 60,
        "expiration_value": decimal2(event.value_cents) if known else "",
        "result": result,
        "status": status,
        "exchange_index": SHARD,
        "notional_value_dollars": "1.0000",
        "yes_bid_dollars": dollars(bid),
        "yes_bid_size_fp": decimal2(strike.size_e2(bid)),
        "yes_ask_dollars": dollars(ask),
        "yes_ask_size_fp": decimal2(strike.size_e2(ask)),
        "no_bid_dollars": dollars(100 - ask),
        "no_ask_dollars": dollars(100 - bid),
        "last_price_dollars": dollars(strike.last_cents),
        "previous_price_dollars": "0.0000",
        "previous_yes_bid_dollars": "0.0000",
        "previous_yes_ask_dollars": "0.0000",
        "volume_fp": decimal2(strike.volume_e2),
        "volume_24h_fp": decimal2(strike.volume_e2),
        "open_interest_fp": decimal2(strike.open_interest_e2),
    }
    if status == "finalized":
        whole |= {"settlement_ts": utc(event.settled_s * 1000), "settlement_value_dollars": _settled_at(result)}
    return whole | _words(strike) | LEVELS


def _settled_at(result: str) -> str:
    return dollars(100 if result == "yes" else 0)
