"""`make bench`: the whole path beside its limits, in one run on one machine.

The daemon has one CPU to itself (CPU 1); the venue and PostgreSQL share the other. Figures per CPU second do not suffer
from a venue that cannot keep up; figures per second do.
"""

from __future__ import annotations

import asyncio
import json
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import uvloop
from harness.daemon import Daemon
from harness.databases import build_template, execute
from harness.postgres import PostgresServer
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks import backfill, queries, rollover
from benchmarks.blaster import Venue, blaster, line, python
from benchmarks.messages import VENUES
from recio_ingest import store
from recio_ingest.decode import Decoder
from recio_ingest.records import TABLES, Frame, Kind

LOADED_S = 5.0
# The limit and the daemon by turns, the best of each: a neighbour on the same host moves single figures by a third.
ROUNDS = 3
STEADY_S = 15.0
MANY = 600_000
RECEIVED = 400_000
COPIED = 200_000
BATCH = 1000
# How the harness calls the venue of each feed.
_KEYWORDS = {"coinbase": "venue", "kalshi": "kalshi"}


class Loaded(NamedTuple):
    """What a daemon did in a while."""

    frames_per_s: float
    frames_per_cpu_s: float
    cores: float
    p50_ms: float
    p99_ms: float
    rss_mb: float


async def main() -> None:
    """Run everything and print the table."""
    if sys.argv[1:2] == ["receive"]:
        print(json.dumps(await receive(sys.argv[2])))
        return
    if sys.argv[1:2] == ["copy"]:
        print(json.dumps(await copy(sys.argv[2], sys.argv[3])))
        return
    with_servers = {"backfill": backfill.main, "queries": queries.main}
    if len(sys.argv) > 1 and sys.argv[1] in with_servers:
        await with_servers[sys.argv[1]]()
        return
    server = PostgresServer()
    server.start()
    try:
        others = {"rollover": rollover.figures, "months": rollover.commit_figures}
        for name in sys.argv[1:] or (*VENUES, *others):
            table = await (others[name](server) if name in others else figures(server, name))
            Console(width=120).print(table)
    finally:
        server.stop("fast")
        server.dispose()
    if not sys.argv[1:]:
        for run in with_servers.values():
            await run()


async def figures(server: PostgresServer, name: str) -> Table:
    """Measure with one venue's messages, one after the other, and return the table."""
    bares, fulls = [], []
    for turn in range(ROUNDS):
        async with blaster(name, MANY, 0, cpu=0) as venue:
            bares.append(await alone("receive", venue.url))
        async with blaster(name, MANY, 0, cpu=0) as venue:
            fulls.append(await under_load(await database(server, f"full_{turn}"), venue, LOADED_S))
    bare = max(bares, key=lambda done: float(done["frames_per_cpu_s"]))
    full = max(fulls, key=lambda done: done.frames_per_cpu_s)
    bare_copy = await alone("copy", await database(server, "copy"), name)
    for made in ("copy", *(f"full_{turn}" for turn in range(ROUNDS))):
        await execute(server.dsn(), f"DROP DATABASE bench_{made} WITH (FORCE)")
    await execute(server.dsn(), "CHECKPOINT")
    async with blaster(name, int(2000 * (STEADY_S + 10)), 2000, cpu=0) as venue:
        busy = await under_load(await database(server, "busy"), venue, STEADY_S)
    async with blaster(name, int(100 * (STEADY_S + 10)), 100, cpu=0) as venue:
        quiet = await under_load(await database(server, "quiet"), venue, STEADY_S)
    for made in ("busy", "quiet"):
        await execute(server.dsn(), f"DROP DATABASE bench_{made} WITH (FORCE)")
    table = Table(
        title=f"recio-ingest, {name}, on {platform.machine()}, Python {platform.python_version()}", title_justify="left"
    )
    for heading in ("figure", "measured", "wanted"):
        table.add_column(heading)
    ratio = full.frames_per_cpu_s / bare["frames_per_cpu_s"]
    for row in (
        ("bare websockets + orjson loop", f"{bare['frames_per_cpu_s']:,.0f} frames per CPU second", ""),
        ("bare COPY of the same rows, asyncpg", f"{bare_copy['rows_per_cpu_s']:,.0f} rows per CPU second", ""),
        ("bare COPY of the same rows, asyncpg", f"{bare_copy['rows_per_s']:,.0f} rows/s", ""),
        ("socket to committed", f"{full.frames_per_cpu_s:,.0f} frames per CPU second", ""),
        ("socket to committed", f"{full.frames_per_s:,.0f} frames/s on {full.cores:.2f} of a core", ""),
        ("... beside the bare loop", f"{ratio:.2f} (best of {ROUNDS} each)", ">= 0.50"),
        ("... resident memory", f"{full.rss_mb:.0f} MB", "< 100 MB"),
        *steady("2,000 frames/s", busy, 30),
        *steady("100 frames/s", quiet, 5),
    ):
        table.add_row(*row)
    return table


