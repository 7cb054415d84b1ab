"""What the daemon knows of itself, put together for people, programs and the watchdog."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from recio_ingest import metrics, store
from recio_ingest.poll import Poller
from recio_ingest.records import Outcome
from recio_ingest.settings import Settings
from recio_ingest.ship import Shipper
from recio_ingest.spool import Spool
from recio_ingest.store import Position
from recio_ingest.stream import FeedStatus, Stream
from recio_ingest.verify import Verifier

VERSION = version("recio-ingest")
# The spool takes a tick every second and the shipper commits it: ten missed ones are no accident.
STALLED_S = 10.0
# A venue's REST may be busy or down for a moment; markets are found hours before they open.
REST_SILENT_S = 120.0
# Twice the time limit of a database command (rolling back may take another), and some.
SHIPPER_STUCK_S = 2 * store.COMMAND_TIMEOUT_S + 30.0


class Report:
    """The state of everything, read when asked."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        streams: Sequence[Stream],
        pollers: Sequence[Poller],
        shipper: Shipper,
        *,
        verifier: Verifier,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._pollers = {poller.feed.name: poller for poller in pollers}
        # A feed without a socket is as its questions are.
        self._lines: list[Stream | Poller] = [*streams, *(poller for poller in pollers if not poller.feed.url)]
        self._shipper = shipper
        self._verifier = verifier
        self._started_s = time.monotonic()
        self.books = Books(spool)

    async def status(self) -> dict[str, Any]:
        """Return the state of everything, as JSON; moves the gauges that are read and not counted."""
        progress = self._shipper.progress
        books = self.books.snapshot(progress.position)
        metrics.SPOOL_PENDING.set(books["spooled"])
        metrics.SPOOL_BYTES.set(self._spool.size_bytes)
        free_bytes = shutil.disk_usage(self._settings.state_dir).free
        metrics.DISK_FREE.labels("state_dir").set(free_bytes)
        problems = self._problems()
        position = progress.position
        return {
            "version": VERSION,
            "healthy": not problems,
            "ready": progress.schema_ready and progress.fault is None,
            "problems": problems,
            "uptime_s": round(time.monotonic() - self._started_s),
            "books": books,
            "spool": {
                "pending_frames": books["spooled"],
                "size_bytes": self._spool.size_bytes,
                "max_bytes": self._settings.spool.max_bytes,
                "disk_free_bytes": free_bytes,
            },
            "database": {
                "up": progress.fault is None and position is not None,
                "fault": progress.fault,
                "schema_ready": progress.schema_ready,
                "epoch": position.epoch if position else None,
                "frame_no": position.frame_no if position else None,
            },
            "settlements": self._verifier.counts,
            "feeds": {line.feed.name: self._feed_status(line) for line in self._lines},
        }

    def _feed_status(self, line: Stream | Poller) -> dict[str, Any]:
        name, status = line.feed.name, line.status
        newest_s = metrics.LAG.newest_s.get(name)
        poller = self._pollers.get(name)
        return {
            "connected": status.connected,
            "cause": status.cause or None,
            "last_message_age_s": _age_s(status),
            "lag_s": None if newest_s is None else round(time.time() - newest_s, 3),
            "received": status.received,
            **({} if poller is None else {"rest": poller.status.cause or "ok", "rest_age_s": _age_s(poller.status)}),
        }

    def _problems(self) -> list[str]:
        progress = self._shipper.progress
        problems = []
        if self._spool.failing:
            problems.append("spool: cannot be written, frames wait; look at the disk")
        elif not self._spool_moving():
            problems.append("spool: has taken nothing for 10 s")
        if self._spool.at_limit:
            problems.append("spool: full, the feeds are paused")
        if progress.fault is not None:
            problems.append(f"database: {progress.fault}")
        elif progress.position is None:
            problems.append("database: not connected yet")
        elif not self._shipper_moving():
            problems.append("database: nothing was committed for 10 s")
        down = [line for line in self._lines if not line.status.connected]
        problems += [f"feed {line.feed.name}: not connected ({line.status.cause})" for line in down]
        silent = [poller for poller in self._pollers.values() if poller.feed.url and self._silent(poller)]
        return problems + [f"feed {each.feed.name}: REST does not answer ({each.status.cause})" for each in silent]

    def _silent(self, poller: Poller) -> bool:
        """Whether it is long since a question was answered: the socket goes on, but what opens next is not known."""
        since_s = max(poller.status.last_message_s, self._started_s)
        return not poller.status.connected and time.monotonic() - since_s > REST_SILENT_S

    def _spool_moving(self) -> bool:
        return time.monotonic() - self._spool.durable_at_s < STALLED_S

    def _shipper_moving(self) -> bool:
        return time.monotonic() - self._shipper.progress.committed_at_s < STALLED_S

    def moving(self) -> bool:
        """Whether a restart could not help: all moves, or what stands still has a reason that is known and outside."""
        spool_moves = self._spool_moving() or bool(self._spool.failing) or self._spool.at_limit
        progress = self._shipper.progress
        # A database that hangs is found out by the time limit of its commands; only then is the shipper to blame.
        idle_s = time.monotonic() - progress.committed_at_s
        shipper_moves = idle_s < SHIPPER_STUCK_S or progress.fault is not None or progress.position is None
        return (spool_moves and shipper_moves) or time.monotonic() - self._started_s < STALLED_S


def _age_s(status: FeedStatus) -> float | None:
    return round(time.monotonic() - status.last_message_s, 1) if status.last_message_s else None


class Books:
    """received = shipped + state + duplicate + control + quarantined + spooled.

    Received is counted by the spool, the outcomes by the database (under a CHECK); what is left is in the spool.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._base_received = 0
        self._base_durable = 0

    async def open(self, position: Position) -> None:
        """Count anew from a position that was just read: what the database has, and what the spool has after it."""
        durable = self._spool.durable_count
        pending = await self._spool.count_after(position.frame_no)
        self._base_received = sum(position.counts.values()) + pending
        self._base_durable = durable

    def snapshot(self, position: Position | None) -> dict[str, int]:
        """Return the books as they stand."""
        counts = {outcome: position.counts[outcome] if position else 0 for outcome in Outcome}
        received = self._base_received + self._spool.durable_count - self._base_durable
        spooled = received - sum(counts.values())
        return {"received": received, **{str(outcome): count for outcome, count in counts.items()}, "spooled": spooled}
