"""The process behind `KalshiOracle`: a fake Kalshi that writes down what it sent, and to whom.

It serves what a recorder of one series asks for: the signed websocket with `ticker`, `trade`, `cfbenchmarks_value` and
`market_lifecycle_v2` (on which nothing happens: all markets stay open), `GET /markets`, and, when told to,
`GET /markets/trades`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import b64decode
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from harness.haste import Haste
from harness.kalshi_market import KINDS, Exchange
from harness.kalshi_messages import CHANNELS_OF
from harness.kalshi_rest import TRADES, answer, trades
from harness.kalshi_session import Session
from harness.venue_host import HostedVenue, json_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

WEBSOCKET_PATH = "/trade-api/ws/v2"
# An older stamp is refused, one of the future is not, as on the live venue.
STALE_MS = 10_000


def refusal(headers: Mapping[str, str], key_id: str, key: Ed25519PublicKey) -> str:
    """Tell why a handshake is not signed as it must be; nothing if it is."""
    stamp, signature = (headers.get(f"KALSHI-ACCESS-{name}", "") for name in ("TIMESTAMP", "SIGNATURE"))
    if headers.get("KALSHI-ACCESS-KEY") != key_id:
        return "NOT_FOUND"
    if not stamp.isdecimal():
        return "INVALID_TIMESTAMP"
    if int(stamp) < time.time_ns() // 1_000_000 - STALE_MS:
        return "header_timestamp_expired"
    try:
        key.verify(b64decode(signature, validate=True), f"{stamp}GET{WEBSOCKET_PATH}".encode())
    except (ValueError, InvalidSignature):
        return "INCORRECT_API_KEY_SIGNATURE"
    return ""


class KalshiVenue(HostedVenue[Session]):
    """The exchange and its connections; trading goes by the clock, unless it is frozen."""

    def __init__(self, key_id: str, public_key: str, **world: Any) -> None:
        super().__init__()
        self.key_id, self.key = key_id, Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        self.exchange = Exchange.open_now(**world)
        self.frozen_ns = self.rest_answers = self.trade_answers = self.unsigned = self.refused = 0
        self.rest = False

    def now_ns(self) -> int:
        """The time of the exchange."""
        return self.frozen_ns or time.time_ns()

    def session(self, socket: ServerConnection) -> Session:
        """Make a session of this venue."""
        return Session(self, socket)

    def http(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer REST requests; let signed handshakes pass unless refusing."""
        url = urlsplit(request.path)
        if url.path != WEBSOCKET_PATH:
            self.rest_answers += 1
            newest, query = self.exchange.newest(self.now_ns()), dict(parse_qsl(url.query))
            if self.rest and url.path == TRADES:
                self.trade_answers += 1
                return json_response(socket, 200, trades(self.exchange, query, newest))
            return json_response(socket, *answer(self.exchange, url.path, query, newest))
        if self.refusing:
            self.refused += 1
            return socket.respond(503, "refusing")
        if why := refusal(request.headers, self.key_id, self.key):
            self.unsigned += 1
            return json_response(socket, 401, {"error": {"code": "authentication_error", "message": why}})
        return None

    def do_freeze(self) -> dict[str, int]:
        """Let the clock run without trades, and without the index."""
        now_ns = self.frozen_ns = self.now_ns()
        newest = self.exchange.newest(now_ns)
        numbers = {kind: self.exchange.last(kind, newest) for kind in ("ticker", "trade")}
        return {**numbers, "print": self.exchange.newest_second(now_ns)}

    def do_thaw(self) -> None:
        """Trade by the clock again."""
        self.frozen_ns = 0

    def do_skip(self, count: int) -> None:
        """Lose the next trades of every connection, after they were numbered."""
        for session in self.open_sessions:
            if held := session.held.get(CHANNELS_OF["trade"]):
                held.to_skip += count

    def do_repeat(self, count: int) -> None:
        """Send the last trades and the last print once more, under new numbers of their subscriptions."""
        for session in self.open_sessions:
            session.write(session.again(count))

    def do_burst(self, seconds: float, times: int) -> None:
        """Make so many times as many messages for a while."""
        self.exchange = replace(self.exchange, haste=Haste(time.time_ns(), int(seconds * 1e9), times))
        for session in self.open_sessions:
            session.exchange = self.exchange

    def do_rest(self, *, on: bool) -> None:
        """Answer requests for trades."""
        self.rest = on

    def do_live(self) -> dict[str, bool]:
        """Tell of which kinds a connection that is open now was sent something."""
        return {kind: any(getattr(session.sent, kind) for session in self.open_sessions) for kind in KINDS}

    def do_ledger(self) -> dict[str, Any]:
        """Everything needed to compute again what was sent, and to whom."""
        return {
            "exchange": vars(self.exchange),
            "rest_answers": self.rest_answers,
            "trade_answers": self.trade_answers,
            "unsigned": self.unsigned,
            "refused": self.refused,
            "connections": [
                {"opened_ns": session.opened_ns, "closed_ns": session.closed_ns, **vars(session.sent)}
                for session in self.sessions
            ],
        }


if __name__ == "__main__":
    asyncio.run(KalshiVenue(**json.loads(sys.argv[1])).serve())
