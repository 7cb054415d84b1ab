"""One feed's socket: what it records, what it says, and how it behaves towards venues that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from itertools import count, cycle
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from harness.kalshi_client import ED, simulated
from harness.streaming import ACK, recorded, recording, venue, welcome
from harness.waiting import until
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from recio_ingest import backoff, guard, stream
from recio_ingest.errors import RefusedError
from recio_ingest.feeds import Feed, Notice, coinbase, kalshi_feed
from recio_ingest.feeds.coinbase_session import CoinbaseSession
from recio_ingest.records import Frame, Kind
from recio_ingest.settings import Coinbase, Kalshi
from recio_ingest.spool import Spool
from recio_ingest.stream import Stream


async def test_records_what_comes(tmp_path: Path) -> None:
    """The subscription names products and channels; every message is a frame, byte for byte, between its marks."""
    asked: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        asked.append(orjson.loads(await connection.recv()))
        await connection.send(orjson.dumps(ACK), text=True)
        await connection.send('{"type":"odd", "n": 1.10}')
        await connection.send(b"\xff\x00")
        await connection.wait_closed()

    async with venue(handler) as url, recording(tmp_path, url) as (reader, spool):
        frames = await recorded(spool, 4)
        assert reader.status.connected
    with Spool(tmp_path / "spool", ["coinbase"]) as again:
        (end,) = await again.read(frames[-1].frame_no, 5)

    assert asked == [{"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "ticker", "heartbeat"]}]
    assert [frame.kind for frame in frames] == [Kind.CONNECTED, Kind.DATA, Kind.DATA, Kind.DATA]
    assert orjson.loads(frames[0].data)["products"] == ["BTC-USD"]
    assert [frame.data for frame in frames[2:]] == [b'{"type":"odd", "n": 1.10}', b"\xff\x00"]
    assert (end.kind, end.data) == (Kind.DISCONNECTED, b'{"cause":"shutdown"}')


async def test_unreachable_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that cannot be reached costs one line and no traceback, however often it is tried."""
    monkeypatch.setattr(stream, "WAITS_S", (0.01, 0.01))
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with capture_logs() as lines:
        async with recording(tmp_path, f"ws://127.0.0.1:{port}") as (reader, _):
            await asyncio.sleep(0.5)
            assert not reader.status.connected

    assert [(line["event"], line["cause"], line["log_level"]) for line in lines] == [
        ("feed.disconnected", "unreachable", "warning")
    ]


async def test_refused_subscription(tmp_path: Path) -> None:
    """What the venue says against the subscription stands in the log, and the connection is given up."""

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type":"error","message":"Failed to subscribe","reason":"X is not valid"}')
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler) as url, recording(tmp_path, url) as (_, spool):
            frames = await recorded(spool, 3)

    assert (frames[2].kind, frames[2].data) == (Kind.DISCONNECTED, b'{"cause":"refused"}')
    assert [(line["cause"], line["error"]) for line in lines] == [("refused", "Failed to subscribe: X is not valid")]


async def test_partly_refused_subscription(tmp_path: Path) -> None:
    """A product that the venue does not confirm is named; the others are recorded."""

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(orjson.dumps({**ACK, "channels": ACK["channels"][:2]}), text=True)
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler) as url, recording(tmp_path, url) as (reader, spool):
            await recorded(spool, 2)
            async with asyncio.timeout(5):
                while not reader.status.connected:
                    await asyncio.sleep(0.01)

    assert (lines[0]["event"], lines[0]["refused"]) == ("feed.partly_refused", "heartbeat of BTC-USD")


async def test_silence_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that confirms and then says nothing, but answers pings, is left after the feed's limit."""
    monkeypatch.setattr(coinbase, "IDLE_TIMEOUT_S", 0.2)

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        await connection.wait_closed()

    async with venue(handler) as url, recording(tmp_path, url) as (_, spool):
        frames = await recorded(spool, 3)

    assert (frames[2].kind, frames[2].data) == (Kind.DISCONNECTED, b'{"cause":"timeout"}')


