"""Making, migrating and dropping databases for single tests."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.postgres import PostgresServer

TEMPLATE = "recio_template"
PROGRAM = Path(sys.executable).with_name("recio-ingest")
MIGRATE_WITHIN_S = 60.0


async def build_template(dsn: str) -> None:
    """Bring an empty database to the product's schema, by the product's own command."""
    with tempfile.TemporaryDirectory(prefix="recio-migrate-") as folder:
        code, output = await run_program(dsn, Path(folder), "--migrate", within_s=MIGRATE_WITHIN_S)
    if code:
        raise RuntimeError(f"--migrate ended with {code}:\n{output}")


async def run_program(dsn: str, home: Path, *arguments: object, within_s: float) -> tuple[int, str]:
    """Run the installed program on a database to its end; return its exit code and all that it said."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *map(str, arguments),
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "RECIO_DATABASE__DSN": dsn},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(within_s):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


async def fetch(dsn: str, query: str) -> list[asyncpg.Record]:
    """Ask a question over a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def execute(dsn: str, *statements: str) -> None:
    """Run statements one by one over a connection of their own."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def fresh_database(server: PostgresServer, template: str) -> AsyncIterator[str]:
    """Lend a database of a new name and drop it afterwards, whoever is still connected."""
    name = f"test_{uuid4().hex[:12]}"
    await execute(server.dsn(), f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.dsn(name)
    finally:
        await execute(server.dsn(), f"DROP DATABASE {name} WITH (FORCE)")
