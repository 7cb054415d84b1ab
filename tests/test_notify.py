"""The messages to systemd: what they say, and that nobody listening is no trouble."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.postgres import short_folder

from recio_ingest import notify
from recio_ingest.notify import Notifier


@pytest.fixture
def address() -> Path:
    """A path for systemd's socket; nothing is bound to it yet."""
    return short_folder("recio-notify-") / "notify"


@contextlib.contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    """The other end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5)
        yield listening


def tell_everything(notifier: Notifier) -> None:
    """Send each of the three messages."""
    notifier.ready("recording")
    notifier.alive("recording")
    notifier.stopping()


def test_three_messages(address: Path) -> None:
    """Ready, alive and stopping arrive as sd_notify(3) spells them, one datagram each."""
    with systemd(str(address)) as listening:
        tell_everything(Notifier({"NOTIFY_SOCKET": str(address)}))
        heard = [listening.recv(4096) for _ in range(3)]

    assert heard == [b"READY=1\nSTATUS=recording", b"WATCHDOG=1\nSTATUS=recording", b"STOPPING=1"]


def test_abstract_address() -> None:
    """An address that begins with @ is in the abstract namespace, where a NUL stands for it."""
    name = f"recio-notify-{os.getpid()}"
    with systemd(f"\0{name}") as listening:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert listening.recv(4096) == b"STOPPING=1"


def test_nobody_listens(address: Path) -> None:
    """A socket that is missing, dead or impossible, and no socket at all, raise nothing."""
    tell_everything(Notifier({}))
    tell_everything(Notifier({"NOTIFY_SOCKET": str(address)}))
    with systemd(str(address)):
        pass
    assert address.exists()
    tell_everything(Notifier({"NOTIFY_SOCKET": str(address)}))
    tell_everything(Notifier({"NOTIFY_SOCKET": "/" + "x" * 200}))


def test_listener_reads_nothing(address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A systemd whose queue is full holds a message up for a moment and not for ever."""
    monkeypatch.setattr(notify, "SEND_WITHIN_S", 0.1)
    with systemd(str(address)):
        with contextlib.suppress(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
            filling.settimeout(0)
            while True:
                filling.sendto(b"x", str(address))
        began_s = time.monotonic()
        Notifier({"NOTIFY_SOCKET": str(address)}).alive("recording")

    assert 0.1 <= time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    ("pid", "watchdog_s"), [({}, 30.0), ({"WATCHDOG_PID": str(os.getpid())}, 30.0), ({"WATCHDOG_PID": "1"}, 0.0)]
)
def test_watchdog_is_for_this_process(pid: dict[str, str], watchdog_s: float) -> None:
    """The watchdog's time counts only where systemd means this process by it."""
    assert Notifier({"WATCHDOG_USEC": "30000000", **pid}).watchdog_s == watchdog_s
