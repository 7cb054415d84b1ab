"""Who is not let in, or not to everything: one clear line, no hammering, and whatever can be had is recorded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness.daemon import Daemon
from harness.databases import fresh_database
from harness.kalshi_client import RSA
from harness.kalshi_live import CALM, Venue, at, more_rows, rows, write_key
from harness.metrics import Metrics, log, logged, metric
from harness.progress import scalar
from harness.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.postgres import PostgresServer

QUIET_S = 2.5
QUOTES = "event_type = 'rest_quote'"
TROUBLE = ("feed.disconnected", "feed.clock_off", "channel.refused", "channel.error", "poll.failed", "market.refused")
WRONG = {
    "nobody": ("NOT_FOUND", "Kalshi does not know feeds.kalshi.key_id"),
    "rsa": ("INCORRECT_API_KEY_SIGNATURE", "key_file does not belong to feeds.kalshi.key_id"),
}


async def _figure(daemon: Daemon, name: str, **labels: str) -> float | None:
    return (await Metrics.of(daemon))(name, feed="kalshi", **labels)


def _told(lines: list[dict[str, Any]], *facts: str) -> list[tuple[Any, ...]]:
    return [tuple(line.get(fact) for fact in ("event", "level", *facts)) for line in lines]


async def _refused(dsn: str, folder: Path, venue: Venue, key_id: str) -> None:
    words, hint = WRONG[key_id]
    async with Daemon(folder, dsn, kalshi=at(venue, folder, key_id)) as daemon:
        await daemon.start()
        await logged(daemon, "feed.disconnected")

        async def polled_again() -> bool:
            query = f"SELECT count(DISTINCT frame_no) FROM live_data.websocket_market_data WHERE {QUOTES}"
            return int(await scalar(dsn, query)) > 1

        await until(polled_again, within_s=20, what="quotes of two polls", every_s=0.1)
        (line,) = log(daemon, *TROUBLE)
        assert (line["level"], line["cause"]) == ("warning", "unauthorised")
        assert words in line["error"]
        assert line["hint"].startswith(hint)
        assert line["next_attempt_s"] >= 15
        assert venue.knocks(key_id) == 1
        assert await _figure(daemon, "reconnects_total", cause="unauthorised") == 1
        assert await _figure(daemon, "feed_connected") == 0
        status = await daemon.status()
        assert "feed kalshi: not connected (unauthorised)" in status["problems"]
        assert await daemon.terminate() == 0


async def test_a_wrong_key_is_one_line(postgres: PostgresServer, template: str, tmp_path: Path) -> None:
    """A key that the venue does not know, or not so, is said once, asked again rarely, and REST gives the quotes."""
    async with (
        Venue(**CALM) as venue,
        fresh_database(postgres, template) as first,
        fresh_database(postgres, template) as second,
        asyncio.TaskGroup() as group,
    ):
        for dsn, key_id in zip((first, second), WRONG, strict=True):
            group.create_task(_refused(dsn, tmp_path / key_id, venue, key_id))


async def test_a_clock_ahead_is_only_measured(database: str, tmp_path: Path) -> None:
    """The venue lets in who signs with a time to come: no line, no second attempt, but the metric shows the clock."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        venue.clock_offset_s = -60
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        skew_s = await _figure(daemon, "clock_skew_seconds")
        assert skew_s is not None
        assert 58 < skew_s < 62
        assert (log(daemon, *TROUBLE), venue.knocks("ed")) == ([], 1)
        assert await daemon.terminate() == 0


async def test_a_wrong_clock_is_corrected(database: str, tmp_path: Path) -> None:
    """A clock a minute behind the venue's costs one refusal: the next signature has the venue's time."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        venue.clock_offset_s = 60
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        await more_rows(database, "venue = 'cfbenchmarks'", "btc_price_log")
        (line,) = log(daemon, *TROUBLE)
        assert (line["event"], line["level"]) == ("feed.clock_off", "warning")
        assert -62 < line["off_s"] < -58
        assert "timedatectl set-ntp true" in line["hint"]
        assert venue.knocks("ed") == 2
        assert await _figure(daemon, "reconnects_total", cause="unauthorised") == 1
        skew_s = await _figure(daemon, "clock_skew_seconds")
        assert skew_s is not None
        assert -62 < skew_s < -58
        await venue.disconnect()  # the next connection knows the venue's time already
        await venue.subscribed()
        assert venue.knocks("ed") == 3
        assert await daemon.terminate() == 0


async def test_no_right_to_the_index(database: str, tmp_path: Path) -> None:
    """A key without the right to the index records all the rest; that it lacks is said once, and the feed is up."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        venue.revoke("cfbenchmarks_value")
        await daemon.start()
        await venue.subscribed(channels=3)
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        await more_rows(database, "event_type = 'trade'")
        await asyncio.sleep(QUIET_S)
        (line,) = log(daemon, *TROUBLE)
        facts = (line["event"], line["level"], line["channel"], line["code"])
        assert facts == ("channel.refused", "warning", "cfbenchmarks_value", 9)
        assert line["hint"].startswith("give the key at feeds.kalshi.key_id the right to this channel")
        assert await _figure(daemon, "feed_incomplete") == 1
        feed = (await daemon.status())["feeds"]["kalshi"]
        assert (feed["connected"], feed["cause"]) == (True, "cfbenchmarks_value: Authentication required (code 9)")
        assert venue.knocks("ed") == 1
        assert await rows(database, "true", "btc_price_log") == 0
        assert await daemon.terminate() == 0


