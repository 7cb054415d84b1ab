"""What every simulated venue is: a websocket and a REST server on loopback, and a market that runs beside them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import CloseCode

from recio_ingest.demo.client import CLOSE_WITHIN_S, Client

if TYPE_CHECKING:
    from types import TracebackType

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Venue(ABC):
    """A venue at `url` (websocket) and `rest_url`, from `async with` to its end. Port 0 takes a free one."""

    WS_PATH = REST_PATH = ""

    def __init__(self, host: str, ws_port: int, rest_port: int) -> None:
        self.url = self.rest_url = ""  # known once the servers listen
        self._host, self._ws_port, self._rest_port = host, ws_port, rest_port
        self._stack = AsyncExitStack()

    @abstractmethod
    async def _serve(self, connection: ServerConnection) -> None:
        """Serve one websocket until it is closed."""

    @abstractmethod
    def _served(self) -> Iterable[Client]:
        """Return the clients that are connected."""

    @abstractmethod
    def _app(self) -> web.Application:
        """Return what answers REST."""

    @abstractmethod
    def _loops(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        """Return what runs for as long as the venue does."""

    def _options(self) -> dict[str, Any]:
        """Return what `serve` is told beside what all venues tell it."""
        return {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                serve(
                    self._serve,
                    self._host,
                    self._ws_port,
                    compression=None,  # on loopback only work
                    close_timeout=CLOSE_WITHIN_S,
                    **self._options(),
                )
            )
            runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=CLOSE_WITHIN_S)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, self._host, self._rest_port).start()
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for loop in self._loops():
                stack.callback(tasks.create_task(loop(), name=f"venue {loop.__name__}").cancel)
            self.url = f"ws://{self._host}:{server.sockets[0].getsockname()[1]}{self.WS_PATH}"
            self.rest_url = f"http://{self._host}:{runner.addresses[0][1]}{self.REST_PATH}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        for client in self._served():
            client.drop(CloseCode.GOING_AWAY, "the venue closes")
        if isinstance(error, asyncio.CancelledError):  # the task group knows whether it meant this one
            return await self._stack.__aexit__(kind, error, traceback)
        await self._stack.aclose()  # any other error leaves as it is, not wrapped into the group's
        return None
