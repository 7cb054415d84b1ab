"""Why a connection ended: one cause out of a fixed set, words for people, and what to do."""

from __future__ import annotations

import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
)
from websockets.frames import Close
from websockets.http11 import Response

from recio_ingest.backoff import Waits
from recio_ingest.endings import explain
from recio_ingest.errors import ConfigError, PeerError, RefusedError
from recio_ingest.feeds import kalshi_feed


def silent(_: bytes) -> str:
    """A venue without advice."""
    return ""


def refused(status: int, body: bytes = b"", headers: Headers | None = None) -> InvalidStatus:
    """A handshake that was answered with this."""
    return InvalidStatus(Response(status, "no", headers or Headers(), body))


def caused(why: Exception, sent: Close | None = None) -> ConnectionClosedError:
    """An end without a word from the peer, whose reason is known on this side."""
    exc = ConnectionClosedError(None, sent)
    exc.__cause__ = why
    return exc


@pytest.mark.parametrize(
    ("exc", "cause"),
    [
        (ConnectionClosedOK(Close(1000, ""), None), "closed"),
        (ConnectionClosedError(Close(1001, "going away"), None), "going_away"),
        (ConnectionClosedError(Close(1002, ""), None), "protocol"),
        (ConnectionClosedError(Close(1007, ""), None), "protocol"),
        (ConnectionClosedError(Close(1008, "policy"), None), "policy"),
        (ConnectionClosedError(Close(1009, "too big"), None), "oversize"),
        (ConnectionClosedError(Close(1011, "oops"), None), "server_error"),
        (ConnectionClosedError(Close(1012, "restart"), None), "going_away"),
        (ConnectionClosedError(Close(1013, "later"), None), "server_error"),
        (ConnectionClosedError(None, Close(1002, "rules")), "protocol"),
        (ConnectionClosedError(None, Close(1009, "too big")), "oversize"),
        (ConnectionClosedError(Close(1009, ""), Close(1009, "too big"), rcvd_then_sent=False), "oversize"),
        (ConnectionClosedError(None, Close(1011, "keepalive ping timeout")), "ping"),
        (caused(PeerError("slow", "too slow")), "slow"),
        (caused(TimeoutError(110, "timed out")), "timeout"),
        (caused(TimeoutError(), Close(1011, "keepalive ping timeout")), "ping"),
        (caused(ConnectionResetError(104, "reset")), "reset"),
        (PeerError("garbage", "no JSON"), "garbage"),
        (ConnectionClosedError(Close(4999, "odd"), None), "closed"),
        (ConnectionClosedError(None, None), "reset"),
        (refused(401), "unauthorised"),
        (refused(403), "unauthorised"),
        (refused(429), "rate_limited"),
        (refused(502), "handshake"),
        (InvalidMessage("no HTTP"), "handshake"),
        (InvalidHandshake("odd"), "handshake"),
        (RefusedError("says no"), "refused"),
        (ConfigError("no key"), "key"),
        (TimeoutError(), "timeout"),
        (ssl.SSLCertVerificationError("expired"), "tls"),
        (socket.gaierror(-2, "unknown name"), "dns"),
        (ConnectionRefusedError(111, "refused"), "unreachable"),
        (ZeroDivisionError(), "bug"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_every_end_has_its_cause(exc: Exception, cause: str) -> None:
    """What ended the connection has one word, also from inside a group of errors, and never without any words."""
    ending = explain(exc, silent)
    assert (ending.cause, bool(ending.words)) == (cause, True)
    assert explain(ExceptionGroup("both", [ExceptionGroup("one", [exc])]), silent) == ending


def test_what_an_answer_says_is_passed_on() -> None:
    """The body's beginning, the wait that was asked for and the headers of a refusal are in the ending; advice too."""
    asked: list[bytes] = []

    def advise(body: bytes) -> str:
        asked.append(body)
        return "do this"

    headers = Headers([("Retry-After", "17"), ("Date", "x")])
    ending = explain(refused(401, b'{"error":"no"}' + b"x" * 500, headers), advise)
    assert (ending.hint, ending.wait_s, ending.headers) == ("do this", 17.0, headers)
    assert '{"error":"no"}xxx' in ending.words
    assert len(ending.words) < 300
    assert len(asked[0]) == 514


def test_only_a_refused_key_is_advised_about() -> None:
    """The advice about keys is not given for a limit or for a venue that is down."""
    assert {explain(refused(status), kalshi_feed.advise).hint for status in (404, 429, 500, 503)} == {""}


def test_a_mistake_of_ours_keeps_its_hint() -> None:
    """What to do about a key file stands in the ending."""
    assert explain(ConfigError("no key", hint="chmod"), silent).hint == "chmod"


@given(st.binary(max_size=300), st.sampled_from([401, 403, 429, 500]))
def test_any_body_can_be_explained(body: bytes, status: int) -> None:
    """No answer's body raises anything: what is raised here would end the daemon."""
    explain(refused(status, body), kalshi_feed.advise)


@pytest.mark.parametrize("depth", [300, 900, 5000])
def test_a_deeply_nested_body_can_be_explained(depth: int) -> None:
    """A body that nests deeper than a writer of JSON goes gets the general advice."""
    ending = explain(refused(401, b"[" * depth + b"]" * depth), kalshi_feed.advise)
    assert (ending.cause, ending.hint) == ("unauthorised", kalshi_feed.advise(b""))


def test_headers_that_stand_there_twice_can_be_explained() -> None:
    """An answer with two Retry-Afters is a refusal like any other; the usual wait follows."""
    twice = Headers([("Retry-After", "5"), ("Retry-After", "6"), ("Date", "x"), ("Date", "y")])
    ending = explain(refused(429, b"", twice), silent)
    assert (ending.cause, ending.wait_s) == ("rate_limited", 0.0)


def test_a_refused_key_waits_long() -> None:
    """A refused key is tried again after 15 s at the earliest, a limit or policy after 2.5 s, growing to minutes."""
    for cause, first_s in (("unauthorised", 15.0), ("key", 15.0), ("rate_limited", 2.5), ("policy", 2.5)):
        waits = Waits((0.1, 1.0))
        pauses = [waits.next_s(cause) for _ in range(8)]
        assert pauses[0] >= first_s
        assert 150 <= pauses[-1] <= 300


def test_a_proxys_password_is_not_told() -> None:
    """A proxy that the environment names wrongly is complained about without its address, where a password may be."""
    ending = explain(InvalidProxy("ftp://me:secret@proxy", "scheme ftp isn't supported"), silent)
    assert (ending.cause, "secret" in ending.words, "ftp isn't" in ending.words) == ("handshake", False, True)
