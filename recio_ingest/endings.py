"""Why a connection to a venue ended, or was not let in."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidStatus, WebSocketException

from recio_ingest.errors import ConfigError, PeerError, RefusedError
from recio_ingest.headers import wait_asked_s


class Ending(NamedTuple):
    """`cause` is a metric label, one of a fixed set; `words` are for people, and `hint` says what to do."""

    cause: str
    words: str
    hint: str = ""
    wait_s: float = 0.0
    """What the venue asked to wait."""
    headers: Mapping[str, str] = {}
    """Of an answer that refused the handshake."""


def explain(exc: BaseException, advise: Callable[[bytes], str]) -> Ending:
    """Return why; `advise` reads the body of an answer that let nobody in."""
    while isinstance(exc, BaseExceptionGroup):  # the receiver and the sender fail together, of the same cause
        exc = exc.exceptions[0]
    words = str(exc) or type(exc).__name__
    if isinstance(exc, ConnectionClosed):
        return _closed(exc, words)
    if isinstance(exc, InvalidStatus):
        status, headers, body = exc.response.status_code, exc.response.headers, exc.response.body or b""
        cause = _STATUSES.get(status, "handshake")
        hint = advise(bytes(body)) if cause == "unauthorised" else ""
        said = body[:200].decode("utf-8", "backslashreplace").strip()
        return Ending(cause, f"{words}: {said}" if said else words, hint, wait_asked_s(headers), headers)
    if isinstance(exc, PeerError):
        return Ending(exc.cause, words)
    if isinstance(exc, InvalidProxy):
        words = f"the proxy that the environment names: {exc.msg}"  # without its password
    cause = next((cause for kind, cause in _CAUSES if isinstance(exc, kind)), "bug")
    return Ending(cause, words, exc.hint if isinstance(exc, ConfigError) else "")


def _closed(exc: ConnectionClosed, words: str) -> Ending:
    """Why a connection that stood has ended: by our own judgement, by the kernel's, by a code, or without a word."""
    why = exc.__cause__
    if isinstance(why, PeerError):
        return Ending(why.cause, str(why))
    if isinstance(why, OSError) and why.errno == errno.ETIMEDOUT:  # nothing was acknowledged; others have no number
        return Ending("timeout", words)
    if exc.rcvd is not None and exc.rcvd_then_sent is not False:
        return Ending(_CLOSES.get(exc.rcvd.code, "closed"), words)
    # Ours: where the peer broke a rule, or did not answer a ping.
    return Ending(_OURS.get(exc.sent.code, "closed") if exc.sent else "reset", words)


# In this order: those in the middle are kinds of OSError.
_CAUSES = (
    (RefusedError, "refused"),
    (ConfigError, "key"),
    (TimeoutError, "timeout"),
    (ssl.SSLError, "tls"),
    (socket.gaierror, "dns"),
    (OSError, "unreachable"),
    (WebSocketException, "handshake"),
)
_CLOSES = {
    1001: "going_away",
    1002: "protocol",
    1006: "reset",
    1007: "protocol",
    1008: "policy",
    1009: "oversize",
    1011: "server_error",
    1012: "going_away",
    1013: "server_error",
    1014: "server_error",
}
"""What a peer says; a code that is not here, 1000 among them, is `closed`."""
_OURS = {1002: "protocol", 1007: "protocol", 1009: "oversize", 1011: "ping"}
_STATUSES = {401: "unauthorised", 403: "unauthorised", 429: "rate_limited"}
