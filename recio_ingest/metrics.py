"""Every metric, with its unit, what it means and what to do about it.

Labels come from configuration or code, never from message text. Counters that would cost more than the frame they count
are moved once per batch.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from recio_ingest.records import TABLES, Batch, Gap

_PREFIX = "recio_ingest_"
_FAST = (
    0.001,
    0.0025,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.025,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    1,
    5,
    60,
    3600,
)


class BatchHistogram(Collector):
    """A histogram that takes a whole batch at once: 19 bisections instead of an observation per frame (0.9 us each)."""

    def __init__(self, name: str, text: str, label: str) -> None:
        self._name, self._text, self._label = _PREFIX + name, text, label
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        REGISTRY.register(self)

    def observe_sorted(self, label: str, values: Sequence[float]) -> None:
        """Observe values that are in ascending order."""
        counts = self._counts.setdefault(label, [0] * (len(_FAST) + 1))
        before = 0
        for at, bound in enumerate(_FAST):
            upto = bisect_right(values, bound)
            counts[at] += upto - before
            before = upto
        counts[-1] += len(values) - before
        self._sums[label] = self._sums.get(label, 0.0) + sum(values)

    def collect(self) -> Iterable[Metric]:
        """Yield the family, cumulative as the format wants it."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        for label, counts in self._counts.items():
            running, buckets = 0, []
            for bound, count in zip((*map(str, _FAST), "+Inf"), counts, strict=True):
                running += count
                buckets.append((bound, float(running)))
            family.add_metric([label], buckets, self._sums[label])
        yield family


class Lag(Collector):
    """Now minus the venue time of the newest committed frame, computed when asked, so that it grows by itself."""

    def __init__(self) -> None:
        self.newest_s: dict[str, float] = {}
        REGISTRY.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield both figures that are made of the venue's time."""
        now_s = time.time()
        lag = Gauge(_PREFIX + "lag_seconds", _LAG, ["feed"], registry=None)
        last = Gauge(_PREFIX + "last_committed_timestamp_seconds", _LAST, ["feed"], registry=None)
        for feed, newest_s in self.newest_s.items():
            lag.labels(feed).set(now_s - newest_s)
            last.labels(feed).set(newest_s)
        yield from lag.collect()
        yield from last.collect()


_LAG = "Now minus the venue time of the newest committed frame, heartbeats included. Alert on this one."
_LAST = "Venue time of the newest committed frame."


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(_PREFIX + name, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(_PREFIX + name, text, labels)


def _histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = _FAST) -> Histogram:
    return Histogram(_PREFIX + name, text, labels, buckets=buckets)


_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

