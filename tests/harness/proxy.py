"""A proxy in front of PostgreSQL that loses exactly the message that a test names."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Self

from harness.postgres import SOCKET_NAME, short_folder

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from pathlib import Path

# Codes in the place of a protocol version: requests for encryption, which a Unix socket does not need.
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
READ_BYTES = 256 * 1024


class Messages:
    """Cuts a byte stream into protocol messages: one byte of type, four of length, which counts itself."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Add what arrived and return the messages that are complete now."""
        data, at, messages = self._rest + data, 0, []
        while len(data) - at >= 5:
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > len(data):
                break
            messages.append(data[at:end])
            at = end
        self._rest = data[at:]
        return messages


class Wire:
    """One client's connection and the server connection behind it."""

    def __init__(self, proxy: PgProxy, client: tuple[StreamReader, StreamWriter]) -> None:
        self.proxy = proxy
        self.client_in, self.client_out = client
        self.server_out: StreamWriter | None = None
        self.copied = False  # since the last COMMIT

    def cut(self) -> None:
        """End both sides at once, without a word to either."""
        for side in (self.client_out, self.server_out):
            if side is not None:
                side.transport.abort()

    async def startup(self) -> bytes:
        """Read the first message, which has no type; decline encryption as a server without it would."""
        while True:
            size = await self.client_in.readexactly(4)
            body = await self.client_in.readexactly(int.from_bytes(size, "big") - 4)
            if int.from_bytes(body[:4], "big") not in {SSL_REQUEST, GSS_REQUEST}:
                return size + body
            self.client_out.write(b"N")

    async def run(self) -> None:
        """Carry messages both ways until a side ends or the proxy cuts."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await self.startup()
            await self.proxy.flowing.wait()
            server_in, self.server_out = await asyncio.open_unix_connection(self.proxy.upstream)
            for side in (self.client_out, self.server_out):
                side.transport.set_write_buffer_limits(high=0)  # a drain then means: handed over entirely
            self.server_out.write(first)
            up = asyncio.create_task(self.upward(self.server_out))
            down = asyncio.create_task(self.downward(server_in))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.cut()
                for task in (up, down):
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)

    async def upward(self, server_out: StreamWriter) -> None:
        """Client to server, message by message, so that a cut falls between two."""
        messages = Messages()
        while data := await self.client_in.read(READ_BYTES):
            await self.proxy.flowing.wait()
            for message in messages.feed(data):
                server_out.write(message)
                if self.proxy.client_message():
                    # Let the server have it: the fault is the loss of the connection, not of this message.
                    await server_out.drain()
                    return
            await server_out.drain()

    async def downward(self, server_in: StreamReader) -> None:
        """Server to client, looking out for the answer that is to be lost."""
        messages = Messages()
        while data := await server_in.read(READ_BYTES):
            await self.proxy.flowing.wait()
            for message in messages.feed(data):
                if message.startswith(b"C") and self.answer_is_lost(message[5:-1]):
                    return
                self.client_out.write(message)
            await self.client_out.drain()

    def answer_is_lost(self, tag: bytes) -> bool:
        """Follow a CommandComplete; true for the answer to the COMMIT that was named."""
        self.copied |= tag.startswith(b"COPY")
        if tag != b"COMMIT":
            return False
        copied, self.copied = self.copied, False
        return self.proxy.commit_answered(copied=copied)


class PgProxy:
    """Listens on a Unix socket of its own; `counts` tells what it saw and what it did."""

    def __init__(self, upstream: Path) -> None:
        self.upstream = upstream
        self.folder = short_folder("recio-px-")
        self.counts: Counter[str] = Counter()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._server: asyncio.Server | None = None
        self._wires: set[Wire] = set()
        self._runs: set[asyncio.Task[None]] = set()
        self._commits_to_go = self._messages_to_go = 0
        self._commit_swallowed = self._cut_made = asyncio.Event()

    def dsn(self, direct: str) -> str:
        """Turn the DSN of a database of the server behind into the way through this proxy."""
        return f"{direct.partition('?')[0]}?host={self.folder}"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self.resume()
        await asyncio.gather(*self._runs, return_exceptions=True)
        shutil.rmtree(self.folder)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.counts["connections"] += 1
        wire = Wire(self, (reader, writer))
        task = asyncio.current_task()
        assert task is not None
        self._wires.add(wire)
        self._runs.add(task)
        try:
            await wire.run()
        finally:
            wire.cut()
            self._wires.discard(wire)
            self._runs.discard(task)

    async def accept(self) -> None:
        """Take connections, from the start or again."""
        self._server = await asyncio.start_unix_server(self._serve, self.folder / SOCKET_NAME)

    async def refuse(self) -> None:
        """Cut every connection and take no new one until `accept`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self.cut()
            await server.wait_closed()

    def cut(self) -> None:
        """Cut every connection; new ones are welcome."""
        for wire in self._wires:
            wire.cut()

    def stall(self) -> None:
        """Accept, read, and never answer: neither old connections nor new ones."""
        self.flowing.clear()

    def resume(self) -> None:
        """Let everything held back flow again."""
        self.flowing.set()

    def swallow_commit(self, n: int = 1) -> asyncio.Event:
        """Lose the server's answer to the n-th COMMIT of a transaction with a COPY; the event tells when.

        The server has committed by then: the client cannot know it, and both sides are cut.
        """
        self._commits_to_go, self._commit_swallowed = n, asyncio.Event()
        return self._commit_swallowed

    def cut_after(self, k: int) -> asyncio.Event:
        """Cut the connection that sends the k-th client message from now on, once the server has it."""
        self._messages_to_go, self._cut_made = k, asyncio.Event()
        return self._cut_made

    def commit_answered(self, *, copied: bool) -> bool:
        """Count a COMMIT's answer; true if it is the one to lose."""
        self.counts["commits"] += 1
        self.counts["commits_with_copy"] += copied
        if not copied or not self._commits_to_go:
            return False
        self._commits_to_go -= 1
        if self._commits_to_go:
            return False
        self.counts["commits_swallowed"] += 1
        self._commit_swallowed.set()
        return True

    def client_message(self) -> bool:
        """Count a client's message; true if the connection is to be cut behind it."""
        self.counts["client_messages"] += 1
        if not self._messages_to_go:
            return False
        self._messages_to_go -= 1
        if self._messages_to_go:
            return False
        self.counts["cuts"] += 1
        self._cut_made.set()
        return True
