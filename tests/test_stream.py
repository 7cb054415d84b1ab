"""One feed's socket: what it records, what it says, and how it behaves towards venues that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from recio_ingest import stream
from recio_ingest.feeds import coinbase
from recio_ingest.feeds.coinbase_session import CHANNELS
from recio_ingest.records import Frame, Kind
from recio_ingest.settings import Coinbase
from recio_ingest.spool import Spool
from recio_ingest.stream import Stream

Handler = Callable[[ServerConnection], Awaitable[None]]
ACK = {
    "type": "subscriptions",
    "channels": [{"name": name, "product_ids": ["BTC-USD"]} for name in CHANNELS],
}


@asynccontextmanager
async def recording(tmp_path: Path, url: str) -> AsyncIterator[tuple[Stream, Spool]]:
    """A stream that records into a spool, until left."""
    with Spool(tmp_path / "spool", ["coinbase"], sync_interval_s=0) as spool:
        reader = Stream(coinbase.feed(Coinbase(url=url)), spool)
        async with asyncio.TaskGroup() as group:
            spooling = group.create_task(spool.run())
            reading = group.create_task(reader.run())
            try:
                yield reader, spool
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                await spool.close()
                await spooling


@asynccontextmanager
async def venue(handler: Handler, **options: object) -> AsyncIterator[str]:
    """A websocket server on loopback that behaves as the test says."""
    async with serve(handler, "127.0.0.1", 0, compression=None, **options) as server:  # type: ignore[arg-type]
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def welcome(connection: ServerConnection) -> None:
    """Take the subscription and confirm it."""
    await connection.recv()
    await connection.send(orjson.dumps(ACK), text=True)


async def recorded(spool: Spool, count: int, within_s: float = 10) -> list[Frame]:
    """The first durable frames of a spool."""
    frames: list[Frame] = []
    async with asyncio.timeout(within_s):
        while len(frames) < count:
            frames += await spool.read(frames[-1].frame_no if frames else spool.start_no - 1, count - len(frames))
    return frames


async def test_records_what_comes(tmp_path: Path) -> None:
    """The subscription names products and channels; every message is a frame, byte for byte, between its marks."""
    asked: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        asked.append(orjson.loads(await connection.recv()))
        await connection.send(orjson.dumps(ACK), text=True)
        await connection.send('{"type":"odd", "n": 1.10}')
        await connection.send(b"\xff\x00")
        await connection.wait_closed()

    async with venue(handler) as url, recording(tmp_path, url) as (reader, spool):
        frames = await recorded(spool, 4)
        assert reader.status.connected
    with Spool(tmp_path / "spool", ["coinbase"]) as again:
        (end,) = await again.read(frames[-1].frame_no, 5)

    assert asked == [{"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "ticker", "heartbeat"]}]
    assert [frame.kind for frame in frames] == [Kind.CONNECTED, Kind.DATA, Kind.DATA, Kind.DATA]
    assert orjson.loads(frames[0].data)["products"] == ["BTC-USD"]
    assert [frame.data for frame in frames[2:]] == [b'{"type":"odd", "n": 1.10}', b"\xff\x00"]
    assert (end.kind, end.data) == (Kind.DISCONNECTED, b'{"cause":"shutdown"}')


async def test_unreachable_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that cannot be reached costs one line and no traceback, however often it is tried."""
    monkeypatch.setattr(stream, "WAITS_S", (0.01, 0.01))
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with capture_logs() as lines:
        async with recording(tmp_path, f"ws://127.0.0.1:{port}") as (reader, _):
            await asyncio.sleep(0.5)
            assert not reader.status.connected

    assert [(line["event"], line["cause"], line["log_level"]) for line in lines] == [
        ("feed.disconnected", "unreachable", "warning")
    ]


async def test_refused_subscription(tmp_path: Path) -> None:
    """What the venue says against the subscription stands in the log, and the connection is given up."""

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type":"error","message":"Failed to subscribe","reason":"X is not valid"}')
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler) as url, recording(tmp_path, url) as (_, spool):
            frames = await recorded(spool, 3)

    assert (frames[2].kind, frames[2].data) == (Kind.DISCONNECTED, b'{"cause":"refused"}')
    assert [(line["cause"], line["error"]) for line in lines] == [("refused", "Failed to subscribe: X is not valid")]


