"""The harness is itself tested: an oracle that cannot see a fault proves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.databases import execute
from harness.postgres import children_of

if TYPE_CHECKING:
    from harness.postgres import PostgresServer


async def test_server_survives_kill(private_postgres: PostgresServer) -> None:
    """A killed server takes its children along, and after the restart it has what was committed."""
    await execute(private_postgres.dsn(), "CREATE TABLE t AS SELECT 42 AS n")
    connection = await asyncpg.connect(private_postgres.dsn())
    children = children_of(private_postgres.pid)
    assert len(children) > 2

    private_postgres.kill()
    with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
        await connection.fetchval("SELECT n FROM t")
    connection.terminate()
    private_postgres.start()

    assert not set(children) & set(children_of(private_postgres.pid))
    connection = await asyncpg.connect(private_postgres.dsn())
    assert await connection.fetchval("SELECT n FROM t") == 42
    assert await connection.fetchval("SHOW fsync") == "on"
    await connection.close()
