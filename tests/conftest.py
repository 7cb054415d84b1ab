"""Fixtures: real PostgreSQL servers and databases, a venue, and the program under test."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import hypothesis
import pytest
from harness.databases import TEMPLATE, build_template, execute, fresh_database
from harness.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

# A machine that is busy with databases makes a slow example, not a wrong one.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def pristine_cluster() -> Iterator[Path]:
    """The data folder of a cluster that was never started: copying it is ten times faster than initdb."""
    server = PostgresServer()
    yield server.data
    server.dispose()


@pytest.fixture(scope="session")
def postgres(pristine_cluster: Path) -> Iterator[PostgresServer]:
    """The session's server; tests that stop or kill one take `private_postgres`, which is always on disk."""
    server = PostgresServer(pristine_cluster, os.environ.get("RECIO_SHARED_POSTGRES") or None)
    try:
        server.start()
        yield server
    finally:
        server.dispose()


@pytest.fixture
def private_postgres(pristine_cluster: Path) -> Iterator[PostgresServer]:
    """A running server that belongs to this test alone."""
    server = PostgresServer(pristine_cluster)
    try:
        server.start()
        yield server
    finally:
        server.dispose()


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> str:
    """The name of a database that holds the product's schema and no rows; made once."""
    asyncio.run(execute(postgres.dsn(), f"CREATE DATABASE {TEMPLATE}"))
    asyncio.run(build_template(postgres.dsn(TEMPLATE)))
    return TEMPLATE


@pytest.fixture
async def database(postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    """The DSN of a fresh database with the product's schema."""
    async with fresh_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture
async def empty_database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The DSN of a fresh database without anything in it."""
    async with fresh_database(postgres, "template0") as dsn:
        yield dsn
