"""A venue on bare TCP, for what a websocket library would not send: each connection plays a script of its own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from harness.venue_host import dump, text_frame

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CHANNELS = ("matches", "ticker", "heartbeat")
ACK = {"type": "subscriptions", "channels": [{"name": name, "product_ids": ["BTC-USD"]} for name in CHANNELS]}


@dataclass
class Line:
    """One connection, its handshake done."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""

    async def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def confirm(self) -> None:
        """Take the subscription, whatever it says, and confirm it."""
        await self.reader.read(65_536)
        await self.write(text_frame(dump(ACK)))

    async def read_on(self) -> None:
        """Stay, and take what comes, until the peer goes."""
        while await self.reader.read(65_536):
            pass

    def reset(self) -> None:
        """Go with an RST."""
        carrier = self.writer.get_extra_info("socket")
        carrier.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Line], Awaitable[None]]


@dataclass
class RawVenue:
    """Where it is, and the lines that there were."""

    port: int = 0
    lines: list[Line] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address."""
        return f"ws://127.0.0.1:{self.port}"


async def let_in(line: Line) -> None:
    """Answer a handshake."""
    line.head = await line.reader.readuntil(b"\r\n\r\n")
    key = next(row.split(b": ")[1] for row in line.head.split(b"\r\n") if row.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
    await line.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


@asynccontextmanager
async def playing(*scripts: Script, handshake: Script = let_in) -> AsyncIterator[RawVenue]:
    """Play the scripts by turns, one a connection; the last one again for every further connection."""
    venue, tasks = RawVenue(), set[asyncio.Task[None]]()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        line = Line(reader, writer)
        venue.lines.append(line)
        script = scripts[min(len(venue.lines), len(scripts)) - 1]
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handshake(line)
            await script(line)
        writer.close()
        tasks.discard(task)

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    venue.port = server.sockets[0].getsockname()[1]
    try:
        yield venue
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tuple(tasks), timeout=5)


def sending(*parts: bytes, every_s: float = 0.0) -> Script:
    """Confirm, send these bytes, and stay."""

    async def script(line: Line) -> None:
        await line.confirm()
        reading = asyncio.create_task(line.read_on())
        try:
            for part in parts:
                await line.write(part)
                await asyncio.sleep(every_s)
            await reading
        finally:
            reading.cancel()

    return script


def frame(first: int, payload: bytes = b"", size: int | None = None) -> bytes:
    """Make a frame of a server with any first byte, and any size in its head."""
    size = len(payload) if size is None else size
    if size < 126:
        return bytes((first, size)) + payload
    if size < 2**16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def closing(code: int, reason: bytes = b"") -> bytes:
    """Make a close frame."""
    return frame(0x88, code.to_bytes(2, "big") + reason)


def messages(*payloads: bytes) -> Sequence[bytes]:
    """Frame text messages."""
    return [text_frame(payload) for payload in payloads]