async def test_kicked_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that accepts, confirms and hangs up is not hammered: the waits grow, as nothing good has come."""
    monkeypatch.setattr(stream, "WAITS_S", (0.06, 30.0))
    connections: list[float] = []

    async def handler(connection: ServerConnection) -> None:
        connections.append(time.monotonic())
        await welcome(connection)

    async with venue(handler) as url, recording(tmp_path, url):
        await asyncio.sleep(1.5)

    assert 3 <= len(connections) <= 7
    assert connections[2] - connections[1] > connections[1] - connections[0] > 0.03


async def test_too_large_message(tmp_path: Path) -> None:
    """A message over the limit ends the connection and never the daemon; its bytes are not taken in."""

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        await connection.send("x" * (guard.MAX_MESSAGE_BYTES + 1))
        await connection.wait_closed()

    async with venue(handler) as url, recording(tmp_path, url) as (_, spool):
        frames = await recorded(spool, 3)

    assert (frames[2].kind, frames[2].data) == (Kind.DISCONNECTED, b'{"cause":"oversize"}')


@pytest.mark.parametrize(("status", "cause"), [(401, "unauthorised"), (429, "rate_limited"), (503, "handshake")])
async def test_refused_handshake(tmp_path: Path, status: int, cause: str) -> None:
    """A handshake that is refused leaves no marks, and one line with its own cause."""

    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(status, "no\n")

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler, process_request=refuse) as url, recording(tmp_path, url) as (_, spool):
            await asyncio.sleep(0.3)
            assert spool.durable_count == 0

    assert [cause] == [line["cause"] for line in lines]


class Noting(CoinbaseSession):
    """One that notes when it is to speak, and for how long nothing was read."""

    def __init__(self) -> None:
        super().__init__(["BTC-USD"])
        self.said, self.paused_s = 0, 0.0

    def say(self, now_s: float) -> Sequence[bytes]:
        """Count."""
        self.said += 1
        return super().say(now_s)

    def resumed(self, paused_s: float) -> None:
        """Add up."""
        self.paused_s += paused_s
        super().resumed(paused_s)


async def test_full_spool_pauses_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its limit the spool stops the reading, puts the pause on record, and goes on when there is room.

    The conversation rests meanwhile: it would take the pause for the venue's silence.
    """
    monkeypatch.setattr(stream, "TALK_EVERY_S", 0.02)
    conversation = Noting()

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        block = b"x" * 500_000
        for _ in range(64):
            await connection.send(block)
        await connection.send('{"type":"last"}')
        await connection.wait_closed()

    with Spool(tmp_path / "spool", ["coinbase"], max_bytes=2**24, retain_s=0, sync_interval_s=0) as spool:
        frames: list[Frame] = []
        async with venue(handler) as url:
            feed = dataclasses.replace(coinbase.feed(Coinbase(url=url)), converse=lambda: conversation)
            reader = Stream(feed, spool)
            async with asyncio.TaskGroup() as group, asyncio.timeout(30):
                spooling, reading = group.create_task(spool.run()), group.create_task(reader.run())
                while not spool.at_limit:
                    await asyncio.sleep(0.01)
                held_bytes = spool.size_bytes
                await asyncio.sleep(0.1)
                said = conversation.said
                await asyncio.sleep(0.3)
                assert spool.size_bytes < held_bytes + 2**23
                assert conversation.said == said
                after_no = spool.start_no - 1
                while not (frames and frames[-1].data == b'{"type":"last"}'):
                    frames += await spool.read(after_no, 20)
                    after_no = frames[-1].frame_no
                    spool.committed(after_no)
                reading.cancel()
                await asyncio.wait([reading])
                await spool.close()
                await spooling

    kinds = [frame.kind for frame in frames]
    assert sum(frame.data[:1] == b"x" for frame in frames) == 64
    assert kinds.count(Kind.PAUSED) == kinds.count(Kind.RESUMED) >= 1
    assert conversation.paused_s >= 0.4
    assert conversation.said > said


