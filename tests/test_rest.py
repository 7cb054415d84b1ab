"""A venue's REST, asked over real sockets: bounded answers, an allowed rate, one word for everything that fails."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
from email.utils import formatdate

import pytest
from aiohttp import web
from harness.kalshi_client import simulated
from harness.rest_server import Handler, answering
from prometheus_client import REGISTRY

from recio_ingest import rest
from recio_ingest.feeds import Request
from recio_ingest.rest import Bucket, RestError, asking

ASK = Request("/markets", {"series_ticker": "A B&C", "limit": "200"})


def counted(feed: str, outcome: str) -> float:
    """How many questions of a feed had this outcome."""
    labels = {"feed": feed, "outcome": outcome}
    return REGISTRY.get_sample_value("recio_ingest_rest_requests_total", labels) or 0.0


async def failing(handler: Handler, feed: str = "rest") -> RestError:
    """What one question to this server is answered with; it must fail."""
    async with answering(handler) as url, asking(feed, url) as client:
        with pytest.raises(RestError) as caught:
            await client.get(ASK)
    return caught.value


async def test_an_answer_is_passed_on_byte_for_byte() -> None:
    """The path and the query reach the venue, and the body comes back as it was sent, whatever it holds."""
    asked: list[tuple[str, str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.path, request.query["series_ticker"], request.headers["User-Agent"]))
        return web.Response(body=b'{"a": 1.10}\xff\x00')

    before = counted("rest", "ok")
    async with answering(handler) as url, asking("rest", f"{url}/") as client:
        assert await client.get(ASK) == b'{"a": 1.10}\xff\x00'
    assert asked == [("/root/markets", "A B&C", "recio-ingest")]
    assert counted("rest", "ok") == before + 1


async def test_the_simulated_venue() -> None:
    """The simulated Kalshi answers a question about markets, says its time, and is refused nothing."""
    async with simulated() as venue, asking("sim", venue.rest_url) as client:
        venue.clock_offset_s = 3000
        answer = await client.get(Request("/markets", {"series_ticker": "KXBTCD", "status": "open"}))
    assert answer.startswith(b'{"markets":[')
    skew_s = REGISTRY.get_sample_value("recio_ingest_clock_skew_seconds", {"feed": "sim"})
    assert skew_s is not None
    assert abs(skew_s + 3000) < 2


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, {}, ("rate_limited", 0.0, False)),
        (429, {"Retry-After": "7"}, ("rate_limited", 7.0, False)),
        (429, {"Retry-After": "99999999"}, ("rate_limited", 3600.0, False)),
        (429, {"Retry-After": formatdate(time.time() + 60)}, ("rate_limited", 0.0, False)),
        (503, {"Retry-After": "3"}, ("refused", 3.0, False)),
        (500, {}, ("refused", 0.0, False)),
        (400, {}, ("refused", 0.0, True)),
        (404, {}, ("refused", 0.0, True)),
        (410, {}, ("refused", 0.0, True)),
        (422, {}, ("refused", 0.0, True)),
        (401, {}, ("forbidden", 0.0, False)),
        (403, {"Retry-After": "7"}, ("forbidden", 7.0, False)),
        (408, {}, ("refused", 0.0, False)),
        (451, {}, ("refused", 0.0, False)),
        (204, {}, ("refused", 0.0, False)),
    ],
)
async def test_refusals(status: int, headers: dict[str, str], expected: tuple[str, float, bool]) -> None:
    """What is no answer has its cause and the wait that was asked for; few statuses are about one question only."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    before = counted("rest", expected[0])
    failure = await failing(handler)
    assert (failure.cause, failure.wait_s, failure.alone) == expected
    assert str(status) in str(failure)
    assert counted("rest", expected[0]) == before + 1


