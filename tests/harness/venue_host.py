"""What the processes of all fake venues have in common: sockets written in bulk, and orders obeyed line by line.

Such a process is started with its settings as one JSON argument; it obeys one JSON line per order on its standard
input, answers with one, and ends when the input ends, so that it never outlives its test.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from websockets.http11 import Request, Response

TICK_S = 0.005
SUBSCRIBE_WITHIN_S = 5.0
# At most this many numbers in one write: a client that comes back from a stop is fed in slices.
MOST_AT_ONCE = 2000


def dump(message: object) -> bytes:
    """Write JSON as the venues do, without blanks."""
    return json.dumps(message, separators=(",", ":")).encode()


def text_frame(payload: bytes) -> bytes:
    """Frame a text message of a server (RFC 6455, 5.2); a write for many frames is what makes this fast."""
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload


def json_response(socket: ServerConnection, status: int, body: object) -> Response:
    """Answer a request with JSON."""
    response = socket.respond(status, dump(body).decode())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response


def note(ranges: list[list[int]], number: int, before: int) -> None:
    """Enter a number into ranges without holes; `before` is the one that precedes it."""
    if ranges and ranges[-1][0] <= number <= ranges[-1][1]:
        return
    if ranges and ranges[-1][1] == before:
        ranges[-1][1] = number
    else:
        ranges.append([number, number])


class HostedSession(ABC):
    """One connection: it obeys commands, and from the first on sends what there is to send."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.opened_ns, self.closed_ns = time.time_ns(), 0

    @abstractmethod
    def obey(self, order: dict[str, Any]) -> list[bytes]:
        """Make the frames that answer a command."""

    @abstractmethod
    def advance(self) -> list[bytes]:
        """Make the frames of everything that happened since the last look."""

    def write(self, frames: Iterable[bytes]) -> None:
        """Write at once; the buffer is bounded by the drain between two ticks."""
        self.socket.transport.write(b"".join(frames))

    async def stream(self) -> None:
        """Send what happens until the socket closes."""
        while self.socket.state is State.OPEN and not self.socket.transport.is_closing():
            if frames := self.advance():
                self.write(frames)
                await self.socket.drain()
            await asyncio.sleep(TICK_S)

    async def run(self) -> None:
        """Serve the connection."""
        async with asyncio.TaskGroup() as tasks:
            streaming = None
            try:
                while True:
                    # The venues close a connection that asks for nothing.
                    async with asyncio.timeout(None if streaming else SUBSCRIBE_WITHIN_S):
                        order = json.loads(await self.socket.recv())
                    self.write(self.obey(order))
                    streaming = streaming or tasks.create_task(self.stream(), name="stream")
            except (ConnectionClosed, TimeoutError):
                pass
            finally:
                self.closed_ns = time.time_ns()
                if streaming:
                    streaming.cancel()


S = TypeVar("S", bound=HostedSession)


class HostedVenue(ABC, Generic[S]):
    """All connections, and the switches that every venue has; an order `x` is the method `do_x`."""

    def __init__(self) -> None:
        self.sessions: list[S] = []
        self.refusing = False

    @abstractmethod
    def session(self, socket: ServerConnection) -> S:
        """Make a session of this venue."""

    @abstractmethod
    def http(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer REST requests; let handshakes pass unless refusing."""

    @property
    def open_sessions(self) -> list[S]:
        """The connections that are not closed yet."""
        return [session for session in self.sessions if not session.closed_ns]

    def do_disconnect(self) -> None:
        """Cut every connection without a word."""
        for session in self.open_sessions:
            session.socket.transport.abort()

    def do_refuse(self, *, on: bool) -> None:
        """Take no new connection."""
        self.refusing = on

    async def serve_socket(self, socket: ServerConnection) -> None:
        """Handle one connection and keep its ledger."""
        session = self.session(socket)
        self.sessions.append(session)
        await session.run()

    async def serve(self) -> None:
        """Serve until the standard input ends."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with serve(
            self.serve_socket, "127.0.0.1", 0, process_request=self.http, compression=None, close_timeout=1
        ) as server:
            answer: dict[str, Any] = {"port": server.sockets[0].getsockname()[1]}
            while True:
                sys.stdout.buffer.write(dump(answer) + b"\n")
                sys.stdout.buffer.flush()
                if not (line := await reader.readline()):
                    return
                order = json.loads(line)
                answer = getattr(self, f"do_{order.pop('do')}")(**order) or {}
