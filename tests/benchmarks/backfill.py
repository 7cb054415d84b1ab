"""`python -m benchmarks backfill`: a million trades out of SQLite, beside the ways that people take today.

One file for all: the predecessor's 29 columns with honest types, because pgloader hangs on text in an INTEGER column.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

import asyncpg
import backfill_files as files
from harness.databases import build_template, execute
from harness.postgres import SOCKET_NAME, PostgresServer
from rich.console import Console
from rich.table import Table

from recio_ingest.backfill.load import Loader
from recio_ingest.backfill.snapshot import taken
from recio_ingest.backfill.source import Source
from recio_ingest.backfill.verify import Load, second_read, verify

ROWS = int(os.environ.get("RECIO_BENCH_ROWS", "1_000_000"))
# The row-by-row script would take minutes for all of them, and its rate does not change.
ROW_BY_ROW = min(ROWS, 50_000)
# So many come before New York's clocks change, which puts the trades of two hours aside.
CLEAN = 300_000
PGLOADER_WITHIN_S = 1800
_HONEST = {
    "pnl INTEGER": "pnl REAL",
    "symbol_open INTEGER": "symbol_open REAL",
    "symbol_close INTEGER": "symbol_close REAL",
    "ticket_id INTEGER": "ticket_id TEXT",
}
USER = "0001"


class Ours(NamedTuple):
    """Seconds of the parts: the private copy and SQLite's own check, the load, the verification."""

    check_s: float
    load_s: float
    verify_s: float


async def main() -> None:
    """Run everything, each in a fresh database of the same server, and print the table."""
    with tempfile.TemporaryDirectory(prefix="recio-bench-") as folder:
        path = honest_trades(Path(folder) / "trades.db", ROWS)
        server = PostgresServer()
        server.start()
        try:
            ours = await _ours(server, path, Path(folder))
            limit_s = await _server_side(server)
            by_row_s = await _row_by_row(server, path)
            pgloader_s = await _pgloader(server, path)
        finally:
            server.stop("fast")
            server.dispose()
    Console(width=120).print(_table(ours, limit_s, by_row_s, pgloader_s))


