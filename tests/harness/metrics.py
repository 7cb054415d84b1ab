"""What the daemon says of itself: its metrics and its log, read as an operator's tools would."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from harness.waiting import until

if TYPE_CHECKING:
    from harness.daemon import Daemon

PREFIX = "recio_ingest_"
LATENCY = "commit_latency_seconds"


@dataclass(frozen=True)
class Latency:
    """How long frames took from arrival to commit over a period; in ms, interpolated within a bucket."""

    count: int
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"p50 {self.p50_ms:.0f} ms, p99 {self.p99_ms:.0f} ms of {self.count} frames"


class Metrics:
    """One look at /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    @classmethod
    async def of(cls, daemon: Daemon) -> Metrics:
        """Look now."""
        code, body = await daemon.get("/metrics")
        assert code == 200
        return cls(body.decode())

    def __call__(self, name: str, **labels: str) -> float | None:
        """Return one figure, None where there is none."""
        return self._samples.get((name, frozenset(labels.items())))

    def latency_since(self, before: Metrics, feed: str) -> Latency:
        """Return how a feed's frames fared between two looks."""
        buckets = [(0.0, 0.0)]
        for (name, labels), value in self._samples.items():
            facts = dict(labels)
            if name == f"{LATENCY}_bucket" and facts["feed"] == feed:
                buckets.append((float(facts["le"]), value - (before(name, **facts) or 0)))
        buckets.sort()
        return Latency(int(buckets[-1][1]), *(_quantile(buckets, part) * 1000 for part in (0.5, 0.99)))


def _quantile(buckets: list[tuple[float, float]], part: float) -> float:
    rank = buckets[-1][1] * part
    for (low, below), (high, upto) in pairwise(buckets):
        if upto >= rank and upto > below:
            return low if high == float("inf") else low + (high - low) * (rank - below) / (upto - below)
    return 0.0


async def during(daemon: Daemon, seconds: float, *feeds: str) -> list[Latency]:
    """Watch for a while; return the latency of each feed."""
    before = await Metrics.of(daemon)
    await asyncio.sleep(seconds)
    after = await Metrics.of(daemon)
    return [after.latency_since(before, feed) for feed in feeds]


def log(daemon: Daemon, *events: str) -> list[dict[str, Any]]:
    """Return its log, or the lines of some events."""
    lines = [json.loads(line) for line in daemon.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if not events or line["event"] in events]


async def logged(daemon: Daemon, event: str, times: int = 1, *, within_s: float = 20.0) -> list[dict[str, Any]]:
    """Wait until a line of an event was written so often; return them."""

    async def look() -> list[dict[str, Any]]:
        lines = log(daemon, event)
        return lines if len(lines) >= times else []

    return await until(look, within_s=within_s, what=f"{event} in the log", every_s=0.05)


async def metric(daemon: Daemon, value: float, name: str, *, within_s: float = 20.0, **labels: str) -> None:
    """Wait until a metric has a value."""

    async def look() -> bool:
        try:
            return (await Metrics.of(daemon))(name, **labels) == value
        except OSError:  # it does not listen yet
            return False

    await until(look, within_s=within_s, what=f"{name}{labels} to be {value}", every_s=0.05)
