"""What a hostile or broken venue can do to one connection: the daemon's stream survives it, names it and goes on.

The venues are bare TCP on loopback. The marks in the spool are what the gaps are made of (tests/test_feed_outage.py).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from harness.raw_venue import Line, Script, closing, frame, let_in, messages, playing, sending
from harness.streaming import recorded, recording, venue, welcome
from harness.waiting import until
from structlog.testing import capture_logs

from recio_ingest import backoff, guard, metrics, opening, stream
from recio_ingest.feeds import coinbase
from recio_ingest.records import Frame, Kind
from recio_ingest.settings import Coinbase
from recio_ingest.spool import Spool
from recio_ingest.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

LAST = b'{"type":"last"}'
MEMORY_BYTES = 24 * 2**20
GOOD = sending(*messages(LAST))


@pytest.fixture(autouse=True)
def _leave_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of these venues never answer a close."""
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT_S", 0.05)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits; what is measured here is not how long they are."""
    monkeypatch.setattr(stream, "WAITS_S", (0.01, 0.02))
    monkeypatch.setattr(backoff, "_BY_CAUSE_S", {})
    monkeypatch.setattr(guard, "CLOSE_TIMEOUT_S", 0.1)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _counted(cause: str) -> float:
    value: float = metrics.RECONNECTS.labels("coinbase", cause)._value.get()
    return value


@asynccontextmanager
async def _growth() -> AsyncIterator[list[int]]:
    """How much the resident memory of this process, venue included, grows at most meanwhile."""
    before, most = _resident_bytes(), [0]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], _resident_bytes() - before)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(watch())
    try:
        yield most
    finally:
        task.cancel()


async def _until_last(spool: Spool, within_s: float = 10) -> list[Frame]:
    """The frames of a spool up to the message of a venue that behaves."""
    frames: list[Frame] = []
    async with asyncio.timeout(within_s):
        while not (frames and frames[-1].data == LAST):
            frames += await spool.read(frames[-1].frame_no if frames else spool.start_no - 1, 1)
    return frames


def _ends(frames: list[Frame]) -> list[str]:
    return [orjson.loads(each.data)["cause"] for each in frames if each.kind == Kind.DISCONNECTED]


