"""What was missed is fetched again by REST: every trade a row in the end, once, and the ledger says so."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from harness.daemon import Daemon
from harness.databases import fetch
from harness.full import only_in_full
from harness.kalshi_client import ED, START, simulated
from harness.kalshi_live import Venue, at
from harness.metrics import Metrics
from harness.oracle import check
from harness.progress import commits_since, market_rows_stored, offset, scalar, settle, trades_stored
from harness.venue import OracleVenue
from harness.waiting import until

from recio_ingest.demo import kalshi_market

if TYPE_CHECKING:
    from pathlib import Path

    from recio_ingest.demo.kalshi import KalshiVenue

SKIPPED = 7
HOLES = """
    SELECT expected, recovered, repaired_at, given_up_at, given_up_why FROM ingest.gaps
     WHERE feed = 'coinbase' AND cause = 'sequence'
"""
OPEN = HOLES + " AND repaired_at IS NULL AND given_up_at IS NULL"
WITHIN_S = 90.0


async def repaired(dsn: str, at_least: int = 1) -> list[Any]:
    """Wait until no hole is left to repair; return them all."""

    async def look() -> bool:
        return len(await fetch(dsn, HOLES)) >= at_least and not await fetch(dsn, OPEN)

    await until(look, within_s=WITHIN_S, what="the holes to be filled", every_s=0.1)
    return await fetch(dsn, HOLES)


@pytest.mark.parametrize("fault", ["skip", "disconnect", "kill"])
async def test_every_missing_trade_comes(database: str, tmp_path: Path, fault: str) -> None:
    """After a loss, a disconnect under load, and a kill -9: nothing is missing, nothing is there twice."""
    async with OracleVenue(rate=2000) as venue, Daemon(tmp_path, database, venue) as daemon:
        await venue.rest()
        await daemon.start()
        await trades_stored(database)
        if fault == "skip":
            await venue.skip(SKIPPED)
        elif fault == "disconnect":
            await venue.disconnect()
        else:
            await daemon.kill9()
            await asyncio.sleep(1)  # two pages of trades
            await daemon.start()
        holes = await repaired(database)
        ledger = await settle(database, venue)
        holes = await repaired(database)
        figures = await Metrics.of(daemon)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    report.assert_clean()
    assert ledger.rest_answers > 0
    assert report.declared_missing == 0  # all of them are rows
    assert [hole["recovered"] for hole in holes] == [hole["expected"] for hole in holes]
    assert all(hole["repaired_at"] and not hole["given_up_at"] for hole in holes)
    if fault == "skip":
        assert [hole["expected"] for hole in holes] == [SKIPPED]
    assert figures("repaired_rows_total", feed="coinbase") == sum(h["recovered"] for h in holes)


async def test_killed_while_it_repairs(database: str, tmp_path: Path) -> None:
    """A hole of several pages, and a kill -9 after the first of them: the next start goes on to the end."""
    async with OracleVenue(rate=4000, ticker_every=400) as venue, Daemon(tmp_path, database, venue) as daemon:
        await daemon.start()
        await trades_stored(database)
        await venue.skip(5000)
        await commits_since(database, await offset(database))

        async def open_hole() -> bool:
            return bool(await fetch(database, OPEN))

        await until(open_hole, within_s=WITHIN_S, what="the hole to be declared", every_s=0.05)
        await venue.rest()

        async def begun() -> bool:
            return int(await scalar(database, "SELECT sum(recovered) FROM ingest.gaps") or 0) > 0

        await until(begun, within_s=WITHIN_S, what="a page of the hole", every_s=0.002)
        await daemon.kill9()
        await daemon.start()
        await repaired(database)
        ledger = await settle(database, venue)
        holes = await repaired(database)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    report.assert_clean()
    assert report.declared_missing == 0
    assert [hole["recovered"] for hole in holes] == [hole["expected"] for hole in holes]


async def test_without_rest_it_stays_open(database: str, tmp_path: Path) -> None:
    """While REST is down a hole stays open, and is filled when it is back."""
    async with OracleVenue(rate=1000) as venue, Daemon(tmp_path, database, venue) as daemon:
        await daemon.start()
        await trades_stored(database)
        await venue.skip(SKIPPED)

        async def waiting() -> bool:
            return "repair.failed" in daemon.stderr + daemon.stdout

        await until(waiting, within_s=WITHIN_S, what="a question that is not answered", every_s=0.1)
        (hole,) = await fetch(database, HOLES)
        assert (hole["recovered"], hole["repaired_at"], hole["given_up_at"]) == (0, None, None)
        await venue.rest()
        await repaired(database)
        ledger = await settle(database, venue)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    report.assert_clean()
    assert report.declared_missing == 0


def section(venue: KalshiVenue, folder: Path) -> dict[str, Any]:
    """The keys of a configuration that leads to the simulated venue."""
    key_file = folder / "key.pem"
    with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {
        "enabled": True, "url": venue.url, "rest_url": venue.rest_url, "series": ["KXBTCD"], "key_id": "ed",
        "key_file": str(key_file),
    }  # fmt: skip


MARKET_GAPS = """
    SELECT expected, recovered, repaired_at, given_up_at FROM ingest.gaps
     WHERE feed = 'kalshi' AND channel = 'trade' AND to_time IS NOT NULL
