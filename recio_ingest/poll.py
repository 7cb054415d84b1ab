"""What a feed asks by REST: answers are frames in the spool, like any other.

Where a feed has no socket, this is its line: an answer is its *connected* mark, a failure its *disconnected* one.
"""

from __future__ import annotations

import asyncio
import time

import orjson
import structlog

from recio_ingest import metrics, rest
from recio_ingest.backoff import Waits
from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Enquiry, Feed, Request
from recio_ingest.records import Kind
from recio_ingest.rest import Rest, RestError
from recio_ingest.spool import Spool
from recio_ingest.stream import FeedStatus

log = structlog.get_logger()

LOOK_EVERY_S = 0.5
WAITS_S = (1.0, 60.0)


class Poller:
    """Asks one venue what its module wants to know, whenever it wants to know it."""

    def __init__(self, feed: Feed, enquiry: Enquiry, spool: Spool) -> None:
        self.feed = feed
        self.status = FeedStatus()
        self._enquiry = enquiry
        self._spool = spool
        self._is_line = not feed.url
        self._trouble = ""
        self._lack = ""

    async def run(self) -> None:
        """Ask until cancelled."""
        waits = Waits(WAITS_S)
        if self._is_line:
            metrics.CONNECTED.labels(self.feed.name).set(0)
        async with rest.asking(self.feed.name, self.feed.rest_url) as client:
            try:
                while True:
                    request = self._enquiry.due(time.monotonic())
                    if request is None:
                        await asyncio.sleep(LOOK_EVERY_S)
                        continue
                    try:
                        await self._ask(client, request)
                    except RestError as exc:
                        await self._failed(exc, waits)
                    except BadMessageError as exc:
                        await self._failed(RestError("shape", f"an answer of another shape: {exc}"), waits)
                    else:
                        waits.reset()
                        self._answered()
            finally:
                self._down("shutdown")

    async def _ask(self, client: Rest, request: Request) -> None:
        """Ask one question, page by page. Every answer is recorded, also one that cannot be read."""
        more: Request | None = request
        while more is not None:
            await self._spool.wait_room()
            answer = await client.get(more)
            self._up()
            self._spool.append(self.feed.name, Kind.DATA, time.time_ns(), answer)
            self.status.last_message_s = time.monotonic()
            self.status.received += 1
            metrics.FRAMES_RECEIVED.labels(self.feed.name).inc()
            more = self._enquiry.take(more, answer, time.monotonic())

    def _answered(self) -> None:
        if self._trouble:
            log.info("poll.recovered", feed=self.feed.name)
        self._trouble = ""
        if self._enquiry.trouble and self._enquiry.trouble != self._lack:
            log.warning("poll.incomplete", feed=self.feed.name, lacks=self._enquiry.trouble)
        self._lack = self._enquiry.trouble

    async def _failed(self, exc: RestError, waits: Waits) -> None:
        """One line per change of state, before the wait; the same trouble again is silent."""
        wait_s = waits.next_s(exc.cause, exc.wait_s)
        if exc.cause != self._trouble:
            log.warning("poll.failed", feed=self.feed.name, url=self.feed.rest_url, cause=exc.cause,
                        error=str(exc)[:300], next_attempt_s=round(wait_s, 1))  # fmt: skip
        self._trouble = exc.cause
        self._down(exc.cause)
        await asyncio.sleep(wait_s)

    def _up(self) -> None:
        if self.status.connected:
            return
        self.status.connected, self.status.cause = True, ""
        if self._is_line:
            self._spool.append(self.feed.name, Kind.CONNECTED, time.time_ns(), orjson.dumps(dict(self.feed.describe)))
            metrics.CONNECTED.labels(self.feed.name).set(1)
            log.info("feed.connected", feed=self.feed.name, **self.feed.describe)

    def _down(self, cause: str) -> None:
        was_up, self.status.connected, self.status.cause = self.status.connected, False, cause
        if self._is_line and was_up:
            self._spool.append(self.feed.name, Kind.DISCONNECTED, time.time_ns(), orjson.dumps({"cause": cause}))
            metrics.CONNECTED.labels(self.feed.name).set(0)
            metrics.RECONNECTS.labels(self.feed.name, cause).inc()
