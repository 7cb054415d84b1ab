"""One feed's socket to frames in the spool, for ever. The clock is read here, once per message, and nowhere after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import orjson
import structlog
from websockets.asyncio.client import ClientConnection

from recio_ingest import metrics
from recio_ingest.backoff import Pace, Waits
from recio_ingest.endings import Ending, explain
from recio_ingest.feeds import Conversation, Feed
from recio_ingest.flow import Flow, Garbage
from recio_ingest.headers import note_clock
from recio_ingest.opening import Opening
from recio_ingest.records import Kind
from recio_ingest.spool import Spool

log = structlog.get_logger()

WAITS_S = (0.5, 30.0)
# A connection over which data flowed for so long, with all confirmed, was a good one: the next attempt is prompt.
HEALTHY_S = 10.0
# What a feed has to say unasked (another market to follow, an answer that is overdue) waits for so long at most.
TALK_EVERY_S = 0.5
# `recv` hands out queued messages without giving the loop a turn; after this many it gets one.
YIELD_EVERY = 200
# Where a share is set: what may come at once before it is kept.
BURST_FRAMES = 1000
SECOND_NS = 1_000_000_000
# A socket that waits for one commit may find on the way that the spool's limit is reached: it looks this often.
LIMIT_CHECK_S = 0.1
# A pause shorter than this is one slow commit: the kernel's buffer holds what the venue sends meanwhile.
LONG_PAUSE_S = 1.0
# What every message of these venues begins with.
BRACE = ord("{")


@dataclass(slots=True)
class FeedStatus:
    """What the rest of the program may know of a stream."""

    connected: bool = False
    cause: str = "starting"
    last_message_s: float = 0.0
    received: int = 0


class Stream:
    """Connects, subscribes, appends every message to the spool; connects again."""

    def __init__(
        self, feed: Feed, spool: Spool, now_ns: Callable[[], int] = time.time_ns, most_per_s: float = 0.0
    ) -> None:
        self.feed = feed
        self._pace = Pace(most_per_s, BURST_FRAMES)
        self.status = FeedStatus()
        self._spool = spool
        self._now_ns = now_ns
        self._trouble = ""
        self._opening = Opening(feed, now_ns)
        self._flow = Flow()
        self._heard = asyncio.Event()
        self._paused = False

    async def run(self) -> None:
        """Record the feed until cancelled; a connection that ends leaves a *disconnected* mark."""
        waits, corrected = Waits(WAITS_S), False
        metrics.CONNECTED.labels(self.feed.name).set(0)
        while True:
            self._flow = Flow()
            try:
                await self._hold()
            except Exception as exc:  # whatever one attempt runs into, there is a next one
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # a task group forgets this where one of its tasks failed
                    raise asyncio.CancelledError from exc
                ending = explain(exc, self.feed.advise)
            metrics.RECONNECTS.labels(self.feed.name, ending.cause).inc()
            if self._flow.flowed_s >= HEALTHY_S:
                waits.reset()
            corrected = not corrected and ending.cause == "unauthorised" and self._opening.correct_clock(ending.headers)
            if corrected:
                continue
            pause_s = waits.next_s(ending.cause, ending.wait_s)
            self._say(ending, pause_s)
            await asyncio.sleep(pause_s)

    async def _hold(self) -> None:
        """Hold one connection for as long as it lasts. Never returns: raises why it ended."""
        async with self._opening.attempt() as socket:
            cause, conversation = "shutdown", self.feed.converse()
            self._mark(Kind.CONNECTED, dict(self.feed.describe))
            if socket.response is not None:
                note_clock(self.feed.name, socket.response.headers)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._talk(socket, conversation), name=f"talk {self.feed.name}")
                    await self._receive(socket, conversation)
            except Exception as exc:
                cause = explain(exc, self.feed.advise).cause
                raise
            finally:
                conversation.end()
                self._unsettle()
                metrics.INCOMPLETE.labels(self.feed.name).set(0)  # nothing of it is connected
                self._mark(Kind.DISCONNECTED, {"cause": cause})

    async def _talk(self, socket: ClientConnection, conversation: Conversation) -> None:
        """Send what the feed has to say: at once after it has heard something, and now and then.

        While nothing is read it says nothing: it would take the pause for the venue's silence.
        """
        while True:
            if not self._paused:
                for message in conversation.say(time.monotonic()):
                    await socket.send(message, text=True)
                self._settle(conversation)
            self._heard.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(TALK_EVERY_S):
                    await self._heard.wait()

    def _settle(self, conversation: Conversation) -> None:
        """Note whether all is confirmed; one line per change."""
        self.status.cause = conversation.trouble
        metrics.INCOMPLETE.labels(self.feed.name).set(bool(conversation.trouble))
        if not conversation.ready:
            self._unsettle()
        elif not self.status.connected:
            log.info("feed.connected", feed=self.feed.name, **self.feed.describe)
            self._trouble, self.status.connected = "", True
            metrics.CONNECTED.labels(self.feed.name).set(1)

    def _unsettle(self) -> None:
        self.status.connected = False
        metrics.CONNECTED.labels(self.feed.name).set(0)

    async def _receive(self, socket: ClientConnection, conversation: Conversation) -> None:
        """Append every message; the hot loop of the program, so what can be done once a second is."""
        name, append, now_ns, recv = self.feed.name, self._spool.append, self._now_ns, socket.recv
        clock, listens = asyncio.get_running_loop().time, conversation.listens
        count, renewed_ns, garbage = 0, 0, Garbage()
        try:
            async with asyncio.timeout(self.feed.idle_timeout_s) as limit:
                while True:
                    data = await recv(decode=False)
                    recv_ns = now_ns()
                    append(name, Kind.DATA, recv_ns, data)
                    count += 1
                    if not data or data[0] != BRACE:
                        garbage.heard(data, clock())
                    if listens(data):
                        self._hear(conversation, data)
                    if not 0 <= recv_ns - renewed_ns <= SECOND_NS:  # also when the clock was set back
                        renewed_ns = recv_ns
                        limit.reschedule(clock() + self.feed.idle_timeout_s)
                        count = self._count(count)
                    if self._spool.full:
                        limit.reschedule(None)
                        await self._pause(conversation)
                        limit.reschedule(clock() + self.feed.idle_timeout_s)
                    elif count % YIELD_EVERY == 0:
                        await asyncio.sleep(self._pace.wait_s(YIELD_EVERY, clock()))
        finally:
            self._count(count)

    def _hear(self, conversation: Conversation, data: bytes) -> None:
        for level, event, facts in conversation.hear(data, time.monotonic()):
            getattr(log, level)(event, feed=self.feed.name, **facts)
        self._heard.set()

    async def _pause(self, conversation: Conversation) -> None:
        """Leave the socket unread until the spool has room."""
        began_s = time.monotonic()
        self._paused = True
        try:
            await self._wait_room(began_s)
        finally:
            self._paused = False
            conversation.resumed(time.monotonic() - began_s)

    async def _wait_room(self, began_s: float) -> None:
        """Return when the spool has room; where its limit is reached, put that on record."""
        paused, began_ns = False, self._now_ns()
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
        if count:
            self.status.last_message_s = time.monotonic()
            if self.status.connected:
                self._flow.heard(self.status.last_message_s)
        self.status.received += count
        metrics.FRAMES_RECEIVED.labels(self.feed.name).inc(count)
        return 0

    def _mark(self, kind: Kind, facts: dict[str, object], at_ns: int = 0) -> None:
        self._spool.append(self.feed.name, kind, at_ns or self._now_ns(), orjson.dumps(facts))

    def _say(self, ending: Ending, pause_s: float) -> None:
        """One line per change of state, before the wait; the same trouble again is silent."""
        self.status.cause = ending.cause
        if ending.cause != self._trouble:
            log.warning("feed.disconnected", feed=self.feed.name, url=self.feed.url, cause=ending.cause,
                        error=ending.words[:300], next_attempt_s=round(pause_s, 1),
                        **({"hint": ending.hint} if ending.hint else {}))  # fmt: skip
        self._trouble = ending.cause
