"""The program under test, run as an operator would run it: a configuration file and a process."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.databases import PROGRAM
from harness.waiting import until

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from harness.kalshi_venue import KalshiOracle
    from harness.venue import OracleVenue

READY_WITHIN_S = 30.0
# The unit's TimeoutStopSec is longer; a drain that takes this long is a fault.
STOP_WITHIN_S = 30.0
HTTP_TIMEOUT_S = 5.0


class DaemonEndedError(AssertionError):
    """The program ended when it should have gone on."""


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def toml(value: object) -> str:
    """Write a value as TOML; for strings, numbers, booleans and lists of them JSON is TOML."""
    return json.dumps(value)


class Daemon:
    """One installation: its folder, its configuration, and at most one process at a time."""

    def __init__(
        self,
        folder: Path,
        dsn: str,
        venue: OracleVenue | None = None,
        *,
        kalshi: KalshiOracle | Mapping[str, Any] | None = None,
        cpu: int | None = None,
        within: Sequence[str] = (),
        **settings: dict[str, Any],
    ) -> None:
        """Take more settings as `section={"key": value}`; pin the process to one CPU if `cpu` says which.

        `within` is a command that runs the rest of its line in its own place, as `unshare` does.
        A venue that is not given is off. Kalshi may be given as the keys of its section.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.state_dir, self.cpu, self.within = folder, folder / "state", cpu, within
        self.port = free_port()
        self.settings: dict[str, dict[str, Any]] = {
            "database": {"dsn": dsn},
            "feeds.coinbase": {"enabled": False},
            "feeds.kalshi": {"enabled": False},
            "http": {"port": self.port},
            "log": {"format": "json"},
        }
        if venue is not None:
            self.settings["feeds.coinbase"] = {
                "url": venue.url,
                "rest_url": venue.rest_url,
                "products": list(venue.products),
            }
        if kalshi is not None:
            self.settings["feeds.kalshi"] = dict(kalshi) if isinstance(kalshi, Mapping) else kalshi.section
        for section, keys in settings.items():
            self.settings.setdefault(section, {}).update(keys)
        self._process: Process | None = None

    @property
    def spool(self) -> Path:
        """The folder of its spool."""
        return self.state_dir / "spool"

    def write_config(self) -> Path:
        """Write the configuration file."""
        lines = [f"state_dir = {toml(str(self.state_dir))}"]
        for section, keys in self.settings.items():
            lines += ["", f"[{section}]", *(f"{key} = {toml(value)}" for key, value in keys.items())]
        path = self.folder / f"recio-ingest-{self.port}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    @property
    def process(self) -> Process:
        """The running process."""
        if self._process is None:
            raise RuntimeError("the daemon was not started")
        return self._process

    @property
    def stderr(self) -> str:
        """What it wrote to its standard error since the first start."""
        return self._written("err")

    @property
    def stdout(self) -> str:
        """What it wrote to its standard output since the first start."""
        return self._written("out")

    @property
    def tail(self) -> str:
        """The end of both, for a failed test to show."""
        return self.stdout[-3000:] + self.stderr[-3000:]

    def _written(self, name: str) -> str:
        path = self.folder / f"{self.port}.{name}"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self, *arguments: str) -> None:
        """Start the process; it is not ready yet."""
        if self._process is not None:
            raise RuntimeError("the daemon is running already")
        pin = [] if self.cpu is None else ["taskset", "-c", str(self.cpu)]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "TZ": "UTC"}
        out, err = (self.folder / f"{self.port}.{name}" for name in ("out", "err"))
        with out.open("ab") as stdout, err.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *[*self.within, *pin, str(PROGRAM), "--config", str(self.write_config()), *arguments],
                env=environment,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    async def wait_exit(self, within_s: float = STOP_WITHIN_S) -> int:
        """Wait until it ends by itself, reap it and return its exit code."""
        async with asyncio.timeout(within_s):
            code = await self.process.wait()
        self._process = None
        return code

    async def kill9(self) -> None:
        """Kill it, whatever it is doing, and reap it."""
        if self.process.returncode is not None:
            raise self._ended()
        self.process.kill()
        await self.wait_exit()

    async def terminate(self) -> int:
        """Ask it to drain and end; return its exit code."""
        if self.process.returncode is not None:
            raise self._ended()
        self.process.terminate()
        return await self.wait_exit()

    def _ended(self) -> DaemonEndedError:
        return DaemonEndedError(f"recio-ingest ended with {self.process.returncode}:\n{self.tail}")

    async def wait_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until /readyz says so."""

        async def ready() -> bool:
            if self.process.returncode is not None:
                raise self._ended()
            try:
                return (await self.get("/readyz"))[0] == http.client.OK
            except OSError:
                return False

        await until(ready, within_s=within_s, what="recio-ingest to be ready", every_s=0.05)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Ask its HTTP server."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=HTTP_TIMEOUT_S)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    async def status(self) -> dict[str, Any]:
        """What /status.json says."""
        code, body = await self.get("/status.json")
        if code != http.client.OK:
            raise AssertionError(f"/status.json answered {code}")
        status: dict[str, Any] = json.loads(body)
        return status

    def rss_bytes(self) -> int:
        """Its resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def cpu_seconds(self) -> float:
        """The CPU time that it used so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            code = self._process and self._process.returncode
            print(f"recio-ingest on port {self.port}, exit code {code}, last wrote:\n{self.tail}")
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
