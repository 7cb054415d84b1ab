"""A key or a right that comes back is used again by itself; the long waits before it are made short here."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from harness.kalshi_client import ED, RSA
from harness.kalshi_live import CALM, Venue, at, write_key
from harness.waiting import until
from structlog.testing import capture_logs

from recio_ingest import backoff, metrics
from recio_ingest.feeds import kalshi, kalshi_channels, kalshi_stall
from recio_ingest.poll import Poller
from recio_ingest.settings import Kalshi
from recio_ingest.spool import Spool
from recio_ingest.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOON_S = 0.2


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_BY_CAUSE_S", dict.fromkeys(("unauthorised", "key"), (SOON_S, SOON_S)))
    monkeypatch.setattr(kalshi_channels, "STUCK_DELAY_S", SOON_S)


@asynccontextmanager
async def _following(tmp_path: Path, venue: Venue) -> AsyncIterator[Stream]:
    """Follow a venue into a spool, socket and REST, until left."""
    feed = kalshi.feed(Kalshi.model_validate(at(venue, tmp_path)))
    assert feed.enquiry is not None
    with Spool(tmp_path / "spool", ["kalshi"], sync_interval_s=0) as spool:
        stream, poller = Stream(feed, spool), Poller(feed, feed.enquiry, spool)
        async with asyncio.TaskGroup() as group:
            spooling = group.create_task(spool.run())
            tasks = [group.create_task(each.run()) for each in (stream, poller)]
            try:
                yield stream
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await spool.close()
                await spooling


async def _is(stream: Stream, *, connected: bool) -> None:
    async def look() -> bool:
        gauge = metrics.CONNECTED.labels("kalshi")._value.get()
        return stream.status.connected is connected and gauge == connected

    await until(look, within_s=10, what=f"connected to be {connected}")


def _told(lines: list[Any]) -> list[tuple[str, Any]]:
    return [(line["event"], line.get("cause", line.get("code"))) for line in lines if line["log_level"] != "info"]


async def test_an_expired_key_is_renewed(tmp_path: Path) -> None:
    """A key that expired is refused again and again with one line, and is good again when the venue says so."""
    with capture_logs() as lines:
        async with Venue(**CALM) as venue, _following(tmp_path, venue) as stream:
            await _is(stream, connected=True)
            await venue.expire("ed")
            await until(partial(_knocked, venue, 4), within_s=10, what="more attempts")
            await _is(stream, connected=False)
            venue.restore("ed")
            await _is(stream, connected=True)
            await venue.subscribed()
    assert _told(lines) == [("feed.disconnected", "policy"), ("feed.disconnected", "unauthorised")]
    assert [line["event"] for line in lines if line["event"] == "feed.connected"] == ["feed.connected"] * 2


async def _knocked(venue: Venue, times: int) -> bool:
    return venue.knocks("ed") >= times


async def test_an_exchanged_key_file_is_taken(tmp_path: Path) -> None:
    """A key file that is put right while the daemon runs is read at the next attempt; no restart is needed."""
    with capture_logs() as lines:
        async with Venue(**CALM) as venue, _following(tmp_path, venue) as stream:
            await _is(stream, connected=True)
            write_key(tmp_path / "ed.pem", RSA)
            await venue.disconnect()
            await until(partial(_knocked, venue, 3), within_s=10, what="attempts with the wrong key")
            (tmp_path / "ed.pem").unlink()
            await until(_logged(lines, "key"), within_s=10, what="the missing file in the log")
            write_key(tmp_path / "ed.pem", ED)
            await _is(stream, connected=True)
    assert _told(lines) == [
        ("feed.disconnected", "going_away"),
        ("feed.disconnected", "unauthorised"),
        ("feed.disconnected", "key"),
    ]


def _logged(lines: list[Any], cause: str) -> Any:
    async def look() -> bool:
        return any(line.get("cause") == cause for line in lines)

    return look


@pytest.mark.parametrize("channel", ["cfbenchmarks_value", "ticker"])
async def test_a_right_that_is_given_back_is_used(tmp_path: Path, channel: str) -> None:
    """A channel is asked for again, silently, until the key has the right to it, over the same connection."""
    with capture_logs() as lines:
        async with Venue(**CALM) as venue, _following(tmp_path, venue) as stream:
            await venue.subscribed()
            await _is(stream, connected=True)
            venue.revoke(channel)
            await until(_refused(lines), within_s=10, what="the refusal in the log")
            await asyncio.sleep(5 * SOON_S)  # some more attempts, that say nothing
            assert stream.status.connected is (channel != "ticker")
            venue.grant(channel)
            await venue.subscribed()
            await _is(stream, connected=True)
            assert venue.knocks("ed") == 1
    # An order that was under way when the right went names a subscription that is no more: code 7.
    told = [each for each in _told(lines) if each != ("channel.error", 7)]
    assert told == [("channel.refused", 10), ("channel.refused", 9)]
    assert [line["channel"] for line in lines if line["event"] == "channel.confirmed"] == [channel]


def _refused(lines: list[Any]) -> Any:
    async def look() -> bool:
        return ("channel.refused", 9) in _told(lines)

    return look


async def test_a_stalled_venue_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pongs without data: channels are begun anew, then the connection, until data flows again."""
    monkeypatch.setitem(kalshi_stall._LIMITS_S, "ticker", (1.5, 1.5, 1.5))
    with capture_logs() as lines:
        async with Venue(**CALM) as venue, _following(tmp_path, venue) as stream:
            await venue.subscribed()
            await _is(stream, connected=True)
            venue.hang()
            await until(partial(_knocked, venue, 2), within_s=15, what="another connection")
            venue.unhang()
            await venue.subscribed()
            await _is(stream, connected=True)
            assert venue.knocks("ed") <= 3
    silent = [line["channel"] for line in lines if line["event"] == "channel.refused" and "silent" in line["error"]]
    assert silent[:1] == ["ticker"]
    assert ("feed.disconnected", "refused") in _told(lines)