def _flood(part: bytes, times: int) -> list[bytes]:
    return [part * 20_000] * (times // 20_000)


MALFORMED = {
    "W7 a frame of 2^62 bytes": ([frame(0x81, b"x", 2**62)], "oversize"),
    "W7 a frame of 2^63 bytes": ([frame(0x81, b"x", 2**63)], "oversize"),
    "W7 a message of 50 MB": ([frame(0x82, b"", 50_000_000), *[bytes(1_000_000)] * 50], "oversize"),
    "W7 a message of 50 MB in fragments": ([frame(0x01), *[frame(0x00, bytes(60_000))] * 800], "oversize"),
    "W8 empty fragments without end": ([frame(0x01), *_flood(frame(0x00), 400_000)], "protocol"),
    "W8 fragments of a byte without end": ([frame(0x01), *_flood(frame(0x00, b"x"), 400_000)], "protocol"),
    "W8 a flood of pings": (_flood(frame(0x89), 400_000), "protocol"),
    "W8 a flood of the longest pings": ([frame(0x89, bytes(125)) * 1000] * 100, "protocol"),
    "W8 a message inside of another": ([frame(0x01, b"{"), frame(0x81, b"{}")], "protocol"),
    "W8 a continuation of nothing": ([frame(0x80, b"{}")], "protocol"),
    "W9 a compressed message, unasked": ([frame(0xC1, b"\xaa\xae\x05\x00")], "protocol"),
    "W10 reserved bit 2": ([frame(0xA1, b"{}")], "protocol"),
    "W10 reserved bit 3": ([frame(0x91, b"{}")], "protocol"),
    "W10 a reserved opcode": ([frame(0x83, b"{}")], "protocol"),
    "W10 a reserved control opcode": ([frame(0x8B)], "protocol"),
    "W10 a server's frame with a mask": ([b"\x81\x82\x01\x02\x03\x04zy"], "protocol"),
    "W10 a ping in fragments": ([frame(0x09)], "protocol"),
    "W10 a ping that is too long": ([frame(0x89, bytes(126))], "protocol"),
    "W10 a close whose reason is no UTF-8": ([closing(1000, b"\xff\xfe")], "protocol"),
    "W10 a close with half a code": ([frame(0x88, b"\x03")], "protocol"),
    "W10 a close with a code that is none": ([closing(1005)], "protocol"),
}


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("parts", "cause"), MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_frame(tmp_path: Path, parts: list[bytes], cause: str) -> None:
    """It ends that connection with its own cause, takes no memory, and the next connection records."""
    before = _counted(cause)
    async with playing(sending(*parts), GOOD) as raw, _growth() as grown, recording(tmp_path, raw.url) as (_, spool):
        frames = await _until_last(spool)
    assert _ends(frames) == [cause]
    assert _counted(cause) == before + 1
    assert [each.kind for each in frames].count(Kind.CONNECTED) == 2
    assert grown[0] < MEMORY_BYTES


async def _reset(line: Line) -> None:
    await line.confirm()
    line.reset()


async def _fin(line: Line) -> None:
    await line.confirm()


CLOSES = {
    "W1 1000": (sending(closing(1000)), "closed", 2.0),
    "W1 1001 going away": (sending(closing(1001)), "going_away", 0.2),
    "W1 without a code": (sending(frame(0x88)), "closed", 2.0),
    "W2 a reset": (_reset, "reset", 2.0),
    "W2 the end of the stream without a close": (_fin, "reset", 2.0),
    "1002 a mistake of ours": (sending(closing(1002)), "protocol", 2.0),
    "1008 against a policy": (sending(closing(1008)), "policy", 5.0),
    "1009 a message of ours is too big": (sending(closing(1009)), "oversize", 2.0),
    "1011 the server's fault": (sending(closing(1011)), "server_error", 5.0),
    "1012 a restart": (sending(closing(1012)), "going_away", 0.2),
    "1013 try again later": (sending(closing(1013)), "server_error", 5.0),
}


@pytest.mark.parametrize(("script", "cause", "wait_s"), CLOSES.values(), ids=CLOSES)
async def test_a_close(tmp_path: Path, script: Script, cause: str, wait_s: float) -> None:
    """Each kind of end has its cause and its first wait: prompt, or as long as a venue in trouble should be left."""
    with capture_logs() as lines:
        async with playing(script) as raw, recording(tmp_path, raw.url) as (_, spool):
            frames = await recorded(spool, 3)
            await until(lambda: asyncio.sleep(0, lines[1:]), within_s=5, what="the line")
    assert _ends(frames) == [cause]
    told = next(line for line in lines if line["event"] == "feed.disconnected")
    assert told["cause"] == cause
    assert told["next_attempt_s"] <= wait_s
    if wait_s == 5.0:
        assert told["next_attempt_s"] >= 2.5


@pytest.mark.parametrize("script", [sending(closing(1001)), _reset, _fin], ids=["close", "reset", "end"])
async def test_a_new_connection_within_two_seconds(tmp_path: Path, script: Script) -> None:
    """W1, W2: with the real waits, recording goes on within two seconds of a close, a reset or an end of the stream."""
    async with playing(script, GOOD) as raw, recording(tmp_path, raw.url) as (_, spool):
        frames = await _until_last(spool)
    down = next(each for each in frames if each.kind == Kind.DISCONNECTED)
    assert frames[-1].recv_ns - down.recv_ns < 2_000_000_000


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "parts",
    [
        [bytes((byte,)) for byte in frame(0x81, b"x" * 100)],
        [frame(0x01, b"{"), *[frame(0x00, b"x")] * 100],
    ],
    ids=["a frame byte by byte", "a message fragment by fragment"],
)
async def test_a_slow_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[bytes]) -> None:
    """W6: a message that is begun and not finished in time ends the connection, though something always comes."""
    monkeypatch.setattr(guard, "MESSAGE_WITHIN_S", 0.3)
    async with playing(sending(*parts, every_s=0.05), GOOD) as raw, recording(tmp_path, raw.url) as (_, spool):
        frames = await _until_last(spool)
    assert _ends(frames) == ["slow"]
    took_s = (frames[2].recv_ns - frames[1].recv_ns) / 1e9
    assert 0.3 < took_s < 1.5


