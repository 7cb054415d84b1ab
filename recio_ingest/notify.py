"""Tells systemd how the service is: the three messages of sd_notify(3), over its datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

# A full queue empties in far less, and a systemd that hangs must not hold up the feeds for longer.
SEND_WITHIN_S = 1.0


class Notifier:
    """Does nothing where systemd did not start this process."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        watchdog_us = (
            environ.get("WATCHDOG_USEC", "") if environ.get("WATCHDOG_PID") in (None, str(os.getpid())) else ""
        )
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us else 0.0

    def ready(self, status: str) -> None:
        """Frames are recorded."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self, status: str) -> None:
        """Data is moving; without this for `watchdog_s` seconds the service is started anew."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The drain has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # Only a notification: whoever does not get it is no reason to stop recording.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
            datagram.settimeout(SEND_WITHIN_S)
            datagram.sendto(text.encode(), address)