@pytest.mark.parametrize(("channel", "level", "up"), [("cfbenchmarks_value", "warning", 1), ("ticker", "error", 0)])
async def test_a_right_is_taken_away(database: str, tmp_path: Path, channel: str, level: str, up: int) -> None:
    """A channel that is taken away ends, the next try says why; the others stay, on the same connection."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        venue.revoke(channel)
        await logged(daemon, "channel.refused", 2)
        if channel == "ticker":
            await more_rows(database, QUOTES)
        await more_rows(database, "event_type = 'trade'")
        await metric(daemon, up, "feed_connected", feed="kalshi")
        lines = log(daemon, *TROUBLE)
        assert _told(lines, "channel", "code") == [
            ("channel.refused", "warning", channel, 10),
            ("channel.refused", level, channel, 9),
        ]
        assert lines[1]["hint"].startswith("give the key at feeds.kalshi.key_id the right to this channel")
        assert venue.knocks("ed") == 1
        assert len(venue.holds("ed")) == 3
        problems = (await daemon.status())["problems"]
        assert problems == ([] if up else ["feed kalshi: not connected (ticker: Authentication required (code 9))"])
        assert await daemon.terminate() == 0


async def test_a_key_expires(database: str, tmp_path: Path) -> None:
    """A key that expires while connected is said once for what it is; quotes come by REST from then on."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        await venue.expire("ed")
        await logged(daemon, "feed.disconnected", 2)
        await more_rows(database, QUOTES)
        lines = log(daemon, *TROUBLE)
        assert _told(lines, "cause") == [
            ("feed.disconnected", "warning", "policy"),
            ("feed.disconnected", "warning", "unauthorised"),
        ]
        assert lines[1]["hint"].startswith("the key has expired: make a new one at Kalshi")
        assert venue.knocks("ed") == 2
        assert await _figure(daemon, "reconnects_total", cause="unauthorised") == 1
        assert await _figure(daemon, "feed_connected") == 0
        assert await _figure(daemon, "gap_open") == 1
        assert await daemon.terminate() == 0


def _keys(folder: Path) -> Mapping[str, tuple[dict[str, str], str]]:
    """Sections that no key can be had from, and the words that say so."""
    odd = folder / "odd.pem"
    odd.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0aW5zaWRl\n-----END PRIVATE KEY-----\n")
    odd.chmod(0o600)
    open_to_all = write_key(folder / "open.pem", RSA, 0o644)
    return {
        "missing": ({"key_id": "x", "key_file": str(folder / "none.pem")}, "none.pem cannot be read"),
        "open": ({"key_id": "x", "key_file": str(open_to_all)}, "is open to others (mode 0644)"),
        "no key": ({"key_id": "x", "key_file": str(odd)}, "holds no private key that can be read"),
        "half": ({"key_id": "x", "key_file": ""}, "key_id is set and feeds.kalshi.key_file is not"),
    }


async def test_a_key_of_no_use_is_78(database: str, tmp_path: Path) -> None:
    """A key file that is missing, open to others, no key or not named ends the start with 78 and says what to do."""
    for name, (section, words) in _keys(tmp_path).items():
        daemon = Daemon(tmp_path / name, database, kalshi=section)
        async with daemon:
            await daemon.start()
            assert await daemon.wait_exit() == 78
        said, hint = daemon.stderr.strip().splitlines()
        assert said.startswith("recio-ingest: ")
        assert words in said
        assert hint.startswith("  ")
        assert len(hint) > 20
        for secret in ("c2VjcmV0", "secretinside", *(tmp_path / "open.pem").read_text().splitlines()[1:-1]):
            assert secret not in daemon.stderr + daemon.stdout
        assert not daemon.state_dir.exists()


async def test_the_key_is_nowhere(database: str, tmp_path: Path) -> None:
    """Neither the log, the status page, the metrics nor the spool holds anything of the key or a signature."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        await daemon.start()
        await venue.subscribed()
        pages = [await daemon.get(path) for path in ("/", "/metrics", "/status.json")]
        assert await daemon.terminate() == 0
    key = (tmp_path / "ed.pem").read_bytes().splitlines()[1]
    spooled = [path.read_bytes() for path in daemon.spool.iterdir() if path.is_file()]
    for text in (daemon.stderr.encode(), *(body for _, body in pages), *spooled):
        assert key not in text
        assert b"KALSHI-ACCESS" not in text
    assert spooled