async def test_partly_refused_subscription(tmp_path: Path) -> None:
    """A product that the venue does not confirm is named; the others are recorded."""

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(orjson.dumps({**ACK, "channels": ACK["channels"][:2]}), text=True)
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler) as url, recording(tmp_path, url) as (reader, spool):
            await recorded(spool, 2)
            async with asyncio.timeout(5):
                while not reader.status.connected:
                    await asyncio.sleep(0.01)

    assert (lines[0]["event"], lines[0]["refused"]) == ("feed.partly_refused", "heartbeat of BTC-USD")


async def test_silence_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that confirms and then says nothing, but answers pings, is left after the feed's limit."""
    monkeypatch.setattr(coinbase, "IDLE_TIMEOUT_S", 0.2)

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        await connection.wait_closed()

    async with venue(handler) as url, recording(tmp_path, url) as (_, spool):
        frames = await recorded(spool, 3)

    assert (frames[2].kind, frames[2].data) == (Kind.DISCONNECTED, b'{"cause":"timeout"}')


async def test_kicked_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that accepts, confirms and hangs up is not hammered: the waits grow, as nothing good has come."""
    monkeypatch.setattr(stream, "WAITS_S", (0.1, 30.0))
    connections: list[float] = []

    async def handler(connection: ServerConnection) -> None:
        connections.append(time.monotonic())
        await welcome(connection)

    async with venue(handler) as url, recording(tmp_path, url):
        await asyncio.sleep(2.5)

    assert 3 <= len(connections) <= 7
    assert connections[2] - connections[1] > connections[1] - connections[0] > 0.05


async def test_too_large_message(tmp_path: Path) -> None:
    """A message over the limit ends the connection and never the daemon; its bytes are not taken in."""

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        await connection.send("x" * (stream.MAX_MESSAGE_BYTES + 1))
        await connection.wait_closed()

    async with venue(handler) as url, recording(tmp_path, url) as (_, spool):
        frames = await recorded(spool, 3)

    assert frames[2].kind == Kind.DISCONNECTED


@pytest.mark.parametrize(("status", "cause"), [(401, "unauthorised"), (429, "rate_limited"), (503, "handshake")])
async def test_refused_handshake(tmp_path: Path, status: int, cause: str) -> None:
    """A handshake that is refused leaves no marks, and one line with its own cause."""

    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(status, "no\n")

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler, process_request=refuse) as url, recording(tmp_path, url) as (_, spool):
            await asyncio.sleep(0.3)
            assert spool.durable_count == 0

    assert [cause] == [line["cause"] for line in lines]


async def test_full_spool_pauses_the_socket(tmp_path: Path) -> None:
    """At its limit the spool stops the reading, puts the pause on record, and goes on when there is room."""

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        block = b"x" * 500_000
        for _ in range(64):
            await connection.send(block)
        await connection.send('{"type":"last"}')
        await connection.wait_closed()

    with Spool(tmp_path / "spool", ["coinbase"], max_bytes=2**24, retain_s=0, sync_interval_s=0) as spool:
        frames: list[Frame] = []
        async with venue(handler) as url:
            reader = Stream(coinbase.feed(Coinbase(url=url)), spool)
            async with asyncio.TaskGroup() as group, asyncio.timeout(30):
                spooling, reading = group.create_task(spool.run()), group.create_task(reader.run())
                while not spool.at_limit:
                    await asyncio.sleep(0.01)
                held_bytes = spool.size_bytes
                await asyncio.sleep(0.3)
                assert spool.size_bytes < held_bytes + 2**23
                after_no = spool.start_no - 1
                while not (frames and frames[-1].data == b'{"type":"last"}'):
                    frames += await spool.read(after_no, 20)
                    after_no = frames[-1].frame_no
                    spool.committed(after_no)
                reading.cancel()
                await asyncio.wait([reading])
                await spool.close()
                await spooling

    kinds = [frame.kind for frame in frames]
    assert sum(frame.data[:1] == b"x" for frame in frames) == 64
    assert kinds.count(Kind.PAUSED) == kinds.count(Kind.RESUMED) >= 1