async def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than the limit are not taken in, whether or not they were announced; the connection is given up."""
    monkeypatch.setattr(rest, "MAX_ANSWER_BYTES", 100_000)
    sent_bytes = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent_bytes
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                await response.write(b"x" * 65_536)
                sent_bytes += 65_536
        return response

    failure = await failing(handler)
    assert (failure.cause, failure.alone) == ("oversize", True)
    assert sent_bytes < 50_000_000


async def test_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small body that unpacks to a large one counts as what it unpacks to."""
    monkeypatch.setattr(rest, "MAX_ANSWER_BYTES", 1_000_000)
    bomb = gzip.compress(b"0" * 50_000_000)

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    assert (await failing(handler)).cause in {"oversize", "unreachable"}


async def test_a_venue_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is not answered, or whose answer stops half way, is given up."""
    monkeypatch.setattr(rest, "TIMEOUT_S", 0.2)

    async def mute(_: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    async def stalls(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        await asyncio.sleep(1)
        return response

    for handler in (mute, stalls):
        started_s = time.monotonic()
        failure = await failing(handler)
        assert (failure.cause, failure.alone) == ("timeout", False)
        assert time.monotonic() - started_s < 0.9


async def raw(answer: bytes) -> RestError:
    """What a question to a server that sends these bytes is answered with."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asking("rest", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(RestError) as caught:
            await client.get(ASK)
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\xfe\x00",
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ],
    ids=lambda value: repr(value[:70]),
)
async def test_what_is_no_http(answer: bytes) -> None:
    """A server that speaks something else, breaks off or sends round in circles is unreachable, and nothing worse."""
    failure = await raw(answer)
    assert failure.cause == "unreachable"
    assert str(failure)


async def test_nobody_there() -> None:
    """A port at which nobody listens, and a name that nobody has, are unreachable."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://nobody.invalid"):
        async with asking("rest", url) as client:
            with pytest.raises(RestError) as caught:
                await client.get(ASK)
        assert caught.value.cause == "unreachable"


async def test_no_cookies() -> None:
    """What a venue wants to be told again is neither kept nor told."""
    told: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        told.append(request.headers.get("Cookie", ""))
        return web.Response(headers={"Set-Cookie": "a=b"})

    async with answering(handler) as url, asking("rest", url.replace("127.0.0.1", "localhost")) as client:
        await client.get(ASK)
        await client.get(ASK)
    assert told == ["", ""]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that happens to name a proxy does not lead the questions there."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"{}")

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with answering(handler) as url, asking("rest", url) as client:
        assert await client.get(ASK) == b"{}"


async def test_a_cancelled_question_is_counted_as_such() -> None:
    """Ending the daemon while a question is under way is neither an answer nor a fault of the venue."""

    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(10)
        return web.Response()

    before = counted("rest", "ok"), counted("rest", "cancelled")
    async with answering(handler) as url, asking("rest", url) as client:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.get(ASK)
    assert (counted("rest", "ok"), counted("rest", "cancelled")) == (before[0], before[1] + 1)


async def test_the_rate() -> None:
    """A burst goes through at once; after it, questions go one by one in the order of asking, at the rate."""
    bucket = Bucket(per_s=20, burst=5)
    began_s = time.monotonic()
    times: list[tuple[int, float]] = []

    async def take(number: int) -> None:
        await bucket.take()
        times.append((number, time.monotonic() - began_s))

    async with asyncio.TaskGroup() as group:
        for number in range(15):
            group.create_task(take(number))
    assert [number for number, _ in times] == list(range(15))
    assert times[4][1] < 0.05
    assert all(at_s >= (number - 4) / 20 - 0.01 for number, at_s in times)
    assert times[-1][1] < 1.5


async def test_the_rate_after_a_rest() -> None:
    """However long nothing was asked, no more than a burst goes through at once; a cancelled turn takes nothing."""
    bucket = Bucket(per_s=50, burst=2)
    await asyncio.sleep(0.2)
    for _ in range(2):
        await bucket.take()
    waiting = asyncio.create_task(bucket.take())
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    began_s = time.monotonic()
    await bucket.take()
    assert 0.005 < time.monotonic() - began_s < 0.5