"""


async def test_markets_trades_come_too(database: str, tmp_path: Path) -> None:
    """Trades of the time without a line are asked for market by market; those known already are no rows."""
    venue = simulated(3600, start_s=None)
    async with venue, Daemon(tmp_path, database, kalshi=section(venue, tmp_path)) as daemon:
        await daemon.start()
        await market_rows_stored(database, 50)
        await until(
            lambda: _true(database, "SELECT count(*) > 0 FROM live_data.websocket_market_data WHERE trade_id <> ''"),
            within_s=WITHIN_S, what="a trade", every_s=0.1,
        )  # fmt: skip
        await daemon.kill9()
        missed_from_ms = venue._exchange.now_s * 1000
        await asyncio.sleep(4)
        await daemon.start()
        await until(
            lambda: _true(database, "SELECT count(*) > 0 FROM ingest.gaps WHERE feed = 'kalshi' AND channel = 'trade' "
                          "AND coalesce(repaired_at, given_up_at) IS NOT NULL"),
            within_s=90, what="the gap to be repaired", every_s=0.2,
        )  # fmt: skip
        assert await daemon.terminate() == 0
        upto_ms = missed_from_ms + 3000
        made = {
            trade.trade_id
            for strike in venue._exchange.strikes()
            for trade in strike.trades
            if missed_from_ms - 3000 <= trade.ts_ms <= upto_ms
        }

    stored = await fetch(database, "SELECT trade_id, event_type FROM live_data.websocket_market_data "
                                   "WHERE trade_id IS NOT NULL")  # fmt: skip
    ids = [row["trade_id"] for row in stored]
    assert len(ids) == len(set(ids))
    assert made <= set(ids)
    (gap,) = await fetch(database, MARKET_GAPS)
    late = sum(row["event_type"] == "rest_trade" for row in stored)
    assert late > 0
    assert gap["recovered"] == gap["expected"] == late
    assert gap["repaired_at"]
    assert await fetch(database, "SELECT frame_no FROM ingest.quarantine") == []


SEQUENCE_GAPS = """
    SELECT expected, recovered, repaired_at, given_up_why FROM ingest.gaps
     WHERE feed = 'kalshi' AND channel = 'trade' AND cause = 'sequence' ORDER BY frame_no
"""


def made(venue: Venue) -> set[str]:
    """Every trade of the markets that are subscribed to."""
    (held,) = (held for held in venue.holds("ed").values() if held.channel == "trade")
    return {trade.trade_id for strike in venue._exchange.strikes() if held.wants("trade", strike.ticker)
            for trade in strike.trades}  # fmt: skip


async def lose_trades(venue: Venue) -> set[str]:
    """Let the venue lose some trades with their numbers; return them."""
    before = made(venue)
    venue.hang()
    await until(lambda: asyncio.sleep(0, len(made(venue) - before) > 1), within_s=WITHIN_S, what="trades to lose")
    lost = made(venue) - before
    venue.skip_seq(len(lost), sid=venue.holds("ed")["trade"].sid)
    venue.unhang()
    return lost


async def a_trade_comes(venue: Venue, dsn: str) -> None:
    """Wait until a trade from now on is a row."""
    before = made(venue)

    async def look() -> bool:
        stored = await fetch(dsn, "SELECT trade_id FROM live_data.websocket_market_data WHERE event_type = 'trade'")
        return bool((made(venue) - before) & {row["trade_id"] for row in stored})

    await until(look, within_s=WITHIN_S, what="a trade that comes", every_s=0.1)


async def test_lost_numbers_of_markets_come_back(database: str, tmp_path: Path) -> None:
    """Two holes in the trades' numbering in the same seconds: each lost trade is a row, once, and both are whole."""
    venue = Venue(hour_s=3600, start_s=None, series=("KXBTCD", "KXBTC"))
    async with venue:
        section = at(venue, tmp_path) | {"series": ["KXBTCD", "KXBTC"]}
        async with Daemon(tmp_path, database, kalshi=section) as daemon:
            await daemon.start()
            await venue.subscribed()
            lost = []
            for _ in range(2):  # each hole shows by the number after it
                await a_trade_comes(venue, database)
                lost.append(await lose_trades(venue))

            async def whole() -> bool:
                gaps = await fetch(database, SEQUENCE_GAPS)
                return len(gaps) == len(lost) and all(gap["repaired_at"] or gap["given_up_why"] for gap in gaps)

            await until(whole, within_s=90, what="both holes to be closed", every_s=0.2)
            assert await daemon.terminate() == 0

    gaps = await fetch(database, SEQUENCE_GAPS)
    assert [gap["expected"] for gap in gaps] == [len(each) for each in lost]
    # More came where the seconds around a hole reach back before the subscription.
    assert all(gap["repaired_at"] and gap["recovered"] >= gap["expected"] for gap in gaps)
    stored = await fetch(database, "SELECT trade_id, event_type FROM live_data.websocket_market_data "
                                   "WHERE trade_id IS NOT NULL")  # fmt: skip
    assert len(stored) == len({row["trade_id"] for row in stored})
    late = [row["trade_id"] for row in stored if row["event_type"] == "rest_trade"]
    assert set().union(*lost) <= set(late)
    assert sum(gap["recovered"] for gap in gaps) == len(late)