LAG = Lag()
COMMIT_LATENCY = BatchHistogram("commit_latency_seconds", "From a frame's arrival to its commit.", "feed")
VENUE_DELAY = _histogram(
    "venue_delay_seconds", "From the venue's time to the arrival, of the newest frame of each batch.", "feed"
)
LAST_ROW = _gauge("last_row_timestamp_seconds", "Venue time of the newest row committed.", "table")
FRAMES = _counter("frames_total", "Frames committed, by what became of them.", "feed", "outcome")
FRAMES_RECEIVED = _counter("frames_received_total", "Frames that became durable in the spool.", "feed")
ROWS = _counter("rows_committed_total", "Rows committed.", "table")
QUARANTINED = _counter("quarantined_total", "Frames or rows put aside; look into ingest.quarantine.", "feed", "reason")
GAPS = _counter("gaps_total", "Gaps declared; look into ingest.gaps.", "feed", "cause")
REPAIRED = _counter("repaired_rows_total", "Rows that were missed, and fetched again by REST.", "feed")
GAP_OPEN = _gauge("gap_open", "1 while the feed is in a gap that has not ended.", "feed")
CONNECTED = _gauge("feed_connected", "1 while the feed's subscription is confirmed.", "feed")
INCOMPLETE = _gauge(
    "feed_incomplete", "1 while a connected feed's channel is not confirmed, or silent; see --status.", "feed"
)
RECONNECTS = _counter("reconnects_total", "Connections that ended, by why.", "feed", "cause")
CLOCK_SKEW = _gauge("clock_skew_seconds", "This machine's clock minus the venue's; mend it past a second.", "feed")
REST_REQUESTS = _counter(
    "rest_requests_total", "Questions to the venue's REST, by what came of them.", "feed", "outcome"
)
REST_FAILURES = _counter(
    "rest_failures_total",
    "Failures of asking by REST, by cause; `bug` is this program's own, see the log.",
    "feed",
    "cause",
)
SPOOL_PENDING = _gauge("spool_pending_frames", "Durable frames that are not committed yet.")
SPOOL_BYTES = _gauge("spool_bytes", "What the spool takes on disk; at spool.max_bytes the sockets wait.")
SPOOL_COMMIT = _histogram("spool_commit_seconds", "Time to make one group of frames durable.")
SPOOL_ERRORS = _counter("spool_errors_total", "Writes to the spool that failed and are tried again; check the disk.")
BATCH_ROWS = _histogram("batch_rows", "Rows per transaction.", buckets=_ROWS)
COPY = _histogram("copy_seconds", "Time of one COPY.", "table")
DATABASE_UP = _gauge("database_up", "1 while the offset row can be read and written.")
DATABASE_ERRORS = _counter(
    "database_errors_total", "Errors by SQLSTATE; `client` where the server sent none.", "sqlstate"
)
DISK_FREE = _gauge("disk_free_bytes", "Free space where the path lies.", "path")
PARTITIONS_AHEAD = _gauge("partitions_ahead_seconds", "Until the last partition that exists ends.", "table")
DEFAULT_ROWS = _gauge(
    "default_partition_rows", "Rows that found no partition of their own; they are given one.", "table"
)
ROLLOVER_ROWS = _counter("rollover_rows_total", "Rows that left a live table for the past.", "table")
ROLLOVER_SUCCESS = _gauge(
    "rollover_last_success_timestamp_seconds", "When a whole pass last went well; at first, the daemon's start."
)
ROLLOVER_FAILURES = _counter(
    "rollover_failures_total",
    "Passes that left a table undone, by cause; `differs`: what came is not what left, nothing was moved.",
    "table",
    "cause",
)
SETTLEMENTS = _gauge("settlements", "Events that closed in the last eight days, by what their check found.", "outcome")
RETENTION_WAITING = _gauge(
    "retention_waiting_partitions", "Months past retention.historical_days that are still there."
)
LOOP_LAG = _gauge("event_loop_lag_seconds", "How late the event loop woke the last time it was measured.")
BUILD = _gauge("build_info", "1, with the version.", "version", "python")


_OPEN_GAPS: dict[str, set[tuple[int, int]]] = {}


def count_batch(batch: Batch) -> None:
    """Move every metric that a committed batch moves."""
    now_ns = time.time_ns()
    ages: dict[str, list[float]] = {}
    for frame in reversed(batch.frames):  # the newest first: ages ascend
        ages.setdefault(frame.feed, []).append((now_ns - frame.recv_ns) / 1e9)
    for feed, values in ages.items():
        COMMIT_LATENCY.observe_sorted(feed, values)
    for (feed, outcome), count in batch.outcomes.items():
        FRAMES.labels(feed, str(outcome)).inc(count)
    for feed, newest in batch.newest.items():
        LAG.newest_s[feed] = newest.venue_time / 1e6
        VENUE_DELAY.labels(feed).observe(max(0.0, newest.recv_ns / 1e9 - LAG.newest_s[feed]))
    _count_rows(batch)
    BATCH_ROWS.observe(sum(len(rows) for rows in batch.tables.values()))
    for bad in batch.quarantine:
        QUARANTINED.labels(bad.feed, bad.reason).inc()
    for gap in batch.gaps.values():
        if gap.frame_no >= batch.first_no:  # else it was declared, and counted, in an earlier batch
            GAPS.labels(gap.feed, gap.cause).inc()
        if gap.from_seq is None:
            _count_open(gap)


def _count_rows(batch: Batch) -> None:
    repaired = batch.repaired()
    for repair in batch.repairs:
        REPAIRED.labels(repair.feed).inc(repaired[repair.by_no])
    for row_type, rows in batch.tables.items():
        ROWS.labels(TABLES[row_type]).inc(len(rows))
        news = next((row for row in reversed(rows) if row.frame_no not in repaired), None)
        if news is not None:  # what was fetched again is none
            LAST_ROW.labels(TABLES[row_type]).set(news.timestamp / 1e6)


def _count_open(gap: Gap) -> None:
    """A feed is in a gap while any of its channels is."""
    still = _OPEN_GAPS.setdefault(gap.feed, set())
    (still.discard if gap.to_time is not None else still.add)((gap.frame_no, gap.gap_no))
    GAP_OPEN.labels(gap.feed).set(bool(still))
