"""Coinbase Exchange on loopback: its websocket feed and its trades by REST, with an invented market.

Rules and limits follow the Coinbase Exchange documentation (docs.cdp.coinbase.com/exchange); page in quotes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import orjson
from aiohttp import web
from websockets.asyncio.server import ServerConnection

from recio_ingest.demo.client import Client
from recio_ingest.demo.coinbase_messages import (
    RefusedError,
    change,
    heartbeat,
    last_match,
    match,
    read_request,
    rest_trade,
    ticker,
)
from recio_ingest.demo.market import Market, now_us
from recio_ingest.demo.venue import Handler, Venue

SUBSCRIBE_WITHIN_S = 5.0  # "WebSocket Overview": who has not subscribed by then is disconnected
HEARTBEAT_S = 1.0  # "WebSocket Channels": one a second per product
PAGE_TRADES = 1000  # "Pagination": the most, and the default, of one page
REST_PER_S, REST_BURST = 10, 15  # "REST Rate Limits": public, per address, and loopback is one; then 429
MARKET_STEP_S = 0.01  # the market wakes no more often; trades of one step share a ticker
MAX_REQUEST_BYTES = 65_536  # beyond: close code 1009
MESSAGES = {"matches": match, "ticker": ticker, "heartbeat": heartbeat}
# Told once, on subscribing: from where the client goes on.
AT_FIRST = {"matches": last_match, "ticker": ticker}


class CoinbaseVenue(Venue):
    """Coinbase Exchange at `url` (websocket) and `rest_url`, from `async with` to its end.

    The markets run by the clock, whether or not anybody is connected, each with `trades_per_s` on average.
    With the same seed and rate they go on over a restart. Port 0 takes a free one.
    """

    def __init__(
        self,
        products: Sequence[str] = ("BTC-USD",),
        *,
        trades_per_s: float = 4.0,
        seed: int = 1,
        host: str = "127.0.0.1",
        ws_port: int = 0,
        rest_port: int = 0,
    ) -> None:
        super().__init__(host, ws_port, rest_port)
        if not products or trades_per_s <= 0:
            raise ValueError("a venue needs a product and more than no trades a second")
        interval_us = max(1, round(1_000_000 / trades_per_s))
        self._markets = {product: Market(product, seed, interval_us) for product in products}
        self._clients: set[Client] = set()
        self._requests_left, self._counted_at_s = float(REST_BURST), 0.0

    def _options(self) -> dict[str, Any]:
        return {"max_size": MAX_REQUEST_BYTES}

    def _served(self) -> Iterable[Client]:
        return self._clients

    def _loops(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return self._trade, self._beat

    async def _trade(self) -> None:
        """Let the markets' trades happen in time, for ever; never waits for a client."""
        while True:
            for market in self._markets.values():
                ids = market.advance(now_us())
                for n in ids:
                    self._publish("matches", market, n)
                if ids:
                    self._publish("ticker", market, ids[-1])
            next_us = min(market.time_us(market.last_id + 1) for market in self._markets.values())
            await asyncio.sleep(max(MARKET_STEP_S, (next_us - now_us()) / 1_000_000))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for market in self._markets.values():
                self._publish("heartbeat", market, market.last_id)

    def _publish(self, channel: str, market: Market, n: int) -> None:
        audience = [client for client in self._clients if market.product in client.held.get(channel, ())]
        if audience:  # else nothing is written: a market that nobody watches costs next to nothing
            message = orjson.dumps(MESSAGES[channel](market, n))
            for client in audience:
                client.push(message)

    async def _serve(self, connection: ServerConnection) -> None:
        client = Client(connection, SUBSCRIBE_WITHIN_S)
        self._clients.add(client)
        try:
            await client.serve(self._answer)
        finally:
            self._clients.discard(client)

    def _answer(self, client: Client, text: str | bytes) -> None:
        """Obey one request and list what the client now holds; then tell the last trade where that is new."""
        try:
            kind, wanted = read_request(text, self._markets)
        except RefusedError as refused:
            message, reason = refused.args
            client.push(orjson.dumps({"type": "error", "message": message, "reason": reason}))
            return
        if kind == "subscribe":
            client.settle()
        new = change(client.held, kind, wanted)
        held = [{"name": name, "product_ids": ids} for name, ids in client.held.items()]
        client.push(orjson.dumps({"type": "subscriptions", "channels": held}))
        for channel, product in new:
            if tell := AT_FIRST.get(channel):
                market = self._markets[product]
                client.push(orjson.dumps(tell(market, market.last_id)))

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._limit])
        app.router.add_get("/products/{product}/trades", self._page)
        app.router.add_route("*", "/{other:.*}", _not_found)
        return app

    @web.middleware
    async def _limit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let REST_PER_S requests a second through, and REST_BURST at once."""
        now_s = time.monotonic()
        refill = (now_s - self._counted_at_s) * REST_PER_S
        self._requests_left, self._counted_at_s = min(REST_BURST, self._requests_left + refill), now_s
        if self._requests_left < 1:
            return _json({"message": "Public rate limit exceeded"}, status=429)
        self._requests_left -= 1
        return await handler(request)

    async def _page(self, request: web.Request) -> web.Response:
        """Answer with the newest trades older than `after` and newer than `before`, newest first."""
        market = self._markets.get(request.match_info["product"])
        if market is None:
            return await _not_found(request)
        defaults = {"limit": PAGE_TRADES, "after": market.last_id + 1, "before": 0}
        try:
            limit, after, before = (int(request.query.get(key, default)) for key, default in defaults.items())
        except ValueError:
            return _json({"message": "limit, after and before are whole numbers"}, status=400)
        newest = min(after - 1, market.last_id)
        oldest = max(before + 1, newest - min(limit, PAGE_TRADES) + 1)
        trades = [rest_trade(market, n) for n in range(newest, oldest - 1, -1)]
        return _json(trades, headers={"CB-BEFORE": str(newest), "CB-AFTER": str(oldest)} if trades else None)


def _json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


async def _not_found(_request: web.Request) -> web.Response:
    return _json({"message": "NotFound"}, status=404)