STATES = """
    SELECT DISTINCT ON (ticker) ticker, status, result, expiration_value, settlement_time FROM live_data.market_data
     WHERE status IS NOT NULL ORDER BY ticker, frame_no DESC, row_no DESC
"""
STATE_GAPS = """
    SELECT expected, recovered, repaired_at, repaired_as FROM ingest.gaps
     WHERE feed = 'kalshi' AND channel = 'market_lifecycle_v2' AND to_time IS NOT NULL
"""
HOUR_S = 3.0


@only_in_full
async def test_markets_that_came_and_went_are_described(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markets that opened, closed and were settled while the daemon was dead are settled in market_data."""
    async with Venue(hour_s=HOUR_S, start_s=START) as venue:
        monkeypatch.setattr(kalshi_market, "KEEP_S", 48 * 3600)  # at this speed two hours are 6 s
        exchange = venue._exchange
        async with Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon:
            await daemon.start()
            query = "SELECT count(*) > 0 FROM live_data.websocket_market_data WHERE event_type = 'settled'"
            await until(partial(_true, database, query), within_s=WITHIN_S, what="a settlement", every_s=0.05)
            await daemon.kill9()
            killed_s = exchange.now_s

            def come_and_gone() -> list[Any]:
                return [
                    each for each in exchange.events if each.created_s > killed_s and each.settled_s < exchange.now_s
                ]

            await until(lambda: asyncio.sleep(0, come_and_gone()), within_s=WITHIN_S, what="an hour")
            (event, *_) = come_and_gone()
            settled = {s.ticker: s for s in exchange.strikes() if killed_s < s.event.settled_s < exchange.now_s}
            await daemon.start()
            query = f"SELECT count(*) = 1 FROM ({STATE_GAPS}) AS gap WHERE repaired_at IS NOT NULL"
            await until(partial(_true, database, query), within_s=90, what="the state", every_s=0.2)
            assert await daemon.terminate() == 0

    states = {row["ticker"]: row for row in await fetch(database, STATES)}
    cents = {ticker: strike.event.value_cents for ticker, strike in settled.items()}
    assert {t: (states[t]["status"], states[t]["result"]) for t in settled} == {
        t: ("finalized", s.event.result(s)) for t, s in settled.items()
    }
    assert {t: round(states[t]["expiration_value"] * 100) for t in settled} == cents
    assert all(states[t]["settlement_time"].timestamp() == s.event.settled_s for t, s in settled.items())
    assert {strike.ticker for strike in event.strikes} <= settled.keys()
    (gap,) = await fetch(database, STATE_GAPS)
    assert gap["repaired_as"] == "state"
    assert gap["recovered"] == gap["expected"] >= len(event.strikes)
    steps = "SELECT count(*) FROM live_data.websocket_market_data WHERE event_type = 'settled' AND ticker = $1"
    assert await scalar(database, steps, event.strikes[0].ticker) == 0  # the steps are not told again
    assert await fetch(database, "SELECT frame_no FROM ingest.quarantine") == []


async def _true(dsn: str, query: str) -> bool:
    return bool(await scalar(dsn, query))
