"""How long a connection whose packets vanish is taken for alive. The kernel would try for a quarter of an hour."""

from __future__ import annotations

import asyncio
import socket

LIMIT = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
# What was sent and not acknowledged, or a probe of a silent line that was not answered.
UNANSWERED_S = 10
# A line is silent while the peer works; from then on the kernel asks whether it is there.
SILENT_S, PROBE_EVERY_S = 5, 2


def limit_unacknowledged(transport: asyncio.BaseTransport, limit_s: float) -> socket.socket | None:
    """Let the kernel end a connection on which it sends in vain for so long; return the socket, if it is one of TCP."""
    carrier: socket.socket | None = transport.get_extra_info("socket")
    if LIMIT is None or carrier is None or carrier.family == socket.AF_UNIX:
        return None
    carrier.setsockopt(socket.IPPROTO_TCP, LIMIT, int(limit_s * 1000))
    return carrier


def give_up_in_time(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end a TCP connection that is not answered for `SILENT_S + UNANSWERED_S`."""
    carrier = limit_unacknowledged(transport, UNANSWERED_S)
    if carrier is None:
        return
    carrier.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S)
    carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
