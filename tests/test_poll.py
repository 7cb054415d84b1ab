"""What a feed asks by REST, against real servers: frames, marks, one line for each change, and waits that grow."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from harness.kalshi_client import simulated
from harness.rest_server import answering
from harness.waiting import until
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from recio_ingest import poll, rest
from recio_ingest.feeds import Feed, Request, kalshi_feed, kalshi_markets, kalshi_questions
from recio_ingest.feeds.kalshi_exchange import Exchange
from recio_ingest.feeds.kalshi_markets import Markets
from recio_ingest.poll import Poller
from recio_ingest.records import Frame, Kind
from recio_ingest.settings import Kalshi
from recio_ingest.spool import Spool

EMPTY = b'{"markets": [], "cursor": ""}'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits, periods and rates a hundred times as short as they are."""
    monkeypatch.setattr(poll, "WAITS_S", (0.02, 0.5))
    monkeypatch.setattr(poll, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(poll, "OUTAGE_AFTER_S", 0.3)
    monkeypatch.setattr(rest, "PER_S", 200)
    monkeypatch.setattr(kalshi_markets, "QUOTES_EVERY_S", 0.05)
    monkeypatch.setattr(kalshi_questions, "RETRY_FIRST_S", 0.05)


def rest_feed(rest_url: str, **more: Any) -> Feed:
    """A feed that has no key, and so no socket."""
    return dataclasses.replace(kalshi_feed.feed(Kalshi(rest_url=rest_url)), **more)


@asynccontextmanager
async def polling(tmp_path: Path, feed: Feed) -> AsyncIterator[tuple[Poller, Spool]]:
    """A poller that records into a spool, until left."""
    assert feed.enquiry is not None
    with Spool(tmp_path / "spool", ["kalshi"], sync_interval_s=0) as spool:
        poller = Poller(feed, feed.enquiry, spool)
        async with asyncio.TaskGroup() as group:
            spooling, asking = group.create_task(spool.run()), group.create_task(poller.run())
            try:
                yield poller, spool
            finally:
                asking.cancel()
                await asyncio.wait([asking])
                await spool.close()
                await spooling


def frames(tmp_path: Path) -> list[Frame]:
    """All frames of a spool that was left."""

    async def read() -> list[Frame]:
        found: list[Frame] = []
        with Spool(tmp_path / "spool", ["kalshi"]) as spool:
            while spool.durable_no >= (after_no := found[-1].frame_no if found else spool.oldest_no - 1):
                if spool.durable_no == after_no:
                    break
                found += await spool.read(after_no, 1000)
        return found

    return asyncio.run(read())


def kinds(found: list[Frame]) -> list[Kind]:
    """Which marks and data there are, in order, with no repetition."""
    seen = [Kind(frame.kind) for frame in found]
    return [kind for at, kind in enumerate(seen) if at == 0 or seen[at - 1] != kind]


def gauge() -> float | None:
    """Whether the feed counts as connected."""
    return REGISTRY.get_sample_value("recio_ingest_feed_connected", {"feed": "kalshi"})


async def asked(counts: Mapping[str, int] | list[Any], least: int, within_s: float = 5) -> None:
    """Wait until so many questions have come."""

    async def enough() -> bool:
        return len(counts) >= least

    await until(enough, within_s=within_s, what=f"{least} questions")


def test_pages_are_frames(tmp_path: Path) -> None:
    """Each page of an answer is a frame, byte for byte and in order, between the marks of the line."""
    pages = {"": b'{"markets":[],  "cursor":"b"}', "b": b'{"cursor":"c","markets":[]}', "c": b'{"markets":[ ]}'}
    queries: list[Mapping[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        queries.append(dict(request.query))
        return web.Response(body=pages[request.query.get("cursor", "")])

    async def main() -> None:
        async with answering(handler) as url, polling(tmp_path, rest_feed(url)) as (poller, _):
            await asked(queries, 9)
            assert poller.status.connected
            assert gauge() == 1
        assert gauge() == 0

    with capture_logs() as lines:
        asyncio.run(main())
    found = frames(tmp_path)
    assert kinds(found) == [Kind.CONNECTED, Kind.DATA, Kind.DISCONNECTED]
    assert [frame.data for frame in found[1:4]] == list(pages.values())
    assert orjson.loads(found[0].data) == {"series": ["KXBTCD"], "by": "rest"}
    assert found[-1].data == b'{"cause":"shutdown"}'
    assert [line["event"] for line in lines] == ["feed.connected", "poll.incomplete"]
    assert "no market of KXBTCD" in lines[1]["lacks"]


def test_with_a_socket_there_are_no_marks(tmp_path: Path) -> None:
    """Where the socket is the line, answers and failures of REST leave data and no marks."""
    count: list[int] = []

    async def handler(_: web.Request) -> web.Response:
        count.append(1)
        return web.Response(body=EMPTY, status=200 if len(count) % 3 else 503)

    async def main() -> None:
        async with answering(handler) as url, polling(tmp_path, rest_feed(url, url="ws://elsewhere")):
            await asked(count, 8)

    asyncio.run(main())
    assert kinds(frames(tmp_path)) == [Kind.DATA]


@pytest.mark.parametrize(("status", "cause"), [(503, "refused"), (429, "rate_limited")])
def test_an_outage_and_its_end(tmp_path: Path, status: int, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is one pair of marks and one pair of lines, however often it was asked meanwhile."""
    monkeypatch.setattr("recio_ingest.backoff._BY_CAUSE_S", {})
    down = False
    count: list[bool] = []

    async def handler(_: web.Request) -> web.Response:
        count.append(down)
        return web.Response(body=EMPTY, status=status if down else 200)

    async def main() -> None:
        nonlocal down
        async with answering(handler) as url, polling(tmp_path, rest_feed(url)) as (poller, _):
            await asked(count, 4)
            down = True
            await asyncio.sleep(0.4)
            assert (poller.status.connected, poller.status.cause, gauge()) == (False, cause, 0)
            down = False
            await until(lambda: asyncio.sleep(0, poller.status.connected), within_s=5, what="the line")
            await asyncio.sleep(0.3)

    with capture_logs() as lines:
        asyncio.run(main())
    found = frames(tmp_path)
    assert kinds(found) == [
        Kind.CONNECTED, Kind.DATA, Kind.DISCONNECTED, Kind.CONNECTED, Kind.DATA, Kind.DISCONNECTED,
    ]  # fmt: skip
    (ended, _) = [orjson.loads(frame.data) for frame in found if frame.kind == Kind.DISCONNECTED]
    assert ended == {"cause": cause}
    assert 2 <= sum(count) <= 12
    told = [line for line in lines if line["event"].startswith("poll.") and line["event"] != "poll.incomplete"]
    assert [(line["event"], line.get("cause")) for line in told] == [("poll.failed", cause), ("poll.recovered", None)]
    assert lines.count(told[0]) == 1
    assert told[0]["next_attempt_s"] >= 0


def test_waits_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that refuses everything is asked a few times, with waits that double."""
    monkeypatch.setattr(poll, "WAITS_S", (0.03, 30.0))
    times: list[float] = []

    async def handler(_: web.Request) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=500)

    async def main() -> None:
        async with answering(handler) as url, polling(tmp_path, rest_feed(url)):
            await asyncio.sleep(0.9)

    with capture_logs() as lines:
        asyncio.run(main())
    assert 3 <= len(times) <= 8
    assert times[-1] - times[-2] > 4 * (times[1] - times[0])
    assert [line["event"] for line in lines] == ["poll.failed"]
    assert frames(tmp_path) == []


def test_a_limit_is_kept(tmp_path: Path) -> None:
    """A venue that says 429 is left in peace for as long as it asks for, and longer where it asks for nothing."""
    for headers, least_s in (({"Retry-After": "4"}, 4.0), ({}, 2.5)):
        with capture_logs() as lines:
            count: list[int] = []

            async def handler(
                _: web.Request, headers: dict[str, str] = headers, count: list[int] = count
            ) -> web.Response:
                count.append(1)
                return web.Response(status=429, headers=headers)

            async def main(handler: Any = handler) -> None:
                async with answering(handler) as url, polling(tmp_path, rest_feed(url)):
                    await asyncio.sleep(0.2)

            asyncio.run(main())
        assert len(count) == 1
        (line,) = lines
        assert (line["cause"], line["next_attempt_s"] >= least_s) == ("rate_limited", True)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"markets": 5}', b'{"markets": [], "cursor": 5}', b""])
def test_answers_of_another_shape(tmp_path: Path, body: bytes) -> None:
    """What cannot be read is recorded all the same; it is no sign of life, costs one line, and is asked more rarely."""
    count: list[int] = []

    async def handler(_: web.Request) -> web.Response:
        count.append(1)
        return web.Response(body=body)

    async def main() -> None:
        async with answering(handler) as url, polling(tmp_path, rest_feed(url)) as (poller, _):
            await asked(count, 3)
            await asyncio.sleep(0.1)
            assert (poller.status.connected, poller.status.cause) == (False, "shape")

    with capture_logs() as lines:
        asyncio.run(main())
    assert 2 <= len(count) <= 14
    assert {(frame.kind, frame.data) for frame in frames(tmp_path)} == {(Kind.DATA, body)}
    assert [(line["event"], line["cause"]) for line in lines] == [("poll.failed", "shape")]


@pytest.mark.parametrize("odd", [{"status": 400}, {"status": 404}, {"body": b"<html>"}])
def test_one_question_that_fails_is_no_outage(tmp_path: Path, odd: dict[str, Any]) -> None:
    """While other questions are answered, one that never is costs one line and no mark, and holds up none of them."""
    count: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        count.append(request.query["status"])
        return web.Response(**odd) if count[-1] == "unopened" else web.Response(body=EMPTY)

    async def main() -> None:
        async with answering(handler) as url, polling(tmp_path, rest_feed(url)) as (poller, _):
            await asyncio.sleep(0.4)
            assert poller.status.connected

    with capture_logs() as lines:
        asyncio.run(main())
    assert kinds(frames(tmp_path))[-1] == Kind.DISCONNECTED
    assert kinds(frames(tmp_path)).count(Kind.CONNECTED) == 1
    assert count.count("open") >= 5
    assert 2 <= count.count("unopened") <= 8
    assert [line["event"] for line in lines] == ["feed.connected", "poll.failed"]
    assert lines[1]["question"] == "unopened KXBTCD"


def test_everything_refused_is_an_outage(tmp_path: Path) -> None:
    """Where nothing is answered any more, the line is down, also if each refusal could be about its question."""
    good = True

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=EMPTY, status=200 if good else 404)

    async def main() -> None:
        nonlocal good
        async with answering(handler) as url, polling(tmp_path, rest_feed(url)) as (poller, _):
            await until(lambda: asyncio.sleep(0, poller.status.connected), within_s=5, what="the line")
            good = False
            await until(lambda: asyncio.sleep(0, not poller.status.connected), within_s=5, what="its end")

    asyncio.run(main())
    (mark,) = (frame for frame in frames(tmp_path) if frame.kind == Kind.DISCONNECTED)
    assert orjson.loads(mark.data) == {"cause": "refused"}


class Broken(Markets):
    """One with a bug in it."""

    def take(self, request: Request, answer: bytes, now_s: float) -> Request | None:
        """Raise what no one expects, for one of the questions."""
        if "unopened" in request.about:
            raise ZeroDivisionError
        return super().take(request, answer, now_s)


class Dead(Markets):
    """One with a worse bug."""

    def due(self, now_s: float) -> Request | None:
        """Raise what no one expects."""
        raise RecursionError(now_s)


def test_a_bug_does_not_end_the_daemon(tmp_path: Path) -> None:
    """Whatever a venue's module raises, the answer is recorded, it costs one line, and the other questions go on."""
    count: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        count.append(request.query["status"])
        return web.Response(body=EMPTY)

    async def main(markets: Markets) -> None:
        async with answering(handler) as url, polling(tmp_path, rest_feed(url, enquiry=markets)):
            await asyncio.sleep(0.3)

    with capture_logs() as lines:
        asyncio.run(main(Broken(["KXBTCD"])))
    assert count.count("open") > 3
    answers = [frame for frame in frames(tmp_path) if frame.kind == Kind.DATA]
    assert len(count) - 1 <= len(answers) <= len(count)  # the last one may have been under way
    assert [(line["event"], line.get("cause")) for line in lines if line["event"] != "feed.connected"] == [
        ("poll.failed", "bug")
    ]
    count.clear()
    with capture_logs() as lines:
        asyncio.run(main(Dead(["KXBTCD"])))
    assert [(line["event"], line["cause"]) for line in lines] == [("poll.failed", "bug")]
    assert count == []


def test_nobody_there(tmp_path: Path) -> None:
    """A venue that cannot be reached costs one line, no frame and no traceback."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def main() -> None:
        async with polling(tmp_path, rest_feed(f"http://127.0.0.1:{port}")) as (poller, _):
            await asyncio.sleep(0.2)
            assert poller.status.cause == "unreachable"

    with capture_logs() as lines:
        asyncio.run(main())
    assert [(line["event"], line["cause"]) for line in lines] == [("poll.failed", "unreachable")]
    assert frames(tmp_path) == []


def test_the_simulated_venue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the simulated Kalshi all lists are read, page by page; while it hangs the line is down, and then up again."""
    monkeypatch.setattr(rest, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(rest, "BURST", 1000)

    async def main() -> frozenset[str]:
        async with simulated(hour_s=3600.0) as venue:
            feed = rest_feed(venue.rest_url)
            assert isinstance(feed.enquiry, Exchange)
            async with polling(tmp_path, feed) as (poller, _):
                enquiry = feed.enquiry.markets
                await until(lambda: asyncio.sleep(0, len(enquiry.wanted) == 40), within_s=10, what="both lists")
                venue.rest_hang()
                await until(lambda: asyncio.sleep(0, not poller.status.connected), within_s=5, what="the end")
                assert poller.status.cause == "timeout"
                venue.rest_up()
                await until(lambda: asyncio.sleep(0, poller.status.connected), within_s=5, what="the line")
                return enquiry.wanted

    assert len(asyncio.run(main())) == 40
    found = frames(tmp_path)
    assert kinds(found).count(Kind.CONNECTED) == kinds(found).count(Kind.DISCONNECTED) == 2
    assert [orjson.loads(frame.data) for frame in found if frame.kind == Kind.DISCONNECTED] == [
        {"cause": "timeout"},
        {"cause": "shutdown"},
    ]


def test_given_up_questions_are_not_trouble_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that failed and is not asked any more does not stand in the way of the word that all is well."""
    monkeypatch.setattr(poll, "GIVEN_UP_AFTER_S", 0.2)
    monkeypatch.setattr(kalshi_markets, "UNOPENED_EVERY_S", 0.1)
    bad = True

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=EMPTY, status=400 if bad and request.query["status"] == "unopened" else 200)

    async def main() -> None:
        nonlocal bad
        async with answering(handler) as url:
            feed = rest_feed(url)
            async with polling(tmp_path, feed):
                await asyncio.sleep(0.3)
                assert isinstance(feed.enquiry, Exchange)
                feed.enquiry.markets._unopened.clear()
                bad = False
                await asyncio.sleep(0.4)

    with capture_logs() as lines:
        asyncio.run(main())
    assert [line["event"] for line in lines if line["event"] != "poll.incomplete"] == [
        "feed.connected", "poll.failed", "poll.recovered",
    ]  # fmt: skip
