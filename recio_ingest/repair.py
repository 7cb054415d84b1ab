"""What was missed is asked for again: gaps of the ledger, one after the other, until each is filled or given up.

The ledger is the database, so a restart goes on where it stopped. Answers are frames in the spool, like any other, and
what they do to the ledger is done by those frames alone: one is under way at a time, and nothing is asked before what
it did is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from recio_ingest import metrics, rest, store
from recio_ingest.backoff import Waits
from recio_ingest.errors import BadMessageError
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
GAPS_AT_ONCE = 50
WAITS_S = (1.0, 60.0)
# What the venue refuses, or answers in another shape, so many times in a row, it does not have.
MAX_ATTEMPTS = 5
# Five million trades: past that it is a venue that pages for ever.
MAX_PAGES = 5000
COMMITTED_EVERY_S = 0.02


class Repairer:
    """Fills the gaps of one feed."""

    def __init__(self, feed: Feed, asks: Repair, spool: Spool, dsn: str, progress: Progress) -> None:
        self.feed = feed
        self._asks = asks
        self._spool = spool
        self._dsn = dsn
        self._progress = progress
        self._ended: set[tuple[int, int]] = set()
        """Asked for to the end and listed all the same: the frame that should have said so was of no use."""

    async def run(self) -> None:
        """Repair until cancelled."""
        async with rest.asking(self.feed.name, self.feed.rest_url, proxy=self.feed.proxy) as client:
            while True:
                seen = self._progress.gaps
                try:
                    gaps = await self._listed()
                except store.ERRORS as exc:
                    log.warning("repair.ledger_unread", feed=self.feed.name, error=str(exc)[:300], retry_s=RETRY_S)
                    await asyncio.sleep(RETRY_S)
                    continue
                for gap in gaps:
                    await self._repair(client, gap)
                if not gaps:
                    await self._wait(seen)

    async def _listed(self) -> Sequence[Missing]:
        """Read the ledger, by a connection that is closed again: gaps are rare."""
        while not self._progress.schema_ready or self._progress.position is None:
            await asyncio.sleep(CHECK_EVERY_S)
        async with store.session(self._dsn) as opened:
            gaps = await opened.gaps(self._asks.GAPS, GAPS_AT_ONCE + len(self._ended))
        listed = {gap[:2] for gap in gaps}
        self._ended &= listed
        return [gap for gap in gaps if gap[:2] not in self._ended]

    async def _wait(self, seen: int) -> None:
        """Return when another gap was committed, or after a while."""
        until_s = time.monotonic() + LOOK_EVERY_S
        while self._progress.gaps == seen and time.monotonic() < until_s:
            await asyncio.sleep(CHECK_EVERY_S)

    async def _repair(self, client: Rest, gap: Missing) -> None:
        """Ask for one gap, page by page, to its end."""
        await asyncio.sleep(gap.to_time / 1e6 + self._asks.SETTLE_S - time.time())
        request: Request | None = self._asks.first(gap)
        pages, page = 0, Page(None)
        while request is not None:
            page = await self._page(client, gap, request)
            request, pages = page.following, pages + 1
            if request is not None and pages >= MAX_PAGES:
                request, page = None, Page(None, "too_many_pages")
                await self._record(wrap(gap, "", page.end))
        self._ended.add(gap[:2])
        log.info("repair.ended", feed=self.feed.name, gap=list(gap[:2]), end=page.end, pages=pages)

    async def _page(self, client: Rest, gap: Missing, request: Request) -> Page:
        """Ask one question until it is answered, or refused too often; record the answer."""
        waits, failures, told = Waits(WAITS_S), 0, ""
        while True:
            await self._spool.wait_room()
            try:
                page, answer = await self._ask(client, gap, request)
            except RestError as exc:
                failure = exc
            else:
                await self._record(wrap(gap, request.about, page.end, answer))
                return page
            # A venue that is not there is waited for, as long as it takes.
            failures = failures + 1 if failure.alone else 0
            if failures >= MAX_ATTEMPTS:
                await self._record(wrap(gap, request.about, failure.cause))
                return Page(None, failure.cause)
            wait_s = waits.next_s(failure.cause, failure.wait_s)
            if failure.cause != told:
                told = failure.cause
                log.warning("repair.failed", feed=self.feed.name, gap=list(gap[:2]), cause=told,
                            error=str(failure)[:300], next_attempt_s=round(wait_s, 1))  # fmt: skip
            await asyncio.sleep(wait_s)

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
