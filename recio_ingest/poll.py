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
# One question that is refused is no outage while others are answered; without any answer for so long, it is one.
OUTAGE_AFTER_S = 30.0
# A question that fails is asked again long before: one that is not has been given up.
GIVEN_UP_AFTER_S = 3600.0
# What a module asks at once is far less.
MAX_FAILING = 1000


class Poller:
    """Asks one venue what its module wants to know, whenever it wants to know it."""

    def __init__(self, feed: Feed, enquiry: Enquiry, spool: Spool) -> None:
        self.feed = feed
        self.status = FeedStatus()
        self._enquiry = enquiry
        self._spool = spool
        self._is_line = not feed.url
        self._failing: dict[str, tuple[str, float]] = {}
        """By question, why it was not answered, and when."""
        self._lack = ""
        self._answered_s = float("-inf")

    async def run(self) -> None:
        """Ask until cancelled."""
        waits = Waits(WAITS_S)
        if self._is_line:
            metrics.CONNECTED.labels(self.feed.name).set(0)
        async with rest.asking(self.feed.name, self.feed.rest_url, proxy=self.feed.proxy) as client:
            try:
                while True:
                    await self._turn(client, waits)
            finally:
                self._down("shutdown")

    async def _turn(self, client: Rest, waits: Waits) -> None:
        """Ask what is due, and wait after a failure, or where nothing is."""
        about = ""
        try:
            request = self._enquiry.due(time.monotonic())
            if request is None:
                await asyncio.sleep(LOOK_EVERY_S)
                return
            about = request.about
            await self._ask(client, request)
        except RestError as exc:
            failure = exc
        except BadMessageError as exc:
            failure = RestError("shape", f"an answer of another shape: {exc}", alone=True)
        except Exception as exc:  # noqa: BLE001  # whatever one question runs into, there is a next one
            failure = RestError("bug", repr(exc), alone=True)
        else:
            waits.reset()
            self._answered(about)
            return
        await self._failed(about, failure, waits)

    async def _ask(self, client: Rest, request: Request) -> None:
        """Ask one question, page by page. Every answer is recorded, also one that cannot be read."""
        more: Request | None = request
        while more is not None:
            await self._spool.wait_room()
            answer = await client.get(more)
            recv_ns = time.time_ns()
            try:
                more = self._enquiry.take(more, answer, time.monotonic())
            except Exception:
                self._record(answer, recv_ns)
                raise
            self._up(recv_ns)
            self._record(answer, recv_ns)

    def _record(self, answer: bytes, recv_ns: int) -> None:
        self._spool.append(self.feed.name, Kind.DATA, recv_ns, answer)
        self.status.last_message_s = time.monotonic()
        self.status.received += 1
        metrics.FRAMES_RECEIVED.labels(self.feed.name).inc()

    def _answered(self, about: str) -> None:
        """Note that a question was answered; one line when the last one that was not is, or was given up."""
        since_s = time.monotonic() - GIVEN_UP_AFTER_S
        kept = {name: (why, at_s) for name, (why, at_s) in self._failing.items() if name != about and at_s > since_s}
        if self._failing and not kept:
            log.info("poll.recovered", feed=self.feed.name)
        self._failing = kept
        if self._enquiry.trouble and self._enquiry.trouble != self._lack:
            log.warning("poll.incomplete", feed=self.feed.name, lacks=self._enquiry.trouble)
        self._lack = self._enquiry.trouble

    async def _failed(self, about: str, exc: RestError, waits: Waits) -> None:
        """One line per change of state, before the wait; the same trouble of this or another question is silent."""
        metrics.REST_FAILURES.labels(self.feed.name, exc.cause).inc()
        wait_s = waits.next_s(exc.cause, exc.wait_s)
        if exc.cause not in {why for why, _ in self._failing.values()}:
            log.warning("poll.failed", feed=self.feed.name, url=self.feed.rest_url, question=about, cause=exc.cause,
                        error=str(exc)[:300], next_attempt_s=round(wait_s, 1))  # fmt: skip
        if about in self._failing or len(self._failing) < MAX_FAILING:
            self._failing[about] = (exc.cause, time.monotonic())
        if not exc.alone or time.monotonic() - self._answered_s > OUTAGE_AFTER_S:
            self._down(exc.cause)
        await asyncio.sleep(wait_s)

    def _up(self, recv_ns: int) -> None:
        self._answered_s = time.monotonic()
        if self.status.connected:
            return
        self.status.connected, self.status.cause = True, ""
        if self._is_line:
            self._spool.append(self.feed.name, Kind.CONNECTED, recv_ns, orjson.dumps(dict(self.feed.describe)))
            metrics.CONNECTED.labels(self.feed.name).set(1)
            log.info("feed.connected", feed=self.feed.name, **self.feed.describe)

    def _down(self, cause: str) -> None:
        was_up, self.status.connected, self.status.cause = self.status.connected, False, cause
        if self._is_line and was_up:
            self._spool.append(self.feed.name, Kind.DISCONNECTED, time.time_ns(), orjson.dumps({"cause": cause}))
            metrics.CONNECTED.labels(self.feed.name).set(0)
            metrics.RECONNECTS.labels(self.feed.name, cause).inc()