def key_file(folder: Path) -> Path:
    """The file of a key that the simulated venue knows as `ed`."""
    path = folder / "key.pem"
    path.write_bytes(ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


def signing(folder: Path, url: str) -> Feed:
    """A feed whose handshakes are signed."""
    return kalshi_feed.feed(Kalshi(url=url, key_id="ed", key_file=str(key_file(folder))))


@contextlib.contextmanager
def stamps(
    dates: Iterator[float], status: int = 401, body: str = "{}"
) -> Iterator[tuple[list[float], dict[str, object]]]:
    """Options of a venue that refuses every handshake and tells these times; how far ahead each stamp was."""
    ahead_s: list[float] = []

    def refuse(connection: ServerConnection, request: Request) -> Response:
        ahead_s.append(int(request.headers["KALSHI-ACCESS-TIMESTAMP"]) / 1000 - time.time())
        return connection.respond(status, body)

    def date(_: ServerConnection, __: Request, response: Response) -> None:
        del response.headers["Date"]
        response.headers["Date"] = formatdate(time.time() + next(dates), usegmt=True)

    yield ahead_s, {"process_request": refuse, "process_response": date}


async def idle(connection: ServerConnection) -> None:
    """Say nothing."""
    await connection.wait_closed()


@pytest.mark.parametrize("off_s", [-86_400, -60, 60, 86_400])
async def test_a_clock_that_is_off_is_corrected_once(tmp_path: Path, off_s: int) -> None:
    """A refusal that tells another time leads to one attempt at once with that time, and then to a long wait."""
    with stamps(cycle([off_s])) as (ahead_s, options), capture_logs() as lines:
        async with venue(idle, **options) as url, recording(tmp_path, url, signing(tmp_path, url)):
            await asyncio.sleep(0.25)

    assert len(ahead_s) == 2
    assert abs(ahead_s[0]) < 1
    assert abs(ahead_s[1] - off_s) < 2
    off, refused = lines
    assert (off["event"], refused["event"], refused["cause"]) == ("feed.clock_off", "feed.disconnected", "unauthorised")
    assert abs(off["off_s"] + off_s) < 2
    assert refused["next_attempt_s"] >= 15


async def test_a_clock_that_is_right_is_not_corrected(tmp_path: Path) -> None:
    """A refusal at the right time is about the key: one attempt, one line with advice, and a long wait."""
    body = '{"error":{"code":"authentication_error","message":"NOT_FOUND"}}'
    with stamps(cycle([0]), body=body) as (ahead_s, options), capture_logs() as lines:
        async with venue(idle, **options) as url, recording(tmp_path, url, signing(tmp_path, url)):
            async with asyncio.timeout(10):
                while not lines:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.25)

    assert len(ahead_s) == 1
    (line,) = lines
    assert "does not know" in line["hint"]
    assert "NOT_FOUND" in line["error"]


async def test_a_clock_that_jumps_about_is_no_hot_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that tells another time with every refusal is asked twice for each wait, and the waits grow."""
    monkeypatch.setattr(backoff, "_BY_CAUSE_S", {"unauthorised": (0.1, 300.0)})
    with stamps(float(n * 1000) for n in count(1)) as (ahead_s, options), capture_logs() as lines:
        async with venue(idle, **options) as url, recording(tmp_path, url, signing(tmp_path, url)):
            await asyncio.sleep(0.8)

    assert 4 <= len(ahead_s) <= 8
    assert [line["event"] for line in lines].count("feed.disconnected") == 1
    assert [line["event"] for line in lines].count("feed.clock_off") <= 4


async def test_a_limit_is_not_a_clock(tmp_path: Path) -> None:
    """A refusal that is not about the key leads to no second attempt, whatever time it tells."""
    with stamps(cycle([86_400]), status=429) as (ahead_s, options), capture_logs() as lines:
        async with venue(idle, **options) as url, recording(tmp_path, url, signing(tmp_path, url)):
            await asyncio.sleep(0.25)

    assert len(ahead_s) == 1
    assert [(line["event"], line["cause"]) for line in lines] == [("feed.disconnected", "rate_limited")]


@pytest.mark.parametrize("body", ["[" * 400 + "]" * 400, "", "\0\x7f"], ids=len)
async def test_any_refusal_can_be_survived(tmp_path: Path, body: str) -> None:
    """Headers that stand there twice, and a body that nobody can read, end the attempt and never the daemon."""

    def refuse(connection: ServerConnection, _: Request) -> Response:
        response = connection.respond(401, body)
        for _again in range(2):
            response.headers["Date"] = "x"
            response.headers["Retry-After"] = "nan"
        return response

    with capture_logs() as lines:
        async with (
            venue(idle, process_request=refuse) as url,
            recording(tmp_path, url, signing(tmp_path, url)) as (reader, _),
        ):
            await until(lambda: asyncio.sleep(0, lines), within_s=5, what="the line")
            assert reader.status.cause == "unauthorised"
    assert [line["event"] for line in lines] == ["feed.disconnected"]


async def test_dates_that_stand_there_twice(tmp_path: Path) -> None:
    """A venue that lets in with two Dates is recorded like any other."""

    def twice(_: ServerConnection, __: Request, response: Response) -> None:
        response.headers["Date"] = "x"
        response.headers["Date"] = "y"

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        await connection.wait_closed()

    async with venue(handler, process_response=twice) as url, recording(tmp_path, url) as (reader, _):
        await until(lambda: asyncio.sleep(0, reader.status.connected), within_s=5, what="the connection")


async def test_the_simulated_venue_lets_in_by_its_own_time(tmp_path: Path) -> None:
    """Where this machine's clock is a minute behind the venue's, the second attempt is signed as the venue wants it."""
    async with simulated() as kalshi:
        kalshi.clock_offset_s = 60.0
        with capture_logs() as lines:
            async with recording(tmp_path, kalshi.url, signing(tmp_path, kalshi.url)) as (_, spool):
                (mark,) = await recorded(spool, 1)
    assert mark.kind == Kind.CONNECTED
    assert [line["event"] for line in lines][:1] == ["feed.clock_off"]


async def test_the_key_is_read_and_used_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has its own signature; a key that is open to others, or gone, is not used until it is mended."""
    monkeypatch.setattr(backoff, "_BY_CAUSE_S", {})
    monkeypatch.setattr(stream, "WAITS_S", (0.02, 0.05))
    signatures: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        signatures.append(connection.request.headers["KALSHI-ACCESS-SIGNATURE"])

    path = tmp_path / "key.pem"

    async def spoil(reader: Stream, cause: str) -> None:
        await until(lambda: asyncio.sleep(0, reader.status.cause == cause), within_s=5, what=cause)
        known = len(signatures)
        await asyncio.sleep(0.2)
        assert len(signatures) == known

    async def more() -> None:
        known = len(signatures)
        await until(lambda: asyncio.sleep(0, len(signatures) > known + 1), within_s=5, what="other attempts")

    with capture_logs() as lines:
        async with venue(handler) as url, recording(tmp_path, url, signing(tmp_path, url)) as (reader, _):
            await more()
            path.chmod(0o644)
            await spoil(reader, "key")
            path.chmod(0o600)
            await more()
            path.unlink()
            await spoil(reader, "key")
            key_file(tmp_path)
            await more()

    assert len(set(signatures)) == len(signatures) > 5
    told = [line for line in lines if line["cause"] == "key"]
    assert [("open to others" in line["error"], "cannot be read" in line["error"]) for line in told] == [
        (True, False),
        (False, True),
    ]
    assert f"chmod 600 {path}" in told[0]["hint"]
    words = "".join(map(repr, lines))
    assert not any(signature in words for signature in signatures)
    assert "PRIVATE" not in words


