"""A whole hour of Kalshi, compressed into a minute: markets open, trade, close and settle, and all of it is rows."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.kalshi_client import START
from harness.kalshi_live import Venue, Witness, at, counted, rows, witness
from harness.spool import DATA, read_spool
from harness.waiting import until
from test_cli import Command

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S = 60.0
OPENS_S = START + 600
CLOSES_S = OPENS_S + 3600
BEFORE_S = 480  # of the venue's time, between its start and the opening: eight seconds
EVENT = "KXBTCD-26SEP2516"  # closes at 20:00 UTC, four in New York
STRIKES = 20
FINALIZED = f"event_ticker = '{EVENT}' AND status = 'finalized'"


def _of_event(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the event's markets since its opening."""
    return [body for body in bodies if body["market_ticker"].startswith(EVENT) and body["ts_ms"] >= OPENS_S * 1000]


async def _watch(dsn: str, venue: Venue, daemon: Daemon) -> None:
    """Follow the hour from outside: subscribed to before the opening, unsubscribed from after the settlement."""
    await daemon.wait_ready()
    coming = venue.markets("initialized")

    async def subscribed() -> bool:
        held = venue.holds("ed")
        return all(coming <= set(held[name].keys or ()) for name in ("ticker", "trade") if name in held) and (
            held.keys() >= {"ticker", "trade", "market_lifecycle_v2", "cfbenchmarks_value"}
        )

    await until(subscribed, within_s=15, what="the coming markets to be subscribed to")
    assert venue.now_s < OPENS_S, "the subscription came after the opening"
    assert len(coming) == STRIKES
    sids = {name: held.sid for name, held in venue.holds("ed").items()}

    async def settled() -> bool:
        return await rows(dsn, FINALIZED, "market_data") >= STRIKES

    await until(settled, within_s=HOUR_S + 80, what="the event to be final in market_data", every_s=0.25)

    async def unsubscribed() -> bool:
        held = venue.holds("ed")
        return not any(coming & set(held[name].keys or ()) for name in ("ticker", "trade"))

    await until(unsubscribed, within_s=10, what="the settled markets to be unsubscribed from")
    assert {name: held.sid for name, held in venue.holds("ed").items()} == sids, "one subscription a channel, for long"
    # The event is over by this machine's clock, and older than the days that are counted.
    counts = (await daemon.status())["settlements"]
    assert counts == {"equal": 0, "differs": 0, "incomplete": 0, "unpublished": 0}
    command = Command(daemon.folder)
    await asyncio.to_thread(command, "--status", RECIO_HTTP__PORT=str(daemon.port))
    assert "settlements, 8 days" in command.out
    assert (venue.knocks("ed"), await daemon.terminate()) == (1, 0)


def _subscribed_frames(daemon: Daemon) -> tuple[int, int]:
    """Return the last frame that confirmed the event's markets first, and the first that told of its trading."""
    confirmed = traded = 0
    for frame in read_spool(daemon.spool):
        message = json.loads(frame.payload) if frame.kind == DATA and frame.feed == "kalshi" else {}
        body = message.get("msg")
        if not isinstance(body, dict):
            continue
        if message["type"] in {"subscribed", "ok"} and not traded:
            confirmed = frame.frame_no
        if not traded and message["type"] == "ticker" and _of_event([body]):
            traded = frame.frame_no
    return confirmed, traded


async def _check_told(connection: asyncpg.Connection, seen: Witness) -> dict[str, int]:
    """Every ticker and trade of the event is a row, as often as it was told."""
    counts = {}
    for kind in ("ticker", "trade"):
        query = (
            "SELECT raw_json->'msg' FROM live_data.websocket_market_data"
            f" WHERE event_type = '{kind}' AND ticker LIKE '{EVENT}-%'"
        )
        stored = counted(_of_event([json.loads(row[0]) for row in await connection.fetch(query)]))
        told = counted(_of_event(seen.of(kind)))
        assert not told - stored, f"{kind}s that were missed"
        assert not stored - told, f"{kind}s that are there more often than told"
        counts[kind] = told.total()
    return counts