@pytest.mark.usefixtures("_quick")
async def test_many_messages_are_not_one_slow_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W6: reads that always end in the middle of another message are no slowness."""
    monkeypatch.setattr(guard, "MESSAGE_WITHIN_S", 0.1)
    stuff = b"".join(messages(*[b'{"type":"odd","n":%d}' % n for n in range(100, 300)])) + messages(LAST)[0]
    parts = [stuff[at : at + 101] for at in range(0, len(stuff), 101)]
    async with playing(sending(*parts, every_s=0.01)) as raw, recording(tmp_path, raw.url) as (_, spool):
        frames = await _until_last(spool)
    assert _ends(frames) == []
    assert len(frames) == 203


@pytest.mark.usefixtures("_quick")
async def test_a_slow_handshake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W6: an answer that comes byte by byte is not waited for beyond the limit, and leaves no mark."""
    monkeypatch.setattr(opening, "OPEN_TIMEOUT_S", 0.3)
    count = itertools.count()

    async def drip(line: Line) -> None:
        if next(count):
            return await let_in(line)
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n":
            await line.write(bytes((byte,)))
            await asyncio.sleep(0.05)
        return None

    before = _counted("timeout")
    async with playing(GOOD, handshake=drip) as raw, recording(tmp_path, raw.url) as (_, spool):
        frames = await _until_last(spool)
    assert [each.kind for each in frames[:-2]] == [Kind.CONNECTED]
    assert _counted("timeout") == before + 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 503 no\r\nContent-Length: 999999999999\r\n\r\n" + bytes(5_000_000),
        b"\0" * 5_000_000,
    ],
    ids=["a web page", "ssh", "headers without end", "a body without end", "zeros"],
)
@pytest.mark.usefixtures("_quick")
async def test_no_venue_at_all(tmp_path: Path, answer: bytes) -> None:
    """W6: what answers a handshake with something else is left with the cause `handshake`, and takes no memory."""

    async def speak(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        with suppress(OSError):
            await line.write(answer)
        await line.read_on()

    before = _counted("handshake")
    async with playing(GOOD, handshake=speak) as raw, _growth() as grown, recording(tmp_path, raw.url) as (_, spool):
        await until(lambda: asyncio.sleep(0, _counted("handshake") > before), within_s=5, what="the attempt to fail")
        assert spool.durable_count == 0
    assert grown[0] < MEMORY_BYTES


@pytest.mark.usefixtures("_quick")
async def test_no_compression(tmp_path: Path) -> None:
    """W9: compression is not offered, and a venue that uses it all the same is left at the handshake."""
    offered: list[str] = []

    def force(_: ServerConnection, request: Request, response: Response) -> None:
        offered.extend(request.headers.get_all("Sec-WebSocket-Extensions"))
        response.headers["Sec-WebSocket-Extensions"] = "permessage-deflate"

    before = _counted("handshake")
    async with venue(welcome, process_response=force) as url, recording(tmp_path, url):
        await until(lambda: asyncio.sleep(0, _counted("handshake") > before), within_s=5, what="the refusal")
    assert offered == []


@pytest.mark.usefixtures("_quick")
async def test_text_that_is_no_utf8_is_kept(tmp_path: Path) -> None:
    """W10: it is recorded byte by byte, for the quarantine; the connection stays, as with any other odd message."""
    async with playing(sending(*messages(b'{"type":"\xff"}', LAST))) as raw, recording(tmp_path, raw.url) as (_, spool):
        frames = await _until_last(spool)
    assert frames[2].data == b'{"type":"\xff"}'
    assert _ends(frames) == []


@pytest.mark.usefixtures("_quick")
async def test_too_much_garbage(tmp_path: Path) -> None:
    """W11: a hundred messages that are no JSON are recorded and borne; one more ends the connection."""
    odd = messages(*[b"<html>"] * 150)
    borne = sending(*odd[:100], *messages(LAST))
    async with playing(borne) as raw, recording(tmp_path / "borne", raw.url) as (_, spool):
        assert _ends(await _until_last(spool)) == []
    async with playing(sending(*odd), GOOD) as raw, recording(tmp_path / "over", raw.url) as (_, spool):
        frames = await _until_last(spool)
    assert _ends(frames) == ["garbage"]
    assert sum(each.data == b"<html>" for each in frames) == 101


async def test_an_own_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W18: a clock that jumps back an hour, or ahead a day, between messages ends no connection and delays nothing."""
    monkeypatch.setattr(coinbase, "IDLE_TIMEOUT_S", 0.5)
    offsets_s = itertools.cycle([0, -3600, 86_400, -86_400, 0])

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        for n in range(12):
            await connection.send(b'{"type":"odd","n":%d}' % n)
            await asyncio.sleep(0.1)
        await connection.send(LAST)
        await connection.wait_closed()

    async with venue(handler) as url:
        feed = coinbase.feed(Coinbase(url=url))
        with Spool(tmp_path / "spool", [feed.name], sync_interval_s=0) as spool:
            reader = Stream(feed, spool, now_ns=lambda: time.time_ns() + next(offsets_s) * 10**9)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in (spool.run(), reader.run())]
                frames = await _until_last(spool)
                assert reader.status.received >= 8
                for task in tasks:
                    task.cancel()
    assert _ends(frames) == []
    assert len(frames) == 15


async def test_a_limit_is_left_in_peace(tmp_path: Path) -> None:
    """W24: 429 is waited out for as long as its Retry-After says."""

    def refuse(connection: ServerConnection, _: Request) -> Response:
        response = connection.respond(429, "slowly\n")
        response.headers["Retry-After"] = "77"
        return response

    with capture_logs() as lines:
        async with venue(welcome, process_request=refuse) as url, recording(tmp_path, url):
            await until(lambda: asyncio.sleep(0, lines), within_s=5, what="the line")
    assert (lines[0]["cause"], lines[0]["next_attempt_s"]) == ("rate_limited", 77.0)


@pytest.mark.parametrize(("data", "prompt"), [(b'{"type":"odd"}', True), (b"", False)], ids=["data", "silence"])
async def test_only_good_data_makes_the_next_attempt_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, *, prompt: bool
) -> None:
    """W24: an hour of a confirmed subscription without data is no good connection; one over which data flowed is."""
    monkeypatch.setattr(stream, "HEALTHY_S", 0.1)
    monkeypatch.setattr(stream, "SECOND_NS", 10_000_000)
    monkeypatch.setattr(stream, "WAITS_S", (0.02, 30.0))
    gone_s: list[float] = []
    came_s: list[float] = []

    async def handler(connection: ServerConnection) -> None:
        came_s.append(time.monotonic())
        await welcome(connection)
        for _ in range(12):
            if data:
                await connection.send(data)
            await asyncio.sleep(0.02)
        gone_s.append(time.monotonic())

    async with venue(handler) as url, recording(tmp_path, url):
        await until(lambda: asyncio.sleep(0, len(came_s) > 5), within_s=20, what="connections", every_s=0.01)
    waits_s = [came - gone for gone, came in zip(gone_s, came_s[1:], strict=False)]
    assert (waits_s[4] < 0.1) is prompt


async def test_a_thousand_flaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W28: a venue that lets in, confirms and hangs up is never asked in a fast loop, and costs no file descriptor."""
    cap_s = 0.002
    monkeypatch.setattr(stream, "WAITS_S", (cap_s / 16, cap_s))
    came_s: list[float] = []
    open_files: list[int] = []

    async def flap(line: Line) -> None:
        came_s.append(time.monotonic())
        open_files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        await line.confirm()
        await line.write(closing(1000))

    with capture_logs():
        async with playing(flap) as raw, recording(tmp_path, raw.url):
            await until(lambda: asyncio.sleep(0, len(came_s) >= 1000), within_s=60, what="flaps", every_s=0.05)
    assert max(open_files[-100:]) <= max(open_files[:10]) + 4
    pauses_s = [after - before for before, after in itertools.pairwise(came_s)]
    assert min(pauses_s[10:]) >= cap_s / 2


def test_a_dead_peer_is_found_within_ten_seconds() -> None:
    """W3, W5: at the worst moment, a ping's interval, its timeout and the close's take less than ten seconds in all."""
    assert guard.PING_INTERVAL_S + guard.PING_TIMEOUT_S + guard.CLOSE_TIMEOUT_S < 10
    assert guard.MESSAGE_WITHIN_S < guard.PING_INTERVAL_S + guard.PING_TIMEOUT_S  # so that slowness is told as such
