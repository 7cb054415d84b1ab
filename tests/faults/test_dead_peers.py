"""A peer that is gone without a word is found within ten seconds: a stopped process, and a network that swallows all.

The networks are namespaces that the test makes, which needs root, `ip` and `nft`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import orjson
from harness.networks import ADDRESSES, inside, living_in, pull, swallow, two_networks
from harness.raw_venue import playing, sending
from harness.streaming import ACK, recorded, recording
from harness.venue import OracleVenue
from harness.venue_host import dump, text_frame
from harness.waiting import until
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from recio_ingest.records import Kind

if TYPE_CHECKING:
    from pathlib import Path

WITHIN_S = 10.0
CUTS = {"nft": swallow, "link": pull}


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


def _listener() -> socket.socket:
    return socket.create_server((ADDRESSES[1], 0))


async def _trading(connection: ServerConnection) -> None:
    try:
        await connection.recv()
        await connection.send(orjson.dumps(ACK), text=True)
        while True:
            await connection.send('{"type":"odd"}')
            await asyncio.sleep(0.05)
    except ConnectionClosed:
        return


async def _record_until_cut(folder: Path, port: int, how: str, name: str) -> tuple[float, str]:
    """Return how long it took after the cut until the connection was given up, and the cause."""
    async with recording(folder, f"ws://{ADDRESSES[1]}:{port}") as (reader, spool):
        await recorded(spool, 20)
        await asyncio.to_thread(CUTS[how], name)
        cut_s = time.monotonic()
        await until(lambda: asyncio.sleep(0, not reader.status.connected), within_s=20, what="the end")
        took_s = time.monotonic() - cut_s
        await until(lambda: asyncio.sleep(0, reader.status.cause), within_s=5, what="the cause")
        return took_s, reader.status.cause


async def _half_open(folder: Path, how: str) -> tuple[float, str]:
    with two_networks(how) as (ours, venues), closing(await inside(venues, _listener)) as listener:
        options = {"compression": None, "ping_interval": None, "close_timeout": 0.1}
        async with serve(_trading, sock=listener, **options):  # type: ignore[arg-type]
            port = listener.getsockname()[1]
            return await living_in(ours, lambda: _record_until_cut(folder, port, how, venues))


async def test_half_open_connections(tmp_path: Path) -> None:
    """W3: a network that swallows every packet, and a wire that is pulled, are found within ten seconds."""
    ends = await asyncio.gather(*(_half_open(tmp_path / how, how) for how in CUTS))
    for how, (took_s, cause) in zip(CUTS, ends, strict=True):
        print(f"half-open, {how}: found after {took_s:.1f} s, cause {cause}")
        assert took_s <= WITHIN_S
        assert cause in {"ping", "timeout"}


async def test_an_answer_behind_a_flood(tmp_path: Path) -> None:
    """W22: a peer whose answers to pings do not come is no dead one while its data does; when nothing comes, it is."""
    beat = {"type": "heartbeat", "last_trade_id": 1, "product_id": "BTC-USD", "sequence": 1}
    parts = [text_frame(dump(beat))] * 60
    async with playing(sending(*parts, every_s=0.2)) as raw, recording(tmp_path, raw.url) as (reader, spool):
        await recorded(spool, len(parts), within_s=30)  # for longer than any dead peer is borne
        ended_s = time.monotonic()
        assert reader.status.connected
        await until(lambda: asyncio.sleep(0, not reader.status.connected), within_s=15, what="the end")
        took_s = time.monotonic() - ended_s
        await until(lambda: asyncio.sleep(0, reader.status.cause), within_s=5, what="the cause")
        assert reader.status.cause == "ping"
        assert took_s <= WITHIN_S