async def _check_settlement(connection: asyncpg.Connection, seen: Witness) -> Decimal:
    """The event is settled once, at the mean of the last minute's prints as they are stored."""
    told = Counter(
        (body["event_type"], body["market_ticker"])
        for body in seen.of("market_lifecycle_v2")
        if body["market_ticker"].startswith(EVENT)
    )
    stored = await connection.fetch(
        "SELECT event_type, ticker, count(*) FROM live_data.websocket_market_data WHERE ticker LIKE $1 || '-%'"
        " AND event_type NOT IN ('ticker', 'trade', 'rest_quote') GROUP BY 1, 2",
        EVENT,
    )
    assert {(row[0], row[1]): row[2] for row in stored} == dict.fromkeys(told, 1)
    words = {word: [n for (kind, _), n in told.items() if kind == word] for word, _ in told}
    assert words == {word: [n] * STRIKES for word, n in (("activated", 1), ("determined", 1), ("settled", 3))}

    prints = await connection.fetch(
        "SELECT price FROM live_data.btc_price_log WHERE symbol = 'BRTI' AND \"timestamp\" >= to_timestamp($1)"
        ' AND "timestamp" < to_timestamp($2)',
        CLOSES_S - 60,
        CLOSES_S,
    )
    assert len(prints) == 60
    total: Decimal = sum((row[0] for row in prints), Decimal(0))
    value = (total / 60).quantize(Decimal("0.01"), ROUND_HALF_UP)
    final = await connection.fetch(
        "SELECT ticker, status, result, expiration_value, floor_strike, raw_json->>'expiration_value' AS told"
        f" FROM live_data.market_data WHERE {FINALIZED}"
    )
    assert len({row["ticker"] for row in final}) == len(final) == STRIKES
    for row in final:
        assert row["expiration_value"] == value
        assert row["result"] == ("yes" if value > row["floor_strike"] else "no")
    assert {row["result"] for row in final} == {"yes", "no"}
    return value


async def _check_verified(dsn: str, folder: Path, value: Decimal) -> None:
    """The command finds the settlement right; the daemon's own look had come before the event was over."""
    query = "SELECT outcome, prints, computed, published FROM ingest.settlements WHERE event_ticker = $1"
    connection = await asyncpg.connect(dsn)
    try:
        assert (await connection.fetchrow(query, EVENT))["outcome"] == "incomplete"
        command = Command(folder)
        assert await asyncio.to_thread(command, "--verify-settlements", RECIO_DATABASE__DSN=dsn) == 0
        assert tuple(await connection.fetchrow(query, EVENT)) == ("equal", 60, value, value)
        await connection.execute(
            "DELETE FROM live_data.btc_price_log WHERE symbol = 'BRTI' AND \"timestamp\" = to_timestamp($1)",
            CLOSES_S - 9,
        )
        assert await asyncio.to_thread(command, "--verify-settlements", RECIO_DATABASE__DSN=dsn) == 0
        assert f"{EVENT}: incomplete: 59 of 60 prints; missing 2026-09-25T19:59:51Z; in no gap\n" in command.out
    finally:
        await connection.close()


async def _check_prints(connection: asyncpg.Connection, seen: Witness) -> int:
    """One print for every second of the venue while connected."""
    stored = await connection.fetch(
        'SELECT extract(epoch FROM "timestamp")::bigint AS s, price::text FROM live_data.btc_price_log'
        " WHERE venue = 'cfbenchmarks' AND symbol = 'BRTI' ORDER BY 1"
    )
    seconds = [row["s"] for row in stored]
    assert seconds == list(range(seconds[0], seconds[-1] + 1))
    assert seconds[0] < OPENS_S < CLOSES_S < seconds[-1]
    inner = [json.loads(body["data"]) for body in seen.of("cfbenchmarks_value")]
    told = {each["time"] // 1000: each["value"] for each in inner}
    mine = {row["s"]: row["price"] for row in stored}
    assert {s: price for s, price in told.items() if seconds[0] <= s <= seconds[-1]}.items() <= mine.items()
    return len(stored)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_an_hour_from_opening_to_settlement(database: str, tmp_path: Path) -> None:
    """What an independent witness was told of an event, from opening to settlement, is in the tables, each once."""
    async with (
        Venue(hour_s=HOUR_S, start_s=OPENS_S - BEFORE_S) as venue,
        witness(venue) as seen,
        Daemon(tmp_path, database, kalshi=at(venue, tmp_path)) as daemon,
    ):
        await daemon.start()
        await _watch(database, venue, daemon)
    assert not seen.lost, "the witness must hear all, to be one"

    confirmed, traded = _subscribed_frames(daemon)
    assert 0 < confirmed < traded
    connection = await asyncpg.connect(database)
    try:
        counts = await _check_told(connection, seen)
        value = await _check_settlement(connection, seen)
        counts["prints"] = await _check_prints(connection, seen)
        gaps = await connection.fetch("SELECT cause, channel, from_seq FROM ingest.gaps WHERE cause <> 'shutdown'")
        aside = await connection.fetchval("SELECT count(*) FROM ingest.quarantine")
    finally:
        await connection.close()
    assert (gaps, aside) == ([], 0)
    await _check_verified(database, tmp_path, value)
    print(f"told and stored: {counts}; settled at {value}")
    assert min(counts.values()) > 1000
