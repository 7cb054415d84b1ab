"""Kalshi on loopback: its websocket and its public REST, with an invented market.

What is told follows docs.kalshi.com; the modules beside this one name the pages.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from recio_ingest.demo import kalshi_messages as messages
from recio_ingest.demo.client import Client
from recio_ingest.demo.kalshi_auth import PublicKey, refusal
from recio_ingest.demo.kalshi_clock import HOUR_S, Clock
from recio_ingest.demo.kalshi_faults import EXPIRED, Faults
from recio_ingest.demo.kalshi_market import WINDOW, Exchange, News
from recio_ingest.demo.kalshi_rest import NOT_FOUND, ROOT
from recio_ingest.demo.kalshi_session import Session
from recio_ingest.demo.venue import Venue

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

PING_S = 10.0  # "Connection Keep-Alive": a ping that says `heartbeat`; the simulator waits as long for the pong
STEP_S = 0.01  # the market wakes no more often
STEP_SECONDS = 20  # of the venue's time, then the clients have their turn
QUIET_S = 30.0  # after the machine slept, what is older is not told, only found by asking
MAX_REQUEST_BYTES = 1_048_576


class KalshiVenue(Faults, Venue):
    """Kalshi at `url` (websocket) and `rest_url`, from `async with` to its end; `Faults` is what can go wrong.

    Who connects signs with the private half of one of `public_keys` (key id -> key). An hour of the venue's
    time takes `hour_s`; if that is not 3600, all the venue's times run in compressed time (see `Clock`), and
    still 60 index prints, stamped with its seconds, settle an event. `start_s` is the venue's time (seconds
    since 1970) at the start. Port 0 takes a free one.
    """

    WS_PATH, REST_PATH = "/trade-api/ws/v2", ROOT

    def __init__(
        self,
        series: Sequence[str] = ("KXBTCD",),
        *,
        public_keys: Mapping[str, PublicKey],
        hour_s: float = 3600.0,
        seed: int = 1,
        host: str = "127.0.0.1",
        ws_port: int = 0,
        rest_port: int = 0,
        start_s: int | None = None,
    ) -> None:
        if not series:
            raise ValueError("a venue needs a series")
        self._clock = Clock(hour_s, start_s)
        Venue.__init__(self, host, ws_port, rest_port)
        Faults.__init__(self, public_keys, Exchange(series, seed, self._clock.now_ms() // 1000))
        now_s = self._exchange.now_s
        self._prints = deque((self._exchange.index(s) for s in range(now_s - WINDOW, now_s + 1)), WINDOW + 1)
        self._quiet_s = int(QUIET_S * HOUR_S / hour_s)

    def _options(self) -> dict[str, Any]:
        return {
            "process_request": self._admit,
            "process_response": self._date,
            "max_size": MAX_REQUEST_BYTES,
            "ping_interval": None,  # `_beat` pings, with the venue's own word
        }

    def _served(self) -> Iterable[Client]:
        return self._sessions

    def _app(self) -> web.Application:
        app = self._rest.app()
        app.on_response_prepare.append(self._date_rest)
        return app

    def _loops(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._run,)

    async def _run(self) -> None:
        """Let the market's seconds pass in time, for ever; never waits for a client."""
        exchange = self._exchange
        while True:
            now_s = self._clock.now_ms() // 1000
            for _ in range(min(STEP_SECONDS, now_s - exchange.now_s)):
                news = exchange.step()
                self._prints.append(exchange.index(exchange.now_s))
                if self._sessions and exchange.now_s >= now_s - self._quiet_s:
                    for item in news:
                        self._publish(item)
            next_ms = (exchange.now_s + 1) * 1000 - self._clock.now_ms()
            await asyncio.sleep(max(STEP_S, self._clock.real_s(next_ms)) if next_ms > 0 else STEP_S / 10)

    def _publish(self, news: News) -> None:
        body: object = None
        for session in self._sessions.values():
            for held in session.held.values():
                if held.wants(news.channel, news.key):
                    if news.channel == "cfbenchmarks_value":  # its mean differs by subscription
                        body = messages.index_print(self._prints, news.subject, held.told)
                    elif body is None:  # else nothing is written: what nobody watches costs next to nothing
                        body = orjson.Fragment(orjson.dumps(self._body(news)))
                    session.tell(news.type, held, body)

    def _body(self, news: News) -> object:
        if news.type == "ticker":
            return messages.ticker(news.subject, self._exchange.now_s)
        if news.type == "trade":
            return messages.trade(news.subject)
        if news.type == "event_lifecycle":
            return messages.event_lifecycle(news.subject)
        return messages.lifecycle(news.subject, news.word, self._exchange.now_s)

    def _snapshot(self, ticker: str) -> object | None:
        strike = self._exchange.strike(ticker)
        return messages.ticker(strike, self._exchange.now_s) if strike else None

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse a handshake that goes elsewhere or is not signed."""
        if request.path != self.WS_PATH:
            return _refuse(connection, 404, NOT_FOUND)
        now_ms = round(self._judging_s() * 1000)
        why = refusal(request.headers, self._public_keys, "GET", self.WS_PATH, expired=self._expired, now_ms=now_ms)
        return _refuse(connection, 401, why) if why else None

    def _judging_s(self) -> float:
        """Return the time that signatures are judged by: the real one, unless the venue's clock is wrong."""
        return time.time() + self.clock_offset_s

    def _date(self, _connection: ServerConnection, _request: Request, response: Response) -> None:
        """Let the Date of every answer to a handshake tell the time that signatures are judged by."""
        del response.headers["Date"]
        response.headers["Date"] = formatdate(self._judging_s(), usegmt=True)

    async def _date_rest(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(self._judging_s(), usegmt=True)

    async def _serve(self, connection: ServerConnection) -> None:
        key_id = connection.request.headers["KALSHI-ACCESS-KEY"] if connection.request else ""
        if key_id in self._expired:  # since it was let in
            await connection.close(CloseCode.POLICY_VIOLATION, EXPIRED)
            return
        client = Client(connection)
        self._sessions[client] = session = Session(client.push, self._snapshot, self._rules, key_id)
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(_beat(client, connection), name="venue heartbeat")
                await client.serve(lambda _client, text: session.answer(text))
                beat.cancel()
        finally:
            del self._sessions[client]


async def _beat(client: Client, connection: ServerConnection) -> None:
    """Ping, and drop a client that does not answer before the next ping."""
    try:
        while True:
            await asyncio.sleep(PING_S)
            async with asyncio.timeout(PING_S):
                await (await connection.ping(b"heartbeat"))
    except ConnectionClosed:
        return
    except TimeoutError:
        client.drop(CloseCode.POLICY_VIOLATION, "no pong")


def _refuse(connection: ServerConnection, status: int, body: object) -> Response:
    response = connection.respond(status, orjson.dumps(body).decode())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response
