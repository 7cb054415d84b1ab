"""The daemon: builds everything and nests it so that leaving the scopes is the shutdown.

Sources are opened last and closed first; then what they gathered becomes durable, then it is shipped, then the database
is left. Whatever the drain does not get done in time stays in the spool for the next start.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from recio_ingest import archive, embedded, known, metrics, schema, store, upkeep, web
from recio_ingest.feeds import Feed, rules
from recio_ingest.notify import Notifier
from recio_ingest.partitions import LIVE_TABLES
from recio_ingest.poll import Poller
from recio_ingest.records import DAEMON_FEED, LIVE_STREAM, Kind
from recio_ingest.repair import Repairer
from recio_ingest.report import VERSION, Report
from recio_ingest.rollover import Rollover
from recio_ingest.settings import Settings
from recio_ingest.ship import Shipper
from recio_ingest.spool import Spool
from recio_ingest.store import Position, Store
from recio_ingest.stream import Stream
from recio_ingest.verify import Verifier

log = structlog.get_logger()

TICK_S = 1.0
# systemd waits TimeoutStopSec=60; a database that takes longer than this to drain gets the rest at the next start.
DRAIN_S = 20.0
# An embedded PostgreSQL that was stopped in peace answers in a fraction of this; one that recovers is not waited for.
EMBEDDED_WITHIN_S = 2.0
# Frames of all feeds are shipped in one order. One that sends as fast as it is read (26,000 a second, seen) made those
# of the other wait half a second; a lively venue sends some hundreds, and what is over this waits in its own socket.
SHARE_FRAMES_PER_S = 5_000.0
# A daemon that may not write to the database should find out before it records: a refused one leaves nothing behind.
FIRST_ANSWER_S = 5.0


async def serve(settings: Settings, feeds: Sequence[Feed], *, takeover: bool = False) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raises TryLaterError where another writer has the spool or database."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    notifier = Notifier()
    async with AsyncExitStack() as stack:
        spool = stack.enter_context(
            Spool(
                settings.state_dir / "spool",
                [feed.name for feed in feeds],
                retain_s=settings.spool.retain_s,
                max_bytes=settings.spool.max_bytes,
                sync_interval_s=settings.spool.sync_interval_ms / 1000,
            )
        )
        dsn = settings.database.dsn
        if not dsn:
            server = embedded.running(settings.state_dir, adopt=True, answer_within_s=EMBEDDED_WITHIN_S)
            dsn = (await stack.enter_async_context(server)).dsn
        daemon = Daemon(settings, feeds, spool, dsn, notifier, takeover=takeover)
        _tune_collector()
        log.info("service.started", version=VERSION, feeds=[feed.name for feed in feeds], spool_id=spool.spool_id)
        await daemon.run(stop)
        log.info("service.stopped", spooled=daemon.report.books.snapshot(daemon.shipper.progress.position)["spooled"])


class Daemon:
    """Everything that runs side by side."""

    def __init__(
        self, settings: Settings, feeds: Sequence[Feed], spool: Spool, dsn: str, notifier: Notifier, *, takeover: bool
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._dsn = dsn
        self._notifier = notifier
        self._takeover = takeover
        sockets = [feed for feed in feeds if feed.url]
        share = SHARE_FRAMES_PER_S if len(sockets) > 1 else 0.0
        self.streams = [Stream(feed, spool, most_per_s=share) for feed in sockets]
        self.pollers = [Poller(feed, feed.enquiry, spool) for feed in feeds if feed.enquiry is not None]
        self.shipper = Shipper(
            spool,
            dsn,
            self._acquire,
            max_rows=settings.batch.max_rows,
            min_interval_s=settings.batch.min_interval_ms / 1000,
            prepare=self._prepare,
            refine=known.drop_repaired,
        )
        self.repairers = [
            Repairer(feed, feed.repair, spool, dsn, self.shipper.progress) for feed in feeds if feed.repair is not None
        ]
        old = settings.rollover
        self.rollover = Rollover(dsn, old.live_window_s, keep_raw=old.keep_raw, rest=upkeep.REST)
        self.verifier = Verifier(dsn, rules(), self.shipper.progress)
        self.report = Report(settings, spool, self.streams, self.pollers, self.shipper, verifier=self.verifier)
        metrics.BUILD.labels(VERSION, platform.python_version()).set(1)
        metrics.DATABASE_UP.set(0)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, then drain."""
        http = self._settings.http
        async with asyncio.TaskGroup() as plumbing:
            spooling = plumbing.create_task(self._spool.run(), name="spool")
            shipping = plumbing.create_task(self.shipper.run(), name="ship")
            await self._first_answer()
            helpers = [
                plumbing.create_task(self._tick(), name="tick"),
                plumbing.create_task(upkeep.keep_partitions(self._dsn, self.shipper.progress), name="partitions"),
                plumbing.create_task(upkeep.keep_rolling(self.rollover, self.shipper.progress), name="rollover"),
                plumbing.create_task(self.verifier.run(), name="settlements"),
                plumbing.create_task(self._keep_retention(), name="retention"),
            ]
            async with web.serving(http.host, http.port, self.report.status):
                async with asyncio.TaskGroup() as sources:
                    readers = [
                        *(sources.create_task(each.run(), name=f"feed {each.feed.name}") for each in self.streams),
                        *(sources.create_task(each.run(), name=f"poll {each.feed.name}") for each in self.pollers),
                        *(sources.create_task(each.run(), name=f"repair {each.feed.name}") for each in self.repairers),
                    ]
                    self._notifier.ready("recording")
                    await stop.wait()
                    self._notifier.stopping()
                    for reader in readers:
                        reader.cancel()
                helpers[0].cancel()
                await self._drain(spooling)
            for task in (shipping, spooling, *helpers):
                task.cancel()

    async def _first_answer(self) -> None:
        """Return when the database has let this daemon in, or has not answered: then recording comes first."""
        progress = self.shipper.progress
        try:
            async with asyncio.timeout(FIRST_ANSWER_S):
                while progress.position is None and progress.fault is None:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("service.database_silent", hint="recording begins; frames wait in the spool")

    async def _acquire(self, opened: Store, epoch: int) -> Position:
        spool, start_no = self._spool, self._spool.oldest_no - 1
        stands = await opened.peek(LIVE_STREAM) if not epoch else None
        if stands is not None:
            if stands.spool_id == spool.spool_id and stands.frame_no > spool.found_no:
                # The database has frames that these files never held: a copy of a spool, or one restored or cut short.
                log.warning("spool.behind_database", frame_no=stands.frame_no, found_no=spool.found_no)
                spool.renew()
                start_no = spool.start_no - 1
            spool.number_after(stands.frame_no)
        position = await opened.acquire(
            LIVE_STREAM,
            spool.spool_id,
            start_no=start_no,
            epoch=epoch,
            takeover=self._takeover and not epoch,
        )
        await self.report.books.open(position)
        return position

    async def _prepare(self) -> None:
        """Bring the schema up to date, if this login may, and make the first partitions before the first row."""
        connection = await store.connect(self._dsn, role=None)
        try:
            await schema.migrate(connection)
        finally:
            await connection.close()
        try:
            await upkeep.make_partitions(self._dsn, LIVE_TABLES)
        except store.ERRORS as exc:  # a reader's long lock must not hold back the rows: DEFAULT takes them meanwhile
            upkeep.log_partitions(exc)

    async def _keep_retention(self) -> None:
        if self._settings.retention.historical_days:
            await self.shipper.progress.prepared()
            await archive.keep(self._dsn, self._settings)

    async def _tick(self) -> None:
        """Put the second's mark into the stream, watch the event loop, and feed the watchdog while data moves."""
        fed_s = 0.0
        while True:
            due_s = time.monotonic() + TICK_S
            if not self._spool.full:
                self._spool.append(DAEMON_FEED, Kind.TICK, time.time_ns(), b"")
            if time.monotonic() - fed_s > self._notifier.watchdog_s / 3 > 0 and self.report.moving():
                fed_s = time.monotonic()
                self._notifier.alive("recording")
            await asyncio.sleep(due_s - time.monotonic())
            metrics.LOOP_LAG.set(max(0.0, time.monotonic() - due_s))

    async def _drain(self, spooling: asyncio.Task[None]) -> None:
        """Make durable what was gathered; then let the shipper catch up, if the database is there and quick."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._spool.close()
                await asyncio.shield(spooling)
                progress = self.shipper.progress
                while progress.position is None or progress.position.frame_no < self._spool.durable_no:
                    if progress.fault is not None:
                        break
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("service.drain_cut", hint="the rest stays in the spool and ships at the next start")


def _stop(stop: asyncio.Event, number: int) -> None:
    """Drain at the first signal; at the second, the default handler ends the process."""
    log.info("service.stopping", signal=signal.Signals(number).name)
    stop.set()
    asyncio.get_running_loop().remove_signal_handler(number)


def _tune_collector() -> None:
    """Keep the cycle collector away from frames and rows, which never form cycles.

    With CPython's defaults it walked them all again and again: 15 % of the time of a loaded daemon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
