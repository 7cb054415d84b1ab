"""What the fake Kalshi answers to requests: its markets and trades, page by page, and that it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.kalshi_market import LOWEST_STRIKE, SECOND_NS, STRIKE_STEP, Exchange, market_names
from harness.kalshi_messages import dollars, rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.kalshi_messages import Trade

ROOT = "/trade-api/v2"
TRADES = f"{ROOT}/markets/trades"
PAGE, LONGEST_PAGE = 100, 1000
OPEN_FOR_S = 4 * 3600
EXPECTED_AFTER_S, LATEST_AFTER_S = 300, 7 * 86_400


def answer(exchange: Exchange, path: str, query: Mapping[str, str], newest: int) -> tuple[int, dict[str, Any]]:
    """Answer a GET with a status and a body; parameters that are not known here are ignored, as the venue does."""
    if path == f"{ROOT}/exchange/status":
        return 200, {"exchange_active": True, "trading_active": True}
    if path != f"{ROOT}/markets":
        return 404, {"error": {"code": "not_found", "message": "not found"}}
    places = [place for place in range(exchange.markets) if asked_for(exchange, place, query)]
    start = int(query.get("cursor") or 0)
    limit = min(int(query.get("limit", PAGE)), LONGEST_PAGE)
    more = start + limit < len(places)
    return 200, {
        "markets": [market(exchange, place, newest) for place in places[start : start + limit]],
        "cursor": str(start + limit) if more else "",
    }


def trades(exchange: Exchange, query: Mapping[str, str], newest: int) -> dict[str, Any]:
    """Answer with the trades of one market, or of all, between two seconds, both included; the newest first."""
    lowest, highest = (int(query.get(name) or far) for name, far in (("min_ts", 0), ("max_ts", 2**33)))
    places = [place for place, name in enumerate(exchange.tickers) if query.get("ticker") in {None, "", name}]
    first = max(exchange.first, exchange.newest(lowest * SECOND_NS - 1) + 1)
    last = min(newest, exchange.newest((highest + 1) * SECOND_NS - 1), int(query.get("cursor") or newest))
    numbers = [
        number
        for number in range(last, first - 1, -1)
        if exchange.kind(number) == "trade" and exchange.place(number) in places
    ]
    limit = min(int(query.get("limit", PAGE)), LONGEST_PAGE)
    more = len(numbers) > limit
    return {
        "trades": [told_trade(exchange.trade(number)) for number in numbers[:limit]],
        "cursor": str(numbers[limit]) if more else "",
    }


def told_trade(trade: Trade) -> dict[str, Any]:
    """Write a trade as REST does: other names than the socket's for the market and the time."""
    body = {name: value for name, value in trade.body().items() if name not in {"ts", "ts_ms", "market_ticker"}}
    return {**body, "ticker": trade.market, "created_time": rfc3339(trade.ts_ms)}


def asked_for(exchange: Exchange, place: int, query: Mapping[str, str]) -> bool:
    """Tell whether a market passes the filters; all of them are open."""
    name = market_names(exchange.event, place)[0]
    return (
        query.get("series_ticker") in {None, exchange.series}
        and query.get("event_ticker") in {None, exchange.event}
        and query.get("status") in {None, "", "open"}
        and ("tickers" not in query or name in query["tickers"].split(","))
    )


def market(exchange: Exchange, place: int, newest: int) -> dict[str, Any]:
    """Describe a market as the venue does: what is null is left out, what is not known yet is empty."""
    quote = exchange.ticker(exchange.latest(place, newest))
    strike = LOWEST_STRIKE + STRIKE_STEP * place
    words, nothing = f"${strike:,} or above", dollars(0, 4)
    opened, closes = (exchange.close_s - OPEN_FOR_S) * 1000, exchange.close_s * 1000
    expected, latest = closes + EXPECTED_AFTER_S * 1000, closes + LATEST_AFTER_S * 1000
    body = quote.body()
    return {
        "ticker": quote.market,
        "event_ticker": exchange.event,
        "market_type": "binary",
        "title": "Bitcoin price today?",
        "subtitle": words,
        "yes_sub_title": words,
        "no_sub_title": words,
        "created_time": rfc3339(opened - 86_400_000),
        "updated_time": rfc3339(opened + 125),
        "open_time": rfc3339(opened),
        "close_time": rfc3339(closes),
        "expected_expiration_time": rfc3339(expected),
        "occurrence_datetime": rfc3339(expected),
        "expiration_time": rfc3339(latest),
        "latest_expiration_time": rfc3339(latest),
        "settlement_timer_seconds": 60,
        "expiration_value": "",
        "result": "",
        "status": "active",
        "strike_type": "greater",
        "floor_strike": (strike * 100 - 1) / 100,
        "can_close_early": True,
        "exchange_index": 2,
        "notional_value_dollars": "1.0000",
        "liquidity_dollars": nothing,
        "yes_bid_dollars": body["yes_bid_dollars"],
        "yes_bid_size_fp": body["yes_bid_size_fp"],
        "yes_ask_dollars": body["yes_ask_dollars"],
        "yes_ask_size_fp": body["yes_ask_size_fp"],
        "no_bid_dollars": dollars(0 if quote.ask is None else quote.one - quote.ask, quote.decimals),
        "no_ask_dollars": dollars(quote.one if quote.bid is None else quote.one - quote.bid, quote.decimals),
        "last_price_dollars": body["price_dollars"],
        "previous_price_dollars": nothing,
        "previous_yes_bid_dollars": nothing,
        "previous_yes_ask_dollars": nothing,
        "volume_fp": body["volume_fp"],
        "volume_24h_fp": body["volume_fp"],
        "open_interest_fp": body["open_interest_fp"],
        "price_level_structure": "linear_cent",
        "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}],
        "rules_primary": "If the simple average of the sixty seconds of CF Benchmarks' Bitcoin Real-Time Index (BRTI) "
        f"before the close is above {strike - 0.01:.2f}, then the market resolves to Yes.",
        "rules_secondary": "At the last minute before expiration, 60 RTI prices are collected. "
        "The official and final value is the average of these prices.",
    }
