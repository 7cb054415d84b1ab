"""A client of a simulated venue, with a bounded queue: a slow one holds up neither market nor neighbours."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.server import ServerConnection

QUEUE_MESSAGES = 2000  # half a megabyte of matches; a client that is further behind is closed with 1008
SEND_BUFFER_BYTES = 65_536  # the kernel would else take megabytes more, and the queue would bound nothing
CLOSE_WITHIN_S = 1.0  # a client that does not answer a close is cut off


class Client:
    """What a connection holds and has still to be sent; it is closed unless settled in `within_s`, if given."""

    def __init__(self, connection: ServerConnection, within_s: float | None = None) -> None:
        self.held: dict[str, list[str]] = {}  # channel -> products, as the client asked for them
        self._connection = connection
        wire: socket.socket = connection.transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_MESSAGES)
        self._eased = asyncio.Event()  # something was sent, or nothing will be any more
        self._deadline = asyncio.timeout(within_s)
        self._dropped = False
        self._close = (CloseCode.POLICY_VIOLATION, f"no subscribe within {within_s or 0:g} s")

    def settle(self) -> None:
        """Lift the deadline of the first subscription."""
        if not self._dropped:
            self._deadline.reschedule(None)

    def push(self, message: bytes) -> None:
        """Queue a message without ever waiting; a client with a full queue is dropped."""
        if self._dropped:
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.drop(CloseCode.POLICY_VIOLATION, "slow consumer")

    async def send(self, message: bytes) -> bool:
        """Queue a message once half of the queue is free, and tell whether the client is still there.

        The other half is left to what is pushed meanwhile: nobody is dropped for what comes this way.
        """
        while not self._dropped and self._queue.qsize() >= max(1, self._queue.maxsize // 2):
            self._eased.clear()
            await self._eased.wait()
        self.push(message)
        return not self._dropped

    def drop(self, code: CloseCode, cause: str) -> None:
        """Have the connection closed; what is still queued is lost."""
        if not self._dropped:
            self._dropped = True
            self._eased.set()
            self._close = (code, cause)
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def serve(self, handle: Callable[[Client, str | bytes], None]) -> None:
        """Send what is queued and hand on what is received, until either side closes."""
        try:
            async with self._deadline, asyncio.TaskGroup() as group:
                sender = group.create_task(self._drain(), name="venue client sender")
                with suppress(ConnectionClosed):
                    async for message in self._connection:
                        handle(self, message)
                self._dropped = True  # the deadline ends with this block: nothing may move it any more
                sender.cancel()
        except TimeoutError:
            self._dropped = True
            await self._hang_up()
        finally:
            self._dropped = True
            self._eased.set()

    async def _drain(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                message = await self._queue.get()
                self._eased.set()
                await self._connection.send(message, text=True)

    async def _hang_up(self) -> None:
        try:
            # Closing waits behind what the client does not read, for ever if it never does.
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._connection.close(*self._close)
        except TimeoutError:
            self._connection.transport.abort()
