"""Errors of single subscriptions and commands: the daemon records again, over the same connection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.daemon import Daemon
from harness.kalshi_client import START
from harness.kalshi_live import CALM, Venue, at, more_rows
from harness.metrics import log, logged, metric
from harness.waiting import until

from recio_ingest.demo.kalshi_rules import ERRORS

if TYPE_CHECKING:
    import pytest

TICKERS, TRADES = "event_type = 'ticker'", "event_type = 'trade'"
UNKNOWN = 97


async def _renewed(venue: Venue, before: dict[str, int], *channels: str) -> dict[str, int]:
    """Wait until these channels have other sids, and the rest their old ones; return all."""

    async def look() -> bool:
        held = venue.holds("ed")
        return len(held) == 4 and all((held[name].sid != sid) == (name in channels) for name, sid in before.items())

    await until(look, within_s=20, what=f"{channels} to be subscribed to anew")
    await venue.subscribed()
    return {name: held.sid for name, held in venue.holds("ed").items()}


async def _prints(dsn: str) -> None:
    await more_rows(dsn, "venue = 'cfbenchmarks'", "btc_price_log")


async def test_ended_subscriptions_begin_again(database: str, tmp_path: Path) -> None:
    """After errors 10 and 25, for one channel and for all, another subscription is made and data goes on."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        sids = {name: held.sid for name, held in venue.holds("ed").items()}
        for code, channels in ((25, ["ticker"]), (10, ["trade"]), (25, list(sids))):
            for channel in channels:
                await venue.fail(code, sid=venue.holds("ed")[channel].sid)
            sids = await _renewed(venue, sids, *channels)
            await more_rows(database, TICKERS)
            await more_rows(database, TRADES)
            await _prints(database)
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        lines = log(daemon, "channel.refused")
        assert [(line["channel"], line["code"]) for line in lines[:2]] == [("ticker", 25), ("trade", 10)]
        # The ticker's trouble was told of a moment ago.
        assert {(line["channel"], line["code"]) for line in lines[2:]} == {
            (name, 25) for name in sids.keys() - {"ticker"}
        }
        assert {line["level"] for line in lines} == {"warning"}
        assert (venue.knocks("ed"), await daemon.terminate()) == (1, 0)


async def test_refused_commands_are_sent_again(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is refused for a passing reason, or an unknown one, is tried again until it is taken."""
    monkeypatch.setitem(ERRORS, UNKNOWN, "Something new")
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        venue.answer_with(18, "ticker")
        venue.answer_with(27, "trade", times=2)
        venue.answer_with(UNKNOWN, "market_lifecycle_v2")
        venue.answer_with(7, "cfbenchmarks_value")
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        await more_rows(database, TICKERS)
        await more_rows(database, TRADES)
        await _prints(database)
        said = {(line["channel"], line["code"]) for line in log(daemon, "channel.refused")}
        assert said == {
            ("ticker", 18),
            ("trade", 27),
            ("market_lifecycle_v2", UNKNOWN),
            ("cfbenchmarks_value", 7),
        }
        assert len(log(daemon, "channel.refused")) == 4
        assert {line["channel"] for line in await logged(daemon, "channel.confirmed", 4)} == {c for c, _ in said}
        await venue.fail(UNKNOWN)  # about subscriptions that go on: nothing is done about it
        await more_rows(database, TICKERS)
        await more_rows(database, TRADES)
        assert (venue.knocks("ed"), await daemon.terminate()) == (1, 0)


async def test_too_many_markets_are_asked_for_in_parts(database: str, tmp_path: Path) -> None:
    """Error 26 halves the commands; the open markets are had, and the next hour's when there is room for them."""
    async with (
        Venue(hour_s=60, start_s=START + 600 + 3420) as venue,  # three minutes before the close
        Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon,
    ):
        venue.most_markets = 25
        first = venue.markets("active")
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")

        async def next_hour() -> bool:
            now = venue.markets("active")
            return not first & now and all(now <= set(venue.holds("ed")[c].keys or ()) for c in ("ticker", "trade"))

        await until(next_hour, within_s=20, what="the next hour's markets to be subscribed to", every_s=0.05)
        for held in tuple(venue.holds("ed").values()):  # and a full one that ends begins again with as many
            if held.channel == "ticker":
                await venue.fail(25, sid=held.sid)
        await venue.subscribed()
        one = sorted(venue.markets("active"))[10]
        await more_rows(database, f"{TICKERS} AND ticker = '{one}'")
        lines = log(daemon, "market.refused", "channel.refused")
        assert sorted((line["event"], line["channel"], line["code"]) for line in lines) == [
            ("channel.refused", "ticker", 25),
            ("market.refused", "ticker", 26),
            ("market.refused", "trade", 26),
        ]
        assert (venue.knocks("ed"), await daemon.terminate()) == (1, 0)
