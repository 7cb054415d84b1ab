"""Kalshi without a key: what REST tells is recorded, and what it did not tell is declared."""

from __future__ import annotations

import time
from pathlib import Path

import asyncpg
from harness.daemon import Daemon
from harness.kalshi_live import CALM, Venue, at, more_rows, rows
from harness.metrics import Metrics, log, logged, metric

QUOTES = "event_type = 'rest_quote'"
POLLED_EVERY_S = 5.0


async def _gaps(dsn: str) -> list[tuple[str, float, float | None]]:
    connection = await asyncpg.connect(dsn)
    try:
        query = "SELECT cause, extract(epoch FROM from_time), extract(epoch FROM to_time) FROM ingest.gaps ORDER BY 2"
        found = await connection.fetch(query)
    finally:
        await connection.close()
    return [(cause, float(begin), None if end is None else float(end)) for cause, begin, end in found]


async def test_without_a_key_rest_is_the_line(database: str, tmp_path: Path) -> None:
    """Quotes and descriptions come by polling; an outage of REST is one gap with its bounds, whatever it was."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path, "")) as daemon:
        await daemon.start()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        await more_rows(database, QUOTES)
        assert await rows(database, "status = 'active'", "market_data") == 20
        assert await rows(database, "status = 'initialized'", "market_data") == 20
        figures = await Metrics.of(daemon)
        lag_s = figures("lag_seconds", feed="kalshi")
        assert lag_s is not None
        assert 0 <= lag_s < 2 * POLLED_EVERY_S
        (limited,) = log(daemon, "feed.limited")
        assert "Set feeds.kalshi.key_id and feeds.kalshi.key_file" in limited["why"]
        assert (await daemon.status())["healthy"]
        assert (venue.handshakes, await _gaps(database)) == ([], [])

        venue.rest_down()
        down_s = time.time()
        await logged(daemon, "poll.failed")
        await metric(daemon, 1, "gap_open", feed="kalshi")
        await metric(daemon, 0, "feed_connected", feed="kalshi")
        ((cause, begin_s, end),) = await _gaps(database)
        assert (cause, end) == ("refused", None)
        assert down_s - POLLED_EVERY_S - 1 < begin_s <= down_s
        venue.rest_up()
        venue.rest_busy(1)
        up_s = time.time()
        await metric(daemon, 0, "gap_open", feed="kalshi")
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        ((_, closed_from_s, end_s),) = await _gaps(database)
        assert closed_from_s == begin_s
        assert end_s is not None
        assert up_s <= end_s <= time.time()
        within = f"received_at > to_timestamp({begin_s} + 0.001) AND received_at < to_timestamp({end_s} - 0.001)"
        assert await rows(database, within) == 0
        await more_rows(database, QUOTES)
        lines = log(daemon, "poll.failed", "poll.recovered")
        assert [(line["event"], line.get("cause")) for line in lines] == [
            ("poll.failed", "refused"),
            ("poll.failed", "rate_limited"),
            ("poll.recovered", None),
        ]
        figures = await Metrics.of(daemon)
        assert figures("rest_requests_total", feed="kalshi", outcome="rate_limited") == 1
        assert figures("reconnects_total", feed="kalshi", cause="refused") == 1
        assert await daemon.terminate() == 0


async def test_with_a_key_a_busy_rest_is_no_outage(database: str, tmp_path: Path) -> None:
    """Where the socket is the line, a REST that is busy, down or silent is a line in the log, and no gap."""
    async with Venue(**CALM) as venue, Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
        await daemon.start()
        await venue.subscribed()
        await metric(daemon, 1, "feed_connected", feed="kalshi")
        venue.rest_busy(1)
        strike = next(
            strike for strike in venue._exchange.strikes() if strike.event.status(int(venue.now_s)) == "active"
        )
        for held in venue.holds("ed").values():  # a step of a market that is new: a reason to ask
            if held.channel == "market_lifecycle_v2":
                body = {"market_ticker": f"{strike.ticker}1", "event_type": "activated"}
                venue.sessions("ed")[0].tell("market_lifecycle_v2", held, body)
        await logged(daemon, "poll.failed")
        await more_rows(database, "event_type = 'ticker'")
        await logged(daemon, "poll.recovered")
        figures = await Metrics.of(daemon)
        assert figures("feed_connected", feed="kalshi") == 1
        assert figures("gap_open", feed="kalshi") in {None, 0}
        assert await _gaps(database) == []
        assert venue.knocks("ed") == 1
        assert await daemon.terminate() == 0
