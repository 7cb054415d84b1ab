"""Rows that roll over, beside a plain INSERT ... SELECT; and ingest's commits beside few and many months of history."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from harness.databases import build_template, execute
from rich.table import Table
from rollover_data import fill

from benchmarks.messages import coinbase
from recio_ingest import store
from recio_ingest.decode import Decoder
from recio_ingest.moves import MOVES
from recio_ingest.partitions import HISTORY_TABLES
from recio_ingest.records import LIVE_STREAM, Frame, Kind
from recio_ingest.rollover import Rollover

if TYPE_CHECKING:
    from harness.postgres import PostgresServer

ROWS = int(os.environ.get("RECIO_BENCH_ROWS", "300000"))
ROUNDS = 3
FEW, MANY = 1, 400
COMMITS, BATCH = 150, 200
_MONTHS = """
    SET timezone = 'UTC';
    SELECT ingest.make_partition_v1('{table}', '{table}_' || to_char(m, 'YYYYMM'), 'timestamp',
                                    m, m + interval '1 month')
      FROM generate_series(date_trunc('month', now()) - interval '{months} months', now(), '1 month') AS m
"""


async def figures(server: PostgresServer) -> Table:
    """Measure each table, the best of three each, and return what came of it."""
    table = Table(title=f"rollover of {ROWS:,} rows a table", title_justify="left")
    for heading in ("table", "INSERT ... SELECT", "rolled over", "beside it", "wanted"):
        table.add_column(heading)
    best: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, plain, rolled in await measured(server):
            kept = best.setdefault(name, [0.0, 0.0])
            best[name] = [max(kept[0], plain), max(kept[1], rolled)]
    for name, (plain, rolled) in best.items():
        table.add_row(name, f"{plain:,.0f} rows/s", f"{rolled:,.0f} rows/s", f"{rolled / plain:.2f}", ">= 0.50")
    return table


async def measured(server: PostgresServer) -> list[tuple[str, float, float]]:
    """Return for each live table rows/s of a plain INSERT ... SELECT and of its rollover, in a new database."""
    await execute(server.dsn(), "CREATE DATABASE bench_rollover")
    dsn = server.dsn("bench_rollover")
    found = []
    try:
        await build_template(dsn)
        await fill(dsn, ROWS, "2 days")
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("SET timezone = 'UTC'")
            for move in MOVES:
                for target in move.targets:
                    await connection.execute(_MONTHS.format(table=target, months=1))
                rows = await connection.fetchval(f"SELECT count(*) FROM {move.table}")
                began_s = time.perf_counter()
                async with connection.transaction():
                    for arrival in move.arrivals:
                        columns = ", ".join(f'"{name}"' for name in arrival.columns)
                        values = ", ".join(arrival.columns.values())
                        await connection.execute(
                            f"INSERT INTO {arrival.target} ({columns}) SELECT {values} FROM {move.table}"
                            f" WHERE {arrival.which}"
                        )
                plain = rows / (time.perf_counter() - began_s)
                await connection.execute(f"TRUNCATE {', '.join(arrival.target for arrival in move.arrivals)}")
                began_s = time.perf_counter()
                done = await Rollover(dsn, 86_400, keep_raw=True, moves=[move]).run_once()
                found.append((move.table, plain, done.moved.total() / (time.perf_counter() - began_s)))
                await asyncio.sleep(1)
        finally:
            await connection.close()
    finally:
        await execute(server.dsn(), "DROP DATABASE bench_rollover WITH (FORCE)")
    return found


async def commit_figures(server: PostgresServer) -> Table:
    """Measure commits of the same batches by turns in two databases, and how long it takes to know their trades."""
    async with AsyncExitStack() as stack:
        few = await stack.enter_async_context(_writer(server, FEW))
        many = await stack.enter_async_context(_writer(server, MANY))
        for _ in range(COMMITS):
            for writer in (few, many):
                await writer.commit()
    table = Table(title=f"commits of {BATCH} frames beside {FEW} and {MANY} months of each table", title_justify="left")
    for heading in ("figure", f"{FEW} month", f"{MANY} months", "ratio", "wanted"):
        table.add_column(heading)
    for name, took_few, took_many in (
        ("commit of a batch, median", few.commits_s, many.commits_s),
        ("its trades looked up, live and past (replay, repair)", few.looks_s, many.looks_s),
    ):
        one, other = statistics.median(took_few), statistics.median(took_many)
        wanted = "0.90 to 1.10" if took_few is few.commits_s else ""
        table.add_row(name, f"{1000 * one:.2f} ms", f"{1000 * other:.2f} ms", f"{other / one:.2f}", wanted)
    return table


class _Writer:
    """Commits batches to one database, and remembers how long each took."""

    def __init__(self, opened: store.Store, position: store.Position) -> None:
        self._opened = opened
        self._position = position
        self._decoder = Decoder({})
        self.commits_s: list[float] = []
        self.looks_s: list[float] = []

    async def commit(self) -> None:
        first_no = self._position.frame_no + 1
        frames = [
            Frame(first_no + n, time.time_ns(), "coinbase", Kind.DATA, data) for n, data in enumerate(coinbase(BATCH))
        ]
        batch = self._decoder.decode(frames)
        began_s = time.perf_counter()
        self._position = await self._opened.commit(self._position, batch)
        committed_s = time.perf_counter()
        await self._opened.known_trades([row for rows in batch.tables.values() for row in rows])
        self.commits_s.append(committed_s - began_s)
        self.looks_s.append(time.perf_counter() - committed_s)


@asynccontextmanager
async def _writer(server: PostgresServer, months: int) -> AsyncIterator[_Writer]:
    name = f"bench_months_{months}"
    await execute(server.dsn(), f"CREATE DATABASE {name}")
    try:
        dsn = server.dsn(name)
        await build_template(dsn)
        for table in HISTORY_TABLES:
            await execute(dsn, _MONTHS.format(table=table, months=months - 1))
        async with store.session(dsn) as opened:
            yield _Writer(opened, await opened.acquire(LIVE_STREAM, "bench", start_no=0))
    finally:
        await execute(server.dsn(), f"DROP DATABASE {name} WITH (FORCE)")