def steady(name: str, done: Loaded, cores_percent: int) -> tuple[tuple[str, str, str], ...]:
    """Return the rows of one steady rate."""
    return (
        (f"{name}: received to committed, p50 / p99", f"{done.p50_ms:.0f} / {done.p99_ms:.0f} ms", "p99 <= 50 ms"),
        (f"{name}: CPU", f"{done.cores * 100:.1f} % of a core", f"< {cores_percent} %"),
        (f"{name}: resident memory", f"{done.rss_mb:.0f} MB", "< 100 MB"),
    )


async def database(server: PostgresServer, name: str) -> str:
    """Return the DSN of a new database with the product's schema."""
    await execute(server.dsn(), f"CREATE DATABASE bench_{name}")
    dsn = server.dsn(f"bench_{name}")
    await build_template(dsn)
    return dsn


async def alone(what: str, *where: str) -> dict[str, Any]:
    """Run one of the limits in a process of its own on CPU 1."""
    process = await python(1, "benchmarks", what, *where)
    answer: dict[str, Any] = json.loads(await line(process))
    await process.wait()
    return answer


async def receive(url: str) -> dict[str, float]:
    """The bare loop: websockets with the settings that the daemon uses, and orjson."""
    async with connect(url, compression=None, max_size=2**20) as socket:
        await socket.send("{}", text=True)
        count, began_s, began_cpu_s = 0, time.perf_counter(), time.process_time()
        while count < RECEIVED:
            for _ in range(100):
                orjson.loads(await socket.recv(decode=False))
            count += 100
        return {
            "frames_per_s": count / (time.perf_counter() - began_s),
            "frames_per_cpu_s": count / (time.process_time() - began_cpu_s),
        }


async def copy(dsn: str, name: str) -> dict[str, float]:
    """Bare COPY of the rows that the daemon would make of the same messages, with its codecs, without its offset."""
    made = VENUES[name][0](2 * COPIED if name == "coinbase" else COPIED)
    frames = [Frame(n, time.time_ns(), name, Kind.DATA, data) for n, data in enumerate(made)]
    ((kind, rows),) = Decoder({}).decode(frames).tables.items()
    connection = await store.connect(dsn)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for at in range(0, len(rows), BATCH):
        await connection.copy_records_to_table(
            TABLES[kind], schema_name="live_data", columns=kind._fields, records=rows[at : at + BATCH]
        )
    return {
        "rows_per_s": len(rows) / (time.perf_counter() - began_s),
        "rows_per_cpu_s": len(rows) / (time.process_time() - began_cpu_s),
    }


async def under_load(dsn: str, venue: Venue, lasting_s: float) -> Loaded:
    """Run the daemon on CPU 1 and read its own metrics at both ends of a while."""
    with tempfile.TemporaryDirectory() as folder:
        venues: dict[str, Any] = {"venue": None, "kalshi": None} | {_KEYWORDS[venue.name]: venue}
        async with Daemon(Path(folder), dsn, cpu=1, **venues) as daemon:
            await daemon.start()
            await daemon.wait_ready()
            await asyncio.sleep(1)
            before, began_s, began_cpu_s = await _metrics(daemon, venue.name), time.perf_counter(), daemon.cpu_seconds()
            await asyncio.sleep(lasting_s)
            after, cpu_s = await _metrics(daemon, venue.name), daemon.cpu_seconds() - began_cpu_s
            lasted_s = time.perf_counter() - began_s
            buckets = {bound: after[bound] - before.get(bound, 0) for bound in after}
            count = buckets[float("inf")]
            rss_mb = daemon.rss_bytes() / 1e6
            await daemon.kill9()
    return Loaded(
        count / lasted_s, count / cpu_s, cpu_s / lasted_s, _quantile(buckets, 0.5), _quantile(buckets, 0.99), rss_mb
    )


async def _metrics(daemon: Daemon, feed: str) -> dict[float, float]:
    """Return the cumulative buckets of received-to-committed of the venue's frames."""
    _, body = await daemon.get("/metrics")
    pattern = rf'^recio_ingest_commit_latency_seconds_bucket\{{feed="{feed}",le="([^"]+)"\}} (\S+)$'
    return {float(bound): float(count) for bound, count in re.findall(pattern, body.decode(), re.MULTILINE)}


def _quantile(buckets: dict[float, float], part: float) -> float:
    """Return a quantile in ms, interpolated within its bucket as Prometheus does."""
    wanted = part * buckets[float("inf")]
    lower_s = below = 0.0
    for bound_s, count in sorted(buckets.items()):
        if count >= wanted and count > below:
            upper_s = lower_s if bound_s == float("inf") else bound_s
            return 1000 * (lower_s + (upper_s - lower_s) * (wanted - below) / (count - below))
        lower_s, below = bound_s, count
    return 1000 * lower_s


if __name__ == "__main__":
    uvloop.run(main())
