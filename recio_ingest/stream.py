"""One feed's socket to frames in the spool, for ever. The clock is read here, once per message, and nowhere after."""

from __future__ import annotations

import asyncio
import socket as socket_errors
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import orjson
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from recio_ingest import metrics
from recio_ingest.backoff import delays
from recio_ingest.feeds import Feed
from recio_ingest.records import Kind
from recio_ingest.spool import Spool

log = structlog.get_logger()

OPEN_TIMEOUT_S = 10.0
PING_INTERVAL_S = 5.0
PING_TIMEOUT_S = 5.0
# websockets waits this long for the answer to its own close before it gives the socket up; the default of 10 s is
# added to every dead peer's detection.
CLOSE_TIMEOUT_S = 1.0
# The largest message of these channels is under 2 kB; past this limit the peer is closed with 1009.
MAX_MESSAGE_BYTES = 2**20
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
# A connection that lasted this long with its subscription confirmed was a good one: the next attempt is prompt.
HEALTHY_S = 10.0
# `recv` hands out queued messages without giving the loop a turn; after this many it gets one.
YIELD_EVERY = 200
SECOND_NS = 1_000_000_000
# A socket that waits for one commit may find on the way that the spool's limit is reached: it looks this often.
LIMIT_CHECK_S = 0.1
# A pause shorter than this is one slow commit: the kernel's buffer holds what the venue sends meanwhile.
LONG_PAUSE_S = 1.0


@dataclass(slots=True)
class FeedStatus:
    """What the rest of the program may know of a stream."""

    connected: bool = False
    cause: str = "starting"
    confirmed_s: float = 0.0
    last_message_s: float = 0.0
    received: int = 0


class Refused(Exception):  # noqa: N818  # the venue's word, not a failure of this program
    """The venue does not confirm the subscription."""