class Stubborn(CoinbaseSession):
    """One that gives up when it hears a word, or when it is to speak again."""

    def __init__(self, where: str) -> None:
        super().__init__(["BTC-USD"])
        self.ended = 0
        self._where, self._said = where, 0

    def say(self, now_s: float) -> Sequence[bytes]:
        """Give up the second time."""
        self._said += 1
        if self._where == "say" and self._said > 1:
            raise RefusedError("no use")
        return super().say(now_s)

    def hear(self, data: bytes, now_s: float) -> Sequence[Notice]:
        """Give up at once."""
        if self._where == "hear":
            raise RefusedError("no use")
        if self._where == "bug":
            raise ZeroDivisionError
        return super().hear(data, now_s)

    def end(self) -> None:
        """Count."""
        self.ended += 1


@pytest.mark.parametrize(("where", "cause"), [("say", "refused"), ("hear", "refused"), ("bug", "bug")])
async def test_a_conversation_that_gives_up(tmp_path: Path, where: str, cause: str) -> None:
    """Where going on is of no use, the connection is ended with that cause, and another is made."""
    conversations: list[Stubborn] = []

    def converse() -> Stubborn:
        conversations.append(Stubborn(where))
        return conversations[-1]

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler) as url:
            feed = dataclasses.replace(coinbase.feed(Coinbase(url=url)), converse=converse)
            async with recording(tmp_path, url, feed) as (_, spool):
                frames = await recorded(spool, 6)

    marks = [frame for frame in frames if frame.kind != Kind.DATA]
    assert [mark.kind for mark in marks[:3]] == [Kind.CONNECTED, Kind.DISCONNECTED, Kind.CONNECTED]
    assert orjson.loads(marks[1].data) == {"cause": cause}
    assert [each.ended for each in conversations] == [1] * len(conversations)
    assert [line["cause"] for line in lines if line["event"] == "feed.disconnected"] == [cause]


async def test_an_end_that_comes_together_with_a_fault(tmp_path: Path) -> None:
    """A stream that is ended at the moment in which its connection fails ends, and does not connect again."""
    running: list[asyncio.Task[None]] = []

    class Last(CoinbaseSession):
        def say(self, now_s: float) -> Sequence[bytes]:
            del now_s
            running[0].cancel()
            raise RefusedError("no use")

    async with venue(idle) as url:
        feed = dataclasses.replace(coinbase.feed(Coinbase(url=url)), converse=lambda: Last(["BTC-USD"]))
        with Spool(tmp_path / "spool", ["coinbase"]) as spool:
            running.append(asyncio.create_task(Stream(feed, spool).run()))
            done, _ = await asyncio.wait(running, timeout=2)
            running[0].cancel()
            await asyncio.wait(running)
    assert done == set(running)
