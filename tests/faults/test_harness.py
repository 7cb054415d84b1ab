"""The instruments themselves: the server, the proxy, the venue and the daemon's handle do what they say."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.databases import execute
from harness.postgres import PostgresServer, children_of
from harness.proxy import PgProxy
from harness.venue import OracleVenue
from websockets.asyncio.client import connect


async def fetch(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """Rows as plain tuples, over a connection of their own."""
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def copy_one(proxy: PgProxy, database: str, n: int) -> None:
    """Commit one row through the proxy, by COPY."""
    connection = await asyncpg.connect(proxy.dsn(database))
    try:
        async with connection.transaction():
            await connection.copy_records_to_table("t", records=[(n,)])
        await connection.close()
    finally:
        connection.terminate()


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


async def test_proxy_swallows_one_commit(postgres: PostgresServer, empty_database: str) -> None:
    """The answer to the named COMMIT is lost, its row is in the database, and the next COMMIT is answered."""
    await execute(empty_database, "CREATE TABLE t (n int)")
    async with PgProxy(postgres.socket) as proxy:
        swallowed = proxy.swallow_commit(2)
        await copy_one(proxy, empty_database, 1)
        assert not swallowed.is_set()
        with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
            await copy_one(proxy, empty_database, 2)
        assert swallowed.is_set()
        await copy_one(proxy, empty_database, 3)

    assert proxy.counts["commits_swallowed"] == 1
    assert await fetch(empty_database, "SELECT n FROM t ORDER BY n") == [(1,), (2,), (3,)]


async def test_proxy_cuts_after_each_message(postgres: PostgresServer, empty_database: str) -> None:
    """A cut behind message k lets k messages through, so a sweep over k meets every state there is."""
    await execute(empty_database, "CREATE TABLE t (n int)")
    async with PgProxy(postgres.socket) as proxy:
        await copy_one(proxy, empty_database, 0)
        messages = proxy.counts["client_messages"]
        outcomes = []
        for k in range(1, messages + 1):
            cut = proxy.cut_after(k)
            try:
                await copy_one(proxy, empty_database, k)
                outcomes.append("done")
            except (asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
                outcomes.append("lost")
            assert cut.is_set()

    stored = {n for (n,) in await fetch(empty_database, "SELECT n FROM t")}
    assert "done" not in outcomes[:-1]  # the last message says goodbye
    assert 1 not in stored
    assert messages - 1 in stored  # the COMMIT had arrived, its answer had not


async def test_proxy_refuses_and_stalls(postgres: PostgresServer, empty_database: str) -> None:
    """A refusing proxy answers at once with an error, a stalled one not at all, and both recover."""
    await execute(empty_database, "CREATE TABLE t (n int)")
    async with PgProxy(postgres.socket) as proxy:
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await copy_one(proxy, empty_database, 1)
        await proxy.accept()
        proxy.stall()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(copy_one(proxy, empty_database, 2), 0.2)
        proxy.resume()
        await copy_one(proxy, empty_database, 3)

    assert await fetch(empty_database, "SELECT n FROM t") == [(3,)]


async def receive(venue: OracleVenue, count: int) -> list[dict[str, Any]]:
    """Subscribe to everything and take the first messages."""
    order = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "ticker", "heartbeat"]}
    async with connect(venue.url, close_timeout=0.1) as socket:
        await socket.send(json.dumps(order))
        return [json.loads(await socket.recv()) for _ in range(count)]


async def test_venue_keeps_its_ledger() -> None:
    """Every message can be computed again, the ledger holds what was sent, and the market never waits for us."""
    async with OracleVenue(rate=2000) as venue:
        first, second = await receive(venue, 200), await receive(venue, 200)
        ledger = await venue.ledger()

    market = ledger.markets["BTC-USD"]
    assert [message["type"] for message in first[:3]] == ["subscriptions", "last_match", "match"]
    for messages in (first, second):
        matches = [message for message in messages if message["type"] in {"match", "last_match"}]
        ids = [match["trade_id"] for match in matches]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert matches[1:] == [market.trade(trade_id).message() for trade_id in ids[1:]]
        assert any(low <= ids[0] and ids[-1] <= high for low, high in ledger.sent["BTC-USD"])
    assert second[1]["trade_id"] > ledger.sent["BTC-USD"][0][1] + 1
    assert len(ledger.connections) == len(ledger.sent["BTC-USD"]) == 2


async def test_daemon_is_measured(database: str, tmp_path: Path) -> None:
    """A daemon pinned to one CPU stays there, and its memory and CPU time can be read."""
    async with OracleVenue(rate=200) as venue, Daemon(tmp_path, database, venue, cpu=0) as daemon:
        await daemon.start()
        await daemon.wait_ready()
        assert os.sched_getaffinity(daemon.process.pid) == {0}
        assert 10_000_000 < daemon.rss_bytes() < 1_000_000_000
        assert 0 < daemon.cpu_seconds() < 30
        await daemon.kill9()
        with pytest.raises(RuntimeError, match="not started"):
            daemon.rss_bytes()