class Stream:
    """Connects, subscribes, appends every message to the spool; connects again."""

    def __init__(self, feed: Feed, spool: Spool, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.feed = feed
        self.status = FeedStatus()
        self._spool = spool
        self._now_ns = now_ns
        self._trouble = ""

    async def run(self) -> None:
        """Record the feed until cancelled; a connection that ends leaves a *disconnected* mark."""
        pauses = delays(FIRST_DELAY_S, MAX_DELAY_S)
        metrics.CONNECTED.labels(self.feed.name).set(0)
        while True:
            self.status.confirmed_s = 0.0
            try:
                await self._hold()
            except Exception as exc:  # noqa: BLE001  # whatever one attempt runs into, there is a next one
                cause, detail = explain(exc)
            metrics.RECONNECTS.labels(self.feed.name, cause).inc()
            if self.status.confirmed_s and time.monotonic() - self.status.confirmed_s > HEALTHY_S:
                pauses = delays(FIRST_DELAY_S, MAX_DELAY_S)
            pause_s = next(pauses)
            self._say(cause, detail, pause_s)
            await asyncio.sleep(pause_s)

    async def _hold(self) -> None:
        """Hold one connection for as long as it lasts. Never returns: raises why it ended."""
        async with connect(
            self.feed.url,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,
            proxy=None,  # not from whatever variable the environment happens to hold
            user_agent_header="recio-ingest",
        ) as socket:
            cause = "shutdown"
            self._mark(Kind.CONNECTED, dict(self.feed.describe))
            try:
                await self._subscribe(socket)
                await self._receive(socket)
            except Exception as exc:
                cause, _ = explain(exc)
                raise
            finally:
                self.status.connected = False
                metrics.CONNECTED.labels(self.feed.name).set(0)
                self._mark(Kind.DISCONNECTED, {"cause": cause})

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Ask, and record what comes until the venue has answered."""
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            for message in self.feed.subscribe:
                await socket.send(message, text=True)
            while True:
                data = await socket.recv(decode=False)
                self._spool.append(self.feed.name, Kind.DATA, self._now_ns(), data)
                self._count(1)
                confirmed, refused = self.feed.greet(data)
                if refused and not confirmed:
                    raise Refused(refused)
                if confirmed:
                    break
        if refused:
            log.error("feed.partly_refused", feed=self.feed.name, refused=refused, hint="check the configured names")
        log.info("feed.connected", feed=self.feed.name, **self.feed.describe)
        self._trouble = ""
        self.status.connected, self.status.cause = True, ""
        self.status.confirmed_s = time.monotonic()
        metrics.CONNECTED.labels(self.feed.name).set(1)

    async def _receive(self, socket: ClientConnection) -> None:
        """Append every message; the hot loop of the program, so what can be done once a second is."""
        name, append, now_ns, recv = self.feed.name, self._spool.append, self._now_ns, socket.recv
        clock = asyncio.get_running_loop().time
        count, renewed_ns = 0, 0
        try:
            async with asyncio.timeout(self.feed.idle_timeout_s) as limit:
                while True:
                    data = await recv(decode=False)
                    recv_ns = now_ns()
                    append(name, Kind.DATA, recv_ns, data)
                    count += 1
                    if not 0 <= recv_ns - renewed_ns <= SECOND_NS:  # also when the clock was set back
                        renewed_ns = recv_ns
                        limit.reschedule(clock() + self.feed.idle_timeout_s)
                        count = self._count(count)
                    if self._spool.full:
                        limit.reschedule(None)
                        await self._pause()
                        limit.reschedule(clock() + self.feed.idle_timeout_s)
                    elif count % YIELD_EVERY == 0:
                        await asyncio.sleep(0)
        finally:
            self._count(count)

    async def _pause(self) -> None:
        """Leave the socket unread until the spool has room; where its limit is reached, put that on record."""
        paused, began_s, began_ns = False, time.monotonic(), self._now_ns()
        while self._spool.full:
            if not paused and (self._spool.at_limit or time.monotonic() - began_s > LONG_PAUSE_S):
                paused = True
                cause = "spool_full" if self._spool.at_limit else "spool_stalled"
                log.error(
                    "feed.paused", feed=self.feed.name, cause=cause, hint="see --status; frames wait at the venue"
                )
                self._mark(Kind.PAUSED, {"cause": cause}, began_ns)
            with suppress(TimeoutError):
                async with asyncio.timeout(LIMIT_CHECK_S):
                    await self._spool.wait_room()
        if paused:
            self._mark(Kind.RESUMED, {})
            log.info("feed.resumed", feed=self.feed.name)

    def _count(self, count: int) -> int:
        self.status.last_message_s = time.monotonic()
        self.status.received += count
        metrics.FRAMES_RECEIVED.labels(self.feed.name).inc(count)
        return 0

    def _mark(self, kind: Kind, facts: dict[str, object], at_ns: int = 0) -> None:
        self._spool.append(self.feed.name, kind, at_ns or self._now_ns(), orjson.dumps(facts))

    def _say(self, cause: str, detail: str, pause_s: float) -> None:
        """One line per change of state, before the wait; the same trouble again is silent."""
        self.status.cause = cause
        if cause != self._trouble:
            url = self.feed.url
            log.warning("feed.disconnected", feed=self.feed.name, url=url, cause=cause, error=detail[:300],
                        next_attempt_s=round(pause_s, 1))  # fmt: skip
        self._trouble = cause


def explain(exc: BaseException) -> tuple[str, str]:
    """Return the cause (a metric label, one of a fixed set) and the words for why a connection ended."""
    text = str(exc) or type(exc).__name__
    if isinstance(exc, ConnectionClosed):
        return _CLOSES.get(exc.rcvd.code if exc.rcvd else 1006, "closed"), text
    if isinstance(exc, InvalidStatus):
        return _STATUSES.get(exc.response.status_code, "handshake"), text
    return next((cause for kind, cause in _CAUSES if isinstance(exc, kind)), "bug"), text


# In this order: those in the middle are kinds of OSError.
_CAUSES = (
    (Refused, "refused"),
    (TimeoutError, "timeout"),
    (ssl.SSLError, "tls"),
    (socket_errors.gaierror, "dns"),
    (OSError, "unreachable"),
    (WebSocketException, "handshake"),
)
_CLOSES = {1000: "closed", 1001: "closed", 1006: "reset", 1011: "server_error", 1012: "closed", 1013: "server_error"}
_STATUSES = {401: "unauthorised", 403: "unauthorised", 429: "rate_limited"}
