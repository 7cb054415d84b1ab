"""What was missed is asked for again: gaps of the ledger, one after the other, until each is filled or given up.

The ledger is the database, so a restart goes on where it stopped. Answers are frames in the spool, like any other, and
what they do to the ledger is done by those frames alone: one is under way at a time, and nothing is asked before what
it did is committed.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from recio_ingest import metrics, rest, store
from recio_ingest.backoff import Waits
from recio_ingest.errors import BadMessageError, RecioError
from recio_ingest.feeds import Feed, Missing, Page, Repair, Request
from recio_ingest.feeds.repair import wrap, wrap_unreadable
from recio_ingest.records import Kind
from recio_ingest.rest import Rest, RestError
from recio_ingest.ship import Progress
from recio_ingest.spool import Spool

log = structlog.get_logger()

# The ledger is read when a gap was committed, and now and then without a reason.
LOOK_EVERY_S = 300.0
CHECK_EVERY_S = 0.25
RETRY_S = 10.0
WAITS_S = (1.0, 60.0)
# What the venue refuses, or answers in another shape, so many times in a row, it does not have.
MAX_ATTEMPTS = 5
# What is not answered at all so many times in a row lets the other gaps go first: for so long, doubled each time.
ASIDE_S = (60.0, 900.0)
# Five million trades: past that it is a venue that pages for ever.
MAX_PAGES = 5000
COMMITTED_EVERY_S = 0.02


class _UnansweredError(RecioError):
    """A question of a gap that was not answered, so many times in a row."""


class Repairer:
    """Fills the gaps of one feed."""

    def __init__(self, feed: Feed, asks: Repair, spool: Spool, dsn: str, progress: Progress) -> None:
        self.feed = feed
        self._asks = asks
        self._spool = spool
        self._dsn = dsn
        self._progress = progress
        self._asked: tuple[int, int] | None = None
        """The last one that was asked for to the end."""
        self._ended: set[tuple[int, int]] = set()
        """Asked for to the end and listed all the same: the frame that should have said so was of no use."""
        self._aside: dict[tuple[int, int], tuple[float, float]] = {}
        """Not asked for to the end: the last pause, and until when (a clock that only runs forward) others go first."""
        self._failing = ""
        # Of all gaps together: where the whole venue is silent, asking for one after the other must not be quicker.
        self._waits, self._told = Waits(WAITS_S), ""

    async def run(self) -> None:
        """Repair until cancelled."""
        async with rest.asking(self.feed.name, self.feed.rest_url, proxy=self.feed.proxy) as client:
            while True:
                await self._turn(client)

    async def _turn(self, client: Rest) -> None:
        """Repair the gap that is the next, or wait for one."""
        gap: Missing | None = None
        try:
            seen = self._progress.gaps
            gap = await self._next()
            if gap is None:
                await self._wait(seen, min([LOOK_EVERY_S, *(left_s for _, left_s in self._left_aside())]))
            elif await self._wait(seen, gap.to_time / 1e6 + self._asks.SETTLE_S - time.time()):
                await self._repair(client, gap)
        except store.ERRORS as exc:
            await self._failed("database", exc)
        except _UnansweredError as exc:
            assert gap is not None
            self._put_aside(gap, str(exc))
        except Exception as exc:  # noqa: BLE001  # whatever one gap runs into, there is a next turn, and the feeds go on
            if gap is not None:
                self._put_aside(gap, repr(exc))
            await self._failed("bug", exc)
        else:
            self._failing = ""

    def _put_aside(self, gap: Missing, why: str) -> None:
        """Let other gaps go first; one line for each gap."""
        first_s, longest_s = ASIDE_S
        known = self._aside.get(gap[:2])
        pause_s = first_s if known is None else min(2 * known[0], longest_s)
        self._aside[gap[:2]] = (pause_s, time.monotonic() + pause_s)
        if known is None:
            log.warning("repair.put_aside", feed=self.feed.name, gap=list(gap[:2]), error=why[:300], retry_s=pause_s)

    def _left_aside(self) -> list[tuple[tuple[int, int], float]]:
        """Return the gaps behind all others, and for how long still."""
        now_s = time.monotonic()
        return [(name, until_s - now_s) for name, (_, until_s) in self._aside.items() if until_s > now_s]

    async def _failed(self, cause: str, exc: Exception) -> None:
        """Count it, tell it once, and wait: the gap stays in the ledger, and is asked for again."""
        metrics.REST_FAILURES.labels(self.feed.name, cause).inc()
        if cause != self._failing:
            self._failing = cause
            log.warning("repair.interrupted", feed=self.feed.name, cause=cause, error=repr(exc)[:300], retry_s=RETRY_S)
        await asyncio.sleep(RETRY_S)

    async def _next(self) -> Missing | None:
        """Read the first gap of the ledger, by a connection that is closed again: gaps are rare."""
        while not self._progress.schema_ready or self._progress.position is None:
            await asyncio.sleep(CHECK_EVERY_S)
        async with store.session(self._dsn) as opened:
            gaps = await opened.gaps(self._asks.GAPS, 2 + len(self._ended) + len(self._aside))
        self._ended.update(gap[:2] for gap in gaps if gap[:2] == self._asked)
        later = self._ended.union(name for name, _ in self._left_aside())
        return next((gap for gap in gaps if gap[:2] not in later), None)

    async def _wait(self, seen: int, wait_s: float) -> bool:
        """Return True after a while; False at once when another gap was committed, which may be the next to ask for."""
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, CHECK_EVERY_S))
            if self._progress.gaps != seen:
                return False
        return True

    async def _repair(self, client: Rest, gap: Missing) -> None:
        """Ask for one gap, page by page, to its end."""
        request: Request | None = self._asks.first(gap)
        pages, page = 0, Page(None)
        while request is not None:
            page = await self._page(client, gap, request)
            request, pages = page.following, pages + 1
            if request is not None and pages >= MAX_PAGES:
                request, page = None, Page(None, "too_many_pages")
                await self._record(wrap(gap, "", page.end))
        self._asked = gap[:2]
        self._aside.pop(self._asked, None)
        log.info("repair.ended", feed=self.feed.name, gap=list(gap[:2]), end=page.end, pages=pages)

    async def _page(self, client: Rest, gap: Missing, request: Request) -> Page:
        """Ask one question until it is answered, or refused too often; record the answer.

        Raises _UnansweredError where that leads nowhere: a venue that is not there is waited for, as long as it takes,
        but a question that only this gap has must not hold up the others.
        """
        refusals, failures = 0, 0
        while True:
            await self._spool.wait_room()
            try:
                page, answer = await self._ask(client, gap, request)
            except RestError as exc:
                failure = exc
            else:
                self._waits.reset()
                self._told = ""
                await self._record(wrap(gap, request.about, page.end, answer))
                return page
            metrics.REST_FAILURES.labels(self.feed.name, failure.cause).inc()
            refusals = refusals + 1 if failure.alone else 0
            if refusals >= MAX_ATTEMPTS:
                await self._record(wrap(gap, request.about, failure.cause))
                return Page(None, failure.cause)
            wait_s = self._waits.next_s(failure.cause, failure.wait_s)
            if failure.cause != self._told:
                self._told = failure.cause
                log.warning("repair.failed", feed=self.feed.name, gap=list(gap[:2]), cause=failure.cause,
                            error=str(failure)[:300], next_attempt_s=round(wait_s, 1))  # fmt: skip
            await asyncio.sleep(wait_s)
            failures += failure.cause != "rate_limited"  # that says nothing of the question
            if failures >= MAX_ATTEMPTS:
                raise _UnansweredError(f"{failures} times: {failure}") from failure

    async def _ask(self, client: Rest, gap: Missing, request: Request) -> tuple[Page, bytes]:
        """Return what an answer leads to. Raises RestError, also for one of another shape, which is recorded."""
        answer = await client.get(request)
        try:
            return self._asks.take(gap, request, answer), answer
        except BadMessageError as exc:
            await self._record(wrap_unreadable(gap, request.about, answer))
            raise RestError("shape", f"an answer of another shape: {exc}", alone=True) from exc
        except Exception as exc:  # whatever one gap runs into, the feeds go on
            raise RestError("bug", repr(exc), alone=True) from exc

    async def _record(self, data: bytes) -> None:
        """Put a frame into the spool; return when what it gives is committed."""
        frame_no = self._spool.append(self.feed.name, Kind.DATA, time.time_ns(), data)
        metrics.FRAMES_RECEIVED.labels(self.feed.name).inc()
        while self._progress.position is None or self._progress.position.frame_no < frame_no:
            await asyncio.sleep(COMMITTED_EVERY_S)
