"""What the daemon says of itself over HTTP, and that a taken port does not stop it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.progress import trades_stored
from harness.venue import OracleVenue

from recio_ingest import web

SECRET = "canary-of-a-password"
STATUS: dict[str, Any] = {
    "version": "1",
    "healthy": False,
    "ready": False,
    "problems": ["database: <connection>"],
    "books": {"received": 1234567},
    "spool": {},
    "database": {"up": False},
    "feeds": {"coinbase": {"connected": False, "lag_s": None}},
}


async def test_endpoints_of_a_running_daemon(database: str, tmp_path: Path) -> None:
    """Metrics have the documented names, status balances, health and readiness answer; no secret is in any of it."""
    dsn = database.replace("recio@", f"recio:{SECRET}@")
    async with OracleVenue(rate=500) as venue, Daemon(tmp_path, dsn, venue) as daemon:
        await daemon.start()
        await daemon.wait_ready()
        await trades_stored(database)
        await asyncio.sleep(1.5)
        answers = {path: await daemon.get(path) for path in ("/", "/metrics", "/healthz", "/readyz", "/status.json")}
        command = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes()
        assert await daemon.terminate() == 0

    assert {200} == {status for status, _ in answers.values()}
    assert (answers["/healthz"][1], answers["/readyz"][1]) == (b"healthy\n", b"ready\n")
    books = json.loads(answers["/status.json"][1])["books"]
    assert books["received"] == sum(count for name, count in books.items() if name != "received") > 0
    names = set(re.findall(r"^# HELP (recio_ingest_\w+?)(?:_total)? ", answers["/metrics"][1].decode(), re.MULTILINE))
    assert {f"recio_ingest_{name}" for name in DOCUMENTED} <= names
    everything = b"".join(body for _, body in answers.values()) + command + daemon.stderr.encode()
    assert SECRET.encode() not in everything


async def test_health_follows_the_status() -> None:
    """Health and readiness are 503 when the status says so, and the page escapes what it shows."""

    async def status() -> dict[str, Any]:
        return STATUS

    async with web.serving("127.0.0.1", 0, status) as port:
        assert await get(port, "/healthz") == (503, "unhealthy\n")
        assert await get(port, "/readyz") == (503, "not ready\n")
        code, page = await get(port, "/")

    assert code == 200
    assert "database: &lt;connection&gt;" in page
    assert "1,234,567" in page


async def test_port_is_taken() -> None:
    """A port that somebody else has costs one line; the daemon goes on without its pages."""

    async def status() -> dict[str, Any]:
        return STATUS

    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        async with web.serving("127.0.0.1", other.getsockname()[1], status) as port:
            assert port == 0


async def test_answers_that_nobody_reads() -> None:
    """A client that asks 400 times and reads nothing holds up the shutdown for less than five seconds."""

    async def status() -> dict[str, Any]:
        return STATUS | {"problems": ["x" * 100_000]}  # 40 MB in all: more than any socket's buffers hold

    loop = asyncio.get_running_loop()
    with contextlib.closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        async with asyncio.timeout(60), web.serving("127.0.0.1", 0, status) as port:
            client.connect(("127.0.0.1", port))
            client.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                client.send(b"GET /status.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
            await asyncio.sleep(1)
            leaving_s = loop.time()

    assert loop.time() - leaving_s < 5


@pytest.mark.parametrize("path", ["/debug", "/../etc/passwd", "/status.json/x"])
async def test_nothing_else_is_served(path: str) -> None:
    """There are five pages and no more, and none takes a POST."""

    async def status() -> dict[str, Any]:
        return STATUS

    async with web.serving("127.0.0.1", 0, status) as port:
        assert (await get(port, path))[0] == 404
        assert (await get(port, "/status.json", b"x"))[0] == 405


async def get(port: int, path: str, data: bytes | None = None) -> tuple[int, str]:
    """Status and text of a request."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


DOCUMENTED = [
    "lag_seconds",
    "last_committed_timestamp_seconds",
    "last_row_timestamp_seconds",
    "commit_latency_seconds",
    "venue_delay_seconds",
    "frames",
    "frames_received",
    "rows_committed",
    "quarantined",
    "gaps",
    "repaired_rows",
    "gap_open",
    "feed_connected",
    "reconnects",
    "spool_pending_frames",
    "spool_bytes",
    "spool_commit_seconds",
    "batch_rows",
    "copy_seconds",
    "database_up",
    "database_errors",
    "disk_free_bytes",
    "partitions_ahead_seconds",
    "event_loop_lag_seconds",
    "build_info",
]
