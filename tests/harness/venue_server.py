"""The process behind `OracleVenue`: a fake Coinbase that writes down what it sent.

Started with its settings as one JSON argument; obeys one JSON line per order on its standard input, answers
with one, and ends when the input ends, so that it never outlives its test.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve

from harness.market import Market
from harness.venue_session import Session, dump

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

REST_PAGE = 1000


class Venue:
    """All connections, the markets, and the switches that a test can turn."""

    def __init__(self, products: list[str], rate: float, ticker_every: int) -> None:
        self.ticker_every = ticker_every
        per_trade = len(products) * (1 + (1 / ticker_every if ticker_every else 0))
        start_ns, step_ns = time.time_ns(), int(1e9 * per_trade / rate)
        self.markets = {
            product: Market(product, 800_000_001 + 100_000_000 * place, start_ns, step_ns)
            for place, product in enumerate(products)
        }
        self.holes: dict[str, list[range]] = {product: [] for product in products}
        self.frozen: dict[str, int] = {}
        self.sessions: list[Session] = []
        self.refusing = False
        self.rest = False
        self.rest_answers = 0

    def newest(self, product: str) -> int:
        """The last trade of a product, which time alone decides unless the market is frozen."""
        return self.frozen.get(product) or self.markets[product].newest_id()

    async def serve_socket(self, socket: ServerConnection) -> None:
        """Handle one connection and keep its ledger."""
        session = Session(self, socket)
        self.sessions.append(session)
        await session.run()

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
        response = socket.respond(200, dump(trades).decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        if ids:
            response.headers["CB-BEFORE"], response.headers["CB-AFTER"] = str(ids[0]), str(ids[-1])
        return response

    @property
    def open_sessions(self) -> list[Session]:
        """The connections that are not closed yet."""
        return [session for session in self.sessions if not session.closed_ns]

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

    def do_disconnect(self) -> None:
        """Cut every connection without a word."""
        for session in self.open_sessions:
            session.socket.transport.abort()

    def do_refuse(self, *, on: bool) -> None:
        """Take no new connection."""
        self.refusing = on

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


async def main() -> None:
    """Serve until the standard input ends."""
    venue = Venue(**json.loads(sys.argv[1]))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with serve(
        venue.serve_socket, "127.0.0.1", 0, process_request=venue.http, compression=None, close_timeout=1
    ) as server:
        answer: dict[str, Any] = {"port": server.sockets[0].getsockname()[1]}
        while True:
            sys.stdout.buffer.write(dump(answer) + b"\n")
            sys.stdout.buffer.flush()
            if not (line := await reader.readline()):
                return
            order = json.loads(line)
            answer = getattr(venue, f"do_{order.pop('do')}")(**order) or {}


if __name__ == "__main__":
    asyncio.run(main())
