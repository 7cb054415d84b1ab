"""A PostgreSQL of one's own, for people without one: it runs while the daemon runs, and is gone when the daemon is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from pathlib import Path

import asyncpg
import structlog

from recio_ingest import cluster
from recio_ingest.backoff import delays
from recio_ingest.errors import ConfigError, DatabaseUnavailableError

log = structlog.get_logger()

STOP_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
# Recovery after a crash takes as long as it takes; somebody may be watching.
REMIND_S = 60.0
LOOK_EVERY_S = 0.5
# The killed server's last processes leave within the first pause; a server that cannot start is not started in a whirl.
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 30.0
# The processes of a server that was killed a moment ago still hold its memory, and no other starts until they notice.
START_AGAIN_S = (0.3, 1.0, 3.0)
# A server that ran for this long ended for a new reason.
STEADY_S = 60.0


class Answer(Enum):
    """What the server's socket has to say."""

    YES = auto()
    NOT_YET = auto()
    """It starts, recovers, stops, or is too busy to say."""
    NONE = auto()


@asynccontextmanager
async def running(
    state_dir: Path, *, adopt: bool = False, answer_within_s: float | None = None
) -> AsyncIterator[Embedded]:
    """Keep the server under `state_dir` running (made at the first start), or go on with one that runs already.

    With `adopt`, a server found running is one that a killed daemon left behind, and is kept up and stopped on leaving
    like one's own; without, it is somebody else's. With `answer_within_s` the server is yielded after that time even if
    it is still recovering; without, only once it answers. Raises DatabaseUnavailableError where it ends instead.
    """
    folder = state_dir.resolve() / "postgres"
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "PG_VERSION").exists():
        await cluster.initialise(folder)
    server = Embedded(folder, await _listening_in(folder) or cluster.socket_folder(folder.parent))
    failure: Exception | None = None
    try:
        await server.start()
        await _first_answer(server, answer_within_s)
        async with asyncio.TaskGroup() as group:
            supervising = group.create_task(server.supervise(), name="embedded") if server.own or adopt else None
            try:
                yield server
            except Exception as exc:  # noqa: BLE001  # raised again below, where no group wraps it
                failure = exc
            finally:
                if supervising is not None:
                    supervising.cancel()
    finally:
        if server.own or adopt:
            await server.stop()
        if server.socket_folder.parent != folder.parent:
            with suppress(OSError):
                server.socket_folder.rmdir()
    if failure is not None:
        raise failure


class Embedded:
    """A server: its address, for tests its process number, and what keeps it running."""

    def __init__(self, folder: Path, socket_folder: Path) -> None:
        self.folder = folder
        self.socket_folder = socket_folder
        self.dsn = f"postgresql://{cluster.USER}@/{cluster.DATABASE}?host={urllib.parse.quote(str(socket_folder))}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])

    @property
    def own(self) -> bool:
        """Whether this process started it."""
        return self._process is not None

    async def start(self) -> None:
        """Start it, unless it runs already. Raises OSError, ConfigError."""
        self._process = None
        if cluster.is_cut_off(self.folder):
            await self.stop()
        if await self._runs():
            log.info("embedded.found_running")
            return
        cluster.remove_stale_locks(self.folder, self.socket_folder)
        cluster.make_private(self.socket_folder)
        self._process = cluster.spawn(self.folder, self.socket_folder)

    async def ready(self) -> bool:
        """Wait for as long as it starts; return whether it answers (False: it has ended instead)."""
        loop = asyncio.get_running_loop()
        started_s = reminded_s = loop.time()
        for pause_s in delays(0.05, 1.0):
            answer = await self.answers()
            if answer is Answer.YES:
                return True
            if answer is Answer.NONE and self._number() is None:
                return False
            if loop.time() - reminded_s >= REMIND_S:
                reminded_s = loop.time()
                log.info("embedded.starting", waited_s=round(reminded_s - started_s), hint=_see(self.folder))
            await asyncio.sleep(pause_s)
        raise AssertionError("delays() is endless")

    async def supervise(self) -> None:
        """Start it again whenever it has ended, for ever."""
        loop = asyncio.get_running_loop()
        pauses = delays(FIRST_DELAY_S, MAX_DELAY_S)
        ended = False
        while True:
            if await self.ready():
                if ended:
                    log.info("embedded.restarted", pid=self._number())
                since_s = loop.time()
                await self._end()
                if loop.time() - since_s > STEADY_S:
                    pauses = delays(FIRST_DELAY_S, MAX_DELAY_S)
            ended = True
            pause_s = next(pauses)
            code = self._process.returncode if self._process else None
            log.warning("embedded.ended", exit_code=code, retry_s=round(pause_s, 1), hint=_see(self.folder))
            await asyncio.sleep(pause_s)
            try:
                await self.start()
            except (OSError, ConfigError) as exc:
                log.error("embedded.not_started", error=str(exc))

    async def stop(self) -> None:
        """Shut it down fast; it may be one that this process did not start and cannot wait for."""
        pid = self._number()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                # Not until postmaster.pid is gone: a server that is killed meanwhile leaves it.
                while self._number() == pid:
                    await asyncio.sleep(0.05)

    async def answers(self) -> Answer:
        """Ask it."""
        try:
            connection = await asyncpg.connect(self.dsn, timeout=CONNECT_TIMEOUT_S)
            await connection.close(timeout=CONNECT_TIMEOUT_S)
        except (asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError, TimeoutError):
            return Answer.NOT_YET
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return Answer.NONE
        except asyncpg.PostgresError:
            return Answer.YES  # a refusal is an answer
        return Answer.YES

    async def _end(self) -> None:
        while await self._runs():
            if cluster.is_cut_off(self.folder):
                await self.stop()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _runs(self) -> bool:
        return self._number() is not None or await self.answers() is not Answer.NONE

    def _number(self) -> int | None:
        """Return the number of the server's process, which is reaped here if it was a child that has ended."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        return cluster.postmaster(self.folder)


async def _listening_in(folder: Path) -> Path | None:
    """Return the socket folder of a server that is there already; where none answers, a folder is not used again."""
    for _ in range(100):  # 5 s for a server that was started a moment ago and has not written it down yet
        if cluster.recorded_socket(folder) is not None or cluster.postmaster(folder) is None:
            break
        await asyncio.sleep(0.05)
    socket = cluster.recorded_socket(folder)
    if socket is None or not cluster.is_usable(socket):
        return None
    if cluster.postmaster(folder) is None and await Embedded(folder, socket.parent).answers() is Answer.NONE:
        return None
    return socket.parent


async def _first_answer(server: Embedded, within_s: float | None) -> None:
    try:
        async with asyncio.timeout(within_s):
            for pause_s in START_AGAIN_S:
                if await server.ready():
                    return
                await asyncio.sleep(pause_s)
                await server.start()
            answers = await server.ready()
    except TimeoutError:
        return
    if not answers and within_s is None:
        raise DatabaseUnavailableError("the embedded PostgreSQL does not start", hint=_see(server.folder))


def _see(folder: Path) -> str:
    return f"see {folder.parent / 'postgres.log'}"
