"""The simulated Kalshi's REST: its public market data. Pages "Get Markets", "Get Trades", "Rate Limits"."""

from __future__ import annotations

import asyncio
import binascii
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import orjson
from aiohttp import web

from recio_ingest.demo import kalshi_messages as messages
from recio_ingest.demo.kalshi_market import Exchange
from recio_ingest.demo.venue import Handler

ROOT = "/trade-api/v2"
PAGE, PAGE_MAX = 100, 1000
TOKENS_PER_S, BURST_TOKENS, COST_TOKENS = 200, 600, 10  # the reads of the lowest tier
# What a filter asks for and what an answer says are different words.
FILTERS = {
    "unopened": {"initialized"},
    "open": {"active"},
    "paused": {"inactive"},
    "closed": {"closed", "determined", "disputed", "amended"},
    "settled": {"finalized"},
}
LAST_S = 2**40  # of all time, for the filters
NOT_FOUND = {"error": {"code": "not_found", "message": "not found"}}
TOO_MANY = {"error": "too many requests"}
UNAVAILABLE = {"error": {"code": "service_unavailable", "message": "service unavailable"}}


class RestApi:
    """What REST tells of an exchange; `app` serves it.

    The next `busy` requests are refused as too many, all while it is `down`; nobody is answered unless `answering`.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.busy, self.down, self.answering = 0, False, asyncio.Event()
        self.answering.set()
        self._exchange = exchange
        self._tokens, self._counted_at_s = float(BURST_TOKENS), time.monotonic()

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._falter, self._limit])
        app.router.add_get(f"{ROOT}/markets", self._markets)
        app.router.add_get(f"{ROOT}/markets/trades", self._trades)
        app.router.add_get(f"{ROOT}/markets/{{ticker}}", self._market)
        app.router.add_get(f"{ROOT}/series/{{ticker}}", self._series)
        app.router.add_get(f"{ROOT}/exchange/status", _status)
        app.router.add_route("*", "/{other:.*}", _not_found)
        return app

    @web.middleware
    async def _falter(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Go wrong as ordered."""
        await self.answering.wait()
        if self.down:
            return _json(UNAVAILABLE, 503)
        if self.busy:
            self.busy -= 1
            return _json(TOO_MANY, 429)
        return await handler(request)

    @web.middleware
    async def _limit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through what the bucket holds; who comes too early is told nothing but that."""
        now_s = time.monotonic()
        self._tokens = min(BURST_TOKENS, self._tokens + (now_s - self._counted_at_s) * TOKENS_PER_S)
        self._counted_at_s = now_s
        if self._tokens < COST_TOKENS:
            return _json(TOO_MANY, 429)
        self._tokens -= COST_TOKENS
        try:
            return await handler(request)
        except ValueError as error:
            return _json({"error": {"code": "bad_request", "message": str(error)}}, 400)

    async def _markets(self, request: web.Request) -> web.Response:
        """Answer with one page of the markets that pass every filter, the highest strike of the latest event first."""
        query, exchange = request.query, self._exchange
        words = [word for word in query.get("status", "").split(",") if word]
        if unknown := [word for word in words if word not in FILTERS]:
            raise ValueError(f"unknown status {unknown[0]}")
        states = set().union(*(FILTERS[word] for word in words))
        tickers = [ticker for ticker in query.get("tickers", "").split(",") if ticker]
        close_s, settled_s = _range(request, "close"), _range(request, "settled")
        chosen = [
            strike
            for strike in exchange.strikes()
            if query.get("series_ticker") in (None, "", strike.event.series)
            and query.get("event_ticker") in (None, "", strike.event.ticker)
            and (not words or strike.event.status(exchange.now_s) in states)
            and (not tickers or strike.ticker in tickers)
            and (close_s is None or strike.event.close_s in close_s)
            # One that is not settled has no time of it that could lie anywhere.
            and (settled_s is None or exchange.now_s >= strike.event.settled_s in settled_s)
        ]
        keyed = {f"{s.event.close_s:012d}/{s.event.series}/{s.floor_cents:012d}": s for s in chosen}
        page, cursor = _page(keyed, request)
        return _json({"markets": [messages.market(strike, exchange.now_s) for strike in page], "cursor": cursor})

    async def _market(self, request: web.Request) -> web.Response:
        exchange = self._exchange
        strike = exchange.strike(request.match_info["ticker"])
        if strike is None:
            return await _not_found(request)
        return _json({"market": messages.market(strike, exchange.now_s)})

    async def _trades(self, request: web.Request) -> web.Response:
        """Answer with one page of the trades from `min_ts` to `max_ts`, the newest first."""
        query = request.query
        least, most = (int(query.get(key, 0)) * 1000 for key in ("min_ts", "max_ts"))
        trades = {
            f"{trade.ts_ms:015d}/{trade.trade_id}": trade
            for strike in self._exchange.strikes()
            if query.get("ticker") in (None, "", strike.ticker)
            for trade in strike.trades
            if least <= trade.ts_ms <= (most or trade.ts_ms)
        }
        page, cursor = _page(trades, request)
        return _json({"trades": [messages.rest_trade(trade) for trade in page], "cursor": cursor})

    async def _series(self, request: web.Request) -> web.Response:
        ticker = request.match_info["ticker"]
        if ticker not in self._exchange.series:
            return await _not_found(request)
        series = {
            "ticker": ticker,
            "frequency": "hourly",
            "title": "Bitcoin price",
            "category": "Crypto",
            "tags": ["BTC"],
            "settlement_sources": [{"name": "CF Benchmarks", "url": "https://www.cfbenchmarks.com/data/indices/BRTI"}],
            "contract_url": "",
            "contract_terms_url": "",
            "fee_type": "quadratic",
            "fee_multiplier": 1,
            "additional_prohibitions": [],
            "exchange_index": messages.SHARD,
        }
        return _json({"series": series})


def _range(request: web.Request, what: str) -> range | None:
    """Return the seconds from `min_..._ts` to `max_..._ts`, both included; None if neither is given (0 is none)."""
    least, most = (int(request.query.get(f"{end}_{what}_ts", 0)) for end in ("min", "max"))
    return range(least, (most or LAST_S) + 1) if least or most else None


def _page(keyed: dict[str, Any], request: web.Request) -> tuple[list[Any], str]:
    """Return what follows the request's cursor, the greatest key first, and the next cursor; empty at the end."""
    limit = int(request.query.get("limit", PAGE)) or PAGE
    if not 0 < limit <= PAGE_MAX:
        raise ValueError(f"limit is at most {PAGE_MAX}")
    keys = sorted(keyed, reverse=True)
    if cursor := request.query.get("cursor"):
        try:
            after = urlsafe_b64decode(cursor.encode()).decode()
        except (binascii.Error, UnicodeError) as error:
            raise ValueError("invalid cursor") from error
        keys = [key for key in keys if key < after]
    more = len(keys) > limit
    return [keyed[key] for key in keys[:limit]], urlsafe_b64encode(keys[limit - 1].encode()).decode() if more else ""


async def _status(_request: web.Request) -> web.Response:
    return _json({"exchange_active": True, "trading_active": True})


async def _not_found(_request: web.Request) -> web.Response:
    return _json(NOT_FOUND, 404)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
