"""The process behind `OracleVenue`: a fake Coinbase that writes down what it sent."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from harness.haste import Haste
from harness.market import Market
from harness.venue_host import HostedVenue, json_response
from harness.venue_session import Session

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

REST_PAGE = 1000


class Venue(HostedVenue[Session]):
    """All connections, the markets, and the switches that a test can turn."""

    def __init__(self, products: list[str], rate: float, ticker_every: int) -> None:
        super().__init__()
        self.ticker_every = ticker_every
        per_trade = len(products) * (1 + (1 / ticker_every if ticker_every else 0))
        start_ns, step_ns = time.time_ns(), int(1e9 * per_trade / rate)
        self.markets = {
            product: Market(product, 800_000_001 + 100_000_000 * place, start_ns, step_ns)
            for place, product in enumerate(products)
        }
        self.holes: dict[str, list[range]] = {product: [] for product in products}
        self.frozen: dict[str, int] = {}
        self.rest = False
        self.rest_answers = 0

    def newest(self, product: str) -> int:
        """The last trade of a product, which time alone decides unless the market is frozen."""
        return self.frozen.get(product) or self.markets[product].newest_id()

    def session(self, socket: ServerConnection) -> Session:
        """Make a session of this venue."""
        return Session(self, socket)

    def http(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer REST requests; let handshakes pass unless refusing."""
        url = urlsplit(request.path)
        if not url.path.startswith("/products/"):
            return socket.respond(503, "refusing") if self.refusing else None
        if not self.rest:
            return socket.respond(503, "no REST")
        self.rest_answers += 1
        product = url.path.split("/")[2]
        query = {key: int(values[0]) for key, values in parse_qs(url.query).items()}
        newest = self.newest(product)
        top = min(query.get("after", newest + 1) - 1, newest)
        bottom = max(query.get("before", 0), self.markets[product].first_id - 1)
        ids = range(top, max(bottom, top - min(query.get("limit", REST_PAGE), REST_PAGE)), -1)
        trades = [self.markets[product].trade(trade_id).fields() for trade_id in ids]
        for trade in trades:
            del trade["maker_order_id"], trade["taker_order_id"]
        response = json_response(socket, 200, trades)
        if ids:
            response.headers["CB-BEFORE"], response.headers["CB-AFTER"] = str(ids[0]), str(ids[-1])
        return response

    def do_freeze(self) -> dict[str, int]:
        """Let the clock run without trades."""
        self.frozen = {product: self.newest(product) for product in self.markets}
        return self.frozen

    def do_thaw(self) -> None:
        """Trade by the clock again."""
        self.frozen = {}

    def do_skip(self, count: int) -> None:
        """Hide the next trades from every connection."""
        for product, holes in self.holes.items():
            holes.append(range(self.newest(product) + 1, self.newest(product) + 1 + count))

    def do_repeat(self, count: int) -> None:
        """Send the last trades once more."""
        for session in self.open_sessions:
            for product, cursor in session.cursors.items():
                session.write(session.matches(product, range(cursor - count + 1, cursor + 1)))

    def do_burst(self, seconds: float, times: int) -> None:
        """Trade so many times as much for a while."""
        haste = Haste(time.time_ns(), int(seconds * 1e9), times)
        self.markets = {product: replace(market, haste=haste) for product, market in self.markets.items()}

    def do_rest(self, *, on: bool) -> None:
        """Answer requests for trades."""
        self.rest = on

    def do_ledger(self) -> dict[str, Any]:
        """Everything needed to compute again what was sent, and to whom."""
        return {
            "markets": [vars(market) for market in self.markets.values()],
            "rest_answers": self.rest_answers,
            "connections": [
                {"opened_ns": session.opened_ns, "closed_ns": session.closed_ns, "sent": session.sent}
                for session in self.sessions
            ],
        }


if __name__ == "__main__":
    asyncio.run(Venue(**json.loads(sys.argv[1])).serve())