def honest_trades(path: Path, count: int) -> Path:
    """Write a trades.db whose declared types are those of its values."""
    schema = files.TRADES
    for lied, honest in _HONEST.items():
        schema = schema.replace(lied, honest)
    names = list(files.trade(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(schema)
        connection.executemany(
            f"INSERT INTO trades ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            (tuple(files.trade(1 + number % CLEAN, id=number).values()) for number in range(1, count + 1)),
        )
    return path


async def _ours(server: PostgresServer, path: Path, folder: Path) -> Ours:
    async with _database(server, "ours") as dsn:
        began_s = time.perf_counter()
        with taken(path, folder / "copies") as snapshot:
            source = Source(snapshot)
            source.check()
            (found,) = source.find()
            checked_s = time.perf_counter()
            loading = await Loader(dsn, source, found, USER).run(lambda _: None)
            loaded_s = time.perf_counter()
            done = loading.progress
            load = Load(done.backfill_id, found.table, USER, done.rows, done.inserted, done.present, done.quarantined)
            connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
            verdict = await verify(connection, second_read(source, found), load)
            verified_s = time.perf_counter()
            # For the server's own limit: the same rows as a binary file.
            await connection.execute(f"COPY users.trades_{USER} TO '{server.folder / 'rows'}' (FORMAT binary)")
            await connection.close()
            source.close()
        if (done.inserted, verdict.ok, verdict.opened) != (ROWS, True, 0):
            raise RuntimeError(f"not loaded as it should be: {done}, {verdict}")
    return Ours(checked_s - began_s, loaded_s - checked_s, verified_s - loaded_s)


async def _server_side(server: PostgresServer) -> float:
    """The limit: the server reads the finished binary rows from its own disk, into the same table and indexes."""
    async with _database(server, "limit") as dsn:
        began_s = time.perf_counter()
        await execute(dsn, f"COPY users.trades_{USER} FROM '{server.folder / 'rows'}' (FORMAT binary)")
        return time.perf_counter() - began_s


async def _row_by_row(server: PostgresServer, path: Path) -> float:
    """The script of the predecessor's migration notes: SELECT *, then one INSERT per row, one COMMIT at the end."""
    async with _database(server, "by_row", schema=False) as dsn:
        connection = await asyncpg.connect(dsn)
        names = list(files.trade(1))
        kinds = {int: "bigint", float: "double precision"}
        columns = ", ".join(f"{name} {kinds.get(type(value), 'text')}" for name, value in files.trade(1).items())
        columns = columns.replace("momentum_delta text", "momentum_delta double precision")
        await connection.execute(f"CREATE TABLE trades ({columns}, PRIMARY KEY (id))")
        insert = (
            f"INSERT INTO trades ({', '.join(names)}) VALUES ({', '.join(f'${n}' for n, _ in enumerate(names, 1))})"
        )
        with closing(sqlite3.connect(path)) as source:
            began_s = time.perf_counter()
            rows = source.execute(f"SELECT {', '.join(names)} FROM trades LIMIT {ROW_BY_ROW}").fetchall()
            async with connection.transaction():
                for row in rows:
                    await connection.execute(insert, *row)
            lasted_s = time.perf_counter() - began_s
        await connection.close()
        return lasted_s


async def _pgloader(server: PostgresServer, path: Path) -> float | None:
    """Return what pgloader needs for the file; None, and a loud word, without it."""
    program = shutil.which("pgloader")
    if program is None:
        Console(stderr=True).print("[red]pgloader is not installed: apt-get install pgloader[/red]")
        return None
    async with _database(server, "pgloader", schema=False) as dsn:
        target = f"postgresql://recio@unix:{server.folder}:{SOCKET_NAME.rpartition('.')[2]}/bench_pgloader"
        began_s = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            program, "--root-dir", str(path.parent / "pgloader"), f"sqlite://{path}", target,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PGLOADER_WITHIN_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        lasted_s = time.perf_counter() - began_s
        connection = await asyncpg.connect(dsn)
        try:
            count = await connection.fetchval("SELECT count(*) FROM trades")
        except asyncpg.UndefinedTableError:
            count = 0
        await connection.close()
        if count != ROWS:
            raise RuntimeError(f"pgloader loaded {count} of {ROWS} rows:\n{output.decode(errors='replace')[-3000:]}")
        return lasted_s


@asynccontextmanager
async def _database(server: PostgresServer, name: str, *, schema: bool = True) -> AsyncIterator[str]:
    await execute(server.dsn(), f"CREATE DATABASE bench_{name}")
    dsn = server.dsn(f"bench_{name}")
    if schema:
        await build_template(dsn)
    await execute(server.dsn(), "CHECKPOINT")
    yield dsn
    await execute(server.dsn(), f"DROP DATABASE bench_{name} WITH (FORCE)")


def _table(ours: Ours, limit_s: float, by_row_s: float, pgloader_s: float | None) -> Table:
    table = Table(
        title=f"backfill of {ROWS:,} trades, on {platform.machine()}, Python {platform.python_version()}",
        title_justify="left",
    )
    for heading in ("figure", "measured", "wanted"):
        table.add_column(heading)
    load, both = ROWS / ours.load_s, ROWS / (ours.load_s + ours.verify_s)
    by_row = ROW_BY_ROW / by_row_s
    table.add_row("server-side COPY of binary rows, same indexes", f"{ROWS / limit_s:,.0f} rows/s", "")
    table.add_row(f"row by row, one INSERT each (asyncpg, {ROW_BY_ROW:,} rows)", f"{by_row:,.0f} rows/s", "")
    table.add_row("pgloader, clean file", f"{ROWS / pgloader_s:,.0f} rows/s" if pgloader_s else "NOT INSTALLED", "")
    table.add_row("private copy and integrity_check", f"{ours.check_s:.1f} s", "")
    table.add_row("load", f"{load:,.0f} rows/s", "")
    table.add_row("verification", f"{ROWS / ours.verify_s:,.0f} rows/s, {ours.verify_s:.1f} s", "<= 12 s a million")
    table.add_row("load and verification", f"{both:,.0f} rows/s", "")
    table.add_row("load beside row by row", f"{load / by_row:.1f}", "")
    if pgloader_s:
        table.add_row("load beside pgloader", f"{load * pgloader_s / ROWS:.2f}", ">= 1.5")
        table.add_row("load and verification beside pgloader", f"{both * pgloader_s / ROWS:.2f}", ">= 0.8")
    table.add_row("load beside server-side COPY", f"{load * limit_s / ROWS:.2f}", "")
    return table
