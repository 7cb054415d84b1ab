"""A stream of the program in the test's own loop: a spool behind it, and a venue in front that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
from websockets.asyncio.server import ServerConnection, serve

from recio_ingest.feeds import Feed, coinbase
from recio_ingest.feeds.coinbase_session import CHANNELS
from recio_ingest.records import Frame
from recio_ingest.settings import Coinbase
from recio_ingest.spool import Spool
from recio_ingest.stream import Stream

Handler = Callable[[ServerConnection], Awaitable[None]]
ACK = {
    "type": "subscriptions",
    "channels": [{"name": name, "product_ids": ["BTC-USD"]} for name in CHANNELS],
}


@asynccontextmanager
async def recording(tmp_path: Path, url: str, feed: Feed | None = None) -> AsyncIterator[tuple[Stream, Spool]]:
    """A stream that records into a spool, until left."""
    feed = feed or coinbase.feed(Coinbase(url=url))
    with Spool(tmp_path / "spool", [feed.name], sync_interval_s=0) as spool:
        reader = Stream(feed, spool)
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
