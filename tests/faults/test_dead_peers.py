"""A peer that is gone without a word is found within ten seconds: a stopped process, and a network that swallows all.

The networks are namespaces that the test makes, which needs root, `ip` and `nft`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import orjson
import pytest
from harness.streaming import ACK, recorded, recording
from harness.venue import OracleVenue
from harness.waiting import until
from required_tool import required_tool
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from recio_ingest.records import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHIN_S = 10.0
CLONE_NEWNET = 0x40000000
ADDRESSES = ("198.18.77.1", "198.18.77.2")


async def test_a_frozen_peer(tmp_path: Path) -> None:
    """W5: a venue whose process stands still is left within ten seconds with the cause `ping`, and tried again."""
    async with OracleVenue(rate=200) as venue, recording(tmp_path, venue.url) as (reader, spool):
        await recorded(spool, 50)
        assert venue._process is not None
        venue._process.send_signal(signal.SIGSTOP)
        stopped_ns = time.time_ns()
        try:
            await until(lambda: asyncio.sleep(0, not reader.status.connected), within_s=15, what="the end")
        finally:
            venue._process.send_signal(signal.SIGCONT)
        await until(lambda: asyncio.sleep(0, reader.status.connected), within_s=15, what="another connection")
        frames = await recorded(spool, 50)
        while [each.kind for each in frames].count(Kind.CONNECTED) < 2:
            frames += await spool.read(frames[-1].frame_no, 50)
    (down,) = [each for each in frames if each.kind == Kind.DISCONNECTED]
    took_s = (down.recv_ns - stopped_ns) / 1e9
    print(f"frozen peer: found after {took_s:.1f} s")
    assert orjson.loads(down.data) == {"cause": "ping"}
    assert took_s <= WITHIN_S


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=10, capture_output=True, text=True)


@contextmanager
def _two_networks(how: str) -> Iterator[tuple[str, str]]:
    """Two namespaces with a wire between them: ours, and the venue's."""
    ours, venues = names = (f"recio{os.getpid()}{how}a", f"recio{os.getpid()}{how}b")
    ip = required_tool("ip", "iproute2")
    if os.geteuid() != 0:
        reason = "not root, so no network namespace was made and half-open connections were not checked"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    made: list[str] = []
    try:
        for name in names:
            _run(ip, "netns", "add", name)
            made.append(name)
        _run(ip, "-n", ours, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", venues)
        for name, address in zip(names, ADDRESSES, strict=True):
            _run(ip, "-n", name, "address", "add", f"{address}/30", "dev", "wire")
            _run(ip, "-n", name, "link", "set", "wire", "up")
        yield names
    finally:
        for name in made:
            _run(ip, "netns", "del", name)


def _enter(name: str) -> None:
    """Move this thread into a namespace; sockets that it opens stay there."""
    with open(f"/run/netns/{name}") as namespace:  # noqa: PTH123  # a descriptor is wanted
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _listener(name: str) -> socket.socket:
    _enter(name)
    return socket.create_server((ADDRESSES[1], 0))


async def _in_its_network(name: str) -> socket.socket:
    with ThreadPoolExecutor(1) as threads:
        return await asyncio.get_running_loop().run_in_executor(threads, _listener, name)


async def _trading(connection: ServerConnection) -> None:
    try:
        await connection.recv()
        await connection.send(orjson.dumps(ACK), text=True)
        while True:
            await connection.send('{"type":"odd"}')
            await asyncio.sleep(0.05)
    except ConnectionClosed:
        return


def _cut(how: str, name: str) -> None:
    ip = required_tool("ip", "iproute2")
    if how == "link":
        _run(ip, "-n", name, "link", "set", "wire", "down")
        return
    nft = required_tool("nft", "nftables")
    _run(ip, "netns", "exec", name, nft, "add table inet cut; add chain inet cut in "
         "{ type filter hook input priority 0; policy drop; }; add chain inet cut out "
         "{ type filter hook output priority 0; policy drop; }")  # fmt: skip


async def _record_until_cut(folder: Path, port: int, how: str, name: str) -> tuple[float, str]:
    """Return how long it took after the cut until the connection was given up, and the cause."""
    async with recording(folder, f"ws://{ADDRESSES[1]}:{port}") as (reader, spool):
        await recorded(spool, 20)
        await asyncio.to_thread(_cut, how, name)
        cut_s = time.monotonic()
        await until(lambda: asyncio.sleep(0, not reader.status.connected), within_s=20, what="the end")
        took_s = time.monotonic() - cut_s
        await asyncio.sleep(0)
        return took_s, reader.status.cause


async def _half_open(folder: Path, how: str) -> tuple[float, str]:
    def record(name: str, port: int, venues: str) -> tuple[float, str]:
        _enter(name)
        return asyncio.run(_record_until_cut(folder, port, how, venues))

    with _two_networks(how) as (ours, venues), closing(await _in_its_network(venues)) as listener:
        options = {"compression": None, "ping_interval": None, "close_timeout": 0.1}
        async with serve(_trading, sock=listener, **options):  # type: ignore[arg-type]
            with ThreadPoolExecutor(1) as threads:  # a thread that nobody uses afterwards: it stays in its namespace
                port, loop = listener.getsockname()[1], asyncio.get_running_loop()
                return await loop.run_in_executor(threads, record, ours, port, venues)


async def test_half_open_connections(tmp_path: Path) -> None:
    """W3: a network that swallows every packet, and a wire that is pulled, are found within ten seconds."""
    kinds = ("nft", "link")
    ends = await asyncio.gather(*(_half_open(tmp_path / how, how) for how in kinds))
    for how, (took_s, cause) in zip(kinds, ends, strict=True):
        print(f"half-open, {how}: found after {took_s:.1f} s, cause {cause}")
        assert took_s <= WITHIN_S
        assert cause in {"ping", "timeout"}
