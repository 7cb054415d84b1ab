"""The ladder and its views in the database: what a restart rebuilds, and what a question costs."""

from __future__ import annotations

import time
from typing import Any

import asyncpg
import orjson
import pytest
from harness.databases import execute
from rollover_data import roll_all

from recio_ingest import store
from recio_ingest.decode import Decoder, recall
from recio_ingest.records import DAEMON_FEED, LIVE_STREAM, Batch, Frame, Kind, LiveStrike, Outcome

SERIES, EVENTS = "S", ("S-1", "S-2")
STRIKES = {False: "live_data.btc_live_strikes", True: "historical_data.strike_history"}


def _described(event: int, strike: int, status: str, now_s: int, **more: Any) -> dict[str, Any]:
    closes = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s + (10, 4000)[event]))
    facts = {"ticker": f"{EVENTS[event]}-T{strike}", "event_ticker": EVENTS[event], "status": status}
    return facts | {"strike_type": "greater", "floor_strike": strike, "close_time": closes} | more


def _quote(event: int, strike: int, bid: str, now_s: int) -> dict[str, Any]:
    body = {"market_ticker": f"{EVENTS[event]}-T{strike}", "yes_bid_dollars": bid, "yes_ask_dollars": "0.9900"}
    return {"type": "ticker", "sid": 1, "msg": body | {"volume_fp": "1.00", "ts_ms": now_s * 1000}}


def _step(seq: int, event: int, strike: int, word: str) -> dict[str, Any]:
    body = {"market_ticker": f"{EVENTS[event]}-T{strike}", "event_type": word}
    return {"type": "market_lifecycle_v2", "sid": 2, "seq": seq, "msg": body}


def _print(seq: int, now_s: int, value: str) -> dict[str, Any]:
    inner = {"type": "value", "id": "BRTI", "time": (now_s + seq) * 1000, "value": value}
    body = {"index_id": "BRTI", "data": orjson.dumps(inner).decode()}
    return {"type": "cfbenchmarks_value", "sid": 3, "seq": seq, "msg": body}


def story(now_s: int) -> list[Frame]:
    """Two events over an hour boundary: the first closes after ten seconds, the second is activated then."""
    rows = [_described(0, strike, "active", now_s) for strike in range(100, 1500, 100)]
    rows += [_described(1, strike, "initialized", now_s) for strike in range(100, 1500, 100)]
    messages: list[tuple[float, Any]] = [(0, {"markets": rows, "cursor": ""}), (0.1, _print(1, now_s, "1200.50"))]
    messages += [
        (0.2, _quote(0, 100, "0.9000", now_s)),
        (1.0, None),
        (1.2, _quote(0, 100, "0.9000", now_s)),
        (2.0, None),
    ]
    messages += [
        (2.1, _quote(0, 100, "0.9100", now_s)),
        (2.2, _print(2, now_s, "1200.75")),
        (2.3, _quote(1, 200, "0.5000", now_s)),
    ]
    messages += [(3.0, None), (3.1, _step(1, 0, 1400, "deactivated")), (4.0, None)]
    messages += [
        (9.0, None),
        (10.0, None),
        (10.2, _step(2, 1, 200, "activated")),
        (10.3, _step(3, 1, 300, "activated")),
    ]
    messages += [(11.0, None), (11.5, _quote(1, 200, "0.6000", now_s)), (12.0, None), (13.0, None)]
    begin = Frame(1, now_s * 10**9, "kalshi", Kind.CONNECTED, orjson.dumps({"series": [SERIES], "by": "socket"}))
    return [
        begin,
        *(
            Frame(number, now_s * 10**9 + round(after_s * 10**9), DAEMON_FEED, Kind.TICK, b"")
            if message is None
            else Frame(number, now_s * 10**9 + round(after_s * 10**9), "kalshi", Kind.DATA, orjson.dumps(message))
            for number, (after_s, message) in enumerate(messages, 2)
        ),
    ]


def _ladder(*batches: Batch) -> list[Any]:
    return [row for batch in batches for row in batch.tables.get(LiveStrike, [])]


@pytest.mark.parametrize(
    ("now_s", "past"),
    [(int(time.time()) - 5, False), (1_790_000_000, False), (1_790_000_000, True)],
    ids=["now", "long ago", "rolled over"],
)
async def test_a_restart_between_any_two_frames(database: str, now_s: int, past: bool) -> None:  # noqa: FBT001  # pytest's
    """A decoder that begins anew from the tables before every frame gives the rows of one that remembers them all.

    So it does where each row rolls over at once.
    """
    frames = story(now_s)
    whole = Decoder({}).decode(frames)
    assert (whole.quarantine, whole.counts[Outcome.CONTROL]) == ([], 1 + sum(not frame.data for frame in frames))
    wanted = _ladder(whole)
    assert {row.event_ticker for row in wanted} == set(EVENTS)
    parts = []
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        for frame in frames:
            parts.append(Decoder(position.state, await opened.recall(recall(), position.state)).decode([frame]))
            position = await opened.commit(position, parts[-1])
            if past and parts[-1].tables:
                await roll_all(database)
    assert _ladder(*parts) == wanted
    connection = await asyncpg.connect(database)
    try:
        stored = await connection.fetch(
            f"SELECT {', '.join(LiveStrike._fields[2:])} FROM {STRIKES[past]} ORDER BY frame_no, row_no"
        )
    finally:
        await connection.close()
    texts = [[format(value, "f") if hasattr(value, "is_nan") else value for value in row] for row in stored]
    assert texts == [list(row[2:]) for row in wanted]


async def _fill(dsn: str) -> None:
    """An open event of 60 strikes and one that is over, of hundreds of seconds; and some rows of each feed."""
    strikes = (
        'INSERT INTO live_data.btc_live_strikes ("timestamp", received_at, event_ticker, ticker, strike_price,'
        " seconds_to_close, frame_no) SELECT at, at, '{0}', '{0}-' || k, k, {2} + s, s"
        " FROM generate_series({1}, 1000) s, generate_series(1, 60) k,"
        " LATERAL (SELECT now() - s * interval '1 s' AS at) t WHERE k > 3 OR s % 100 = 0"
    )
    quotes = (
        'INSERT INTO live_data.websocket_market_data ("timestamp", received_at, venue, ticker, event_type)'
        " SELECT at, at, 'kalshi', 'T', 'ticker' FROM generate_series(1, 20000) s,"
        " LATERAL (SELECT now() - s * interval '1 s' AS at) t"
    )
    trades = (
        'INSERT INTO live_data.btc_price_log ("timestamp", received_at, venue, symbol, price)'
        " VALUES (now() - interval '1 hour', now() - interval '1 hour', 'coinbase', 'BTC-USD', 1)"
    )
    gap = (
        "INSERT INTO ingest.gaps (frame_no, feed, scope, cause, from_time, to_time)"
        " VALUES (1, 'coinbase', 'connection', 'reset', now(), NULL),"
        " (2, 'coinbase', 'connection', 'reset', now(), now())"
    )
    aside = (
        "INSERT INTO ingest.quarantine (frame_no, row_no, feed, received_at, reason, detail, frame, replayed_at)"
        " VALUES (1, 0, 'kalshi', now(), 'json', '', '', NULL), (1, 1, 'kalshi', now(), 'json', '', '', NULL),"
        " (2, 0, 'kalshi', now(), 'json', '', '', now())"
    )
    over, current = strikes.format("OVER", 6, -5), strikes.format("OPEN", 1, 1000)
    await execute(dsn, over, current, quotes, trades, gap, aside, "ANALYZE")


async def test_the_views(database: str) -> None:
    """Readers see the newest row of every strike of the open event, and how each feed stands."""
    await _fill(database)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET ROLE recio_read")
        rows = await connection.fetch("SELECT * FROM live_data.current_strikes")
        columns = await connection.fetch("SELECT * FROM live_data.btc_live_strikes LIMIT 1")
        feeds = await connection.fetch("SELECT * FROM live_data.feed_status")
        age = "now() - last_received_at > interval '50 minutes'"
        ages = await connection.fetch(f"SELECT feed, {age} FROM live_data.feed_status")
    finally:
        await connection.close()
    assert [(row["event_ticker"], row["strike_price"]) for row in rows] == [("OPEN", n) for n in range(1, 61)]
    assert [row["frame_no"] for row in rows] == [100] * 3 + [1] * 57
    assert list(rows[0].keys()) == list(LiveStrike._fields)
    assert set(columns[0].keys()) == set(LiveStrike._fields)
    status = {row["feed"]: tuple(row)[4:] for row in feeds}
    assert status == {"coinbase": (1, 0), "kalshi": (0, 1)}
    assert 50 <= {row["feed"]: row["rows_last_minute"] for row in feeds}["kalshi"] <= 60
    assert dict(map(tuple, ages)) == {"coinbase": True, "kalshi": False}


async def _fill_a_day(dsn: str) -> None:
    """Hours of both feeds into partitions; both fell silent an hour ago, and one symbol has no row of the other."""
    parts = (
        "SELECT ingest.make_partition_v1('live_data.' || t, 'live_data.' || t || '_p', 'received_at',"
        " now() - interval '2 days', now() + interval '1 day')"
        " FROM unnest(ARRAY['btc_price_log', 'websocket_market_data', 'btc_live_strikes']) t"
    )
    prices = (
        'INSERT INTO live_data.btc_price_log ("timestamp", received_at, venue, symbol, price, frame_no)'
        " SELECT at, at, v, CASE v WHEN 'coinbase' THEN 'BTC-USD' ELSE 'BRTI' END, s, s"
        " FROM generate_series(40000, 1, -1) s, LATERAL (SELECT now() - interval '1 hour' - s * interval '0.5 s' AS at,"
        " CASE s % 4 WHEN 0 THEN 'cfbenchmarks' ELSE 'coinbase' END AS v) t"
    )
    quotes = (
        'INSERT INTO live_data.websocket_market_data ("timestamp", received_at, venue, ticker, event_type)'
        " SELECT at, at, 'kalshi', 'T' || s % 100, 'ticker' FROM generate_series(20000, 1, -1) s,"
        " LATERAL (SELECT now() - interval '50 minutes' - s * interval '1 s' AS at) t"
    )
    strikes = (
        'INSERT INTO live_data.btc_live_strikes ("timestamp", received_at, event_ticker, ticker, strike_price,'
        " seconds_to_close, frame_no) SELECT at, at, 'E' || s / 900, 'E' || s / 900 || '-' || k, k, 1800 - s % 900, s"
        " FROM generate_series(1800, 1, -1) s, generate_series(1, 20) k,"
        " LATERAL (SELECT now() - s * interval '1 s' AS at) t"
    )
    await execute(dsn, parts, prices, quotes, strikes, "VACUUM ANALYZE")


def _scanned(plan: dict[str, Any]) -> float:
    """How many rows were read by walking through a table from its begin."""
    read = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    own = read if plan["Node Type"] == "Seq Scan" else 0
    return float(own + sum(_scanned(each) for each in plan.get("Plans", ())))


@pytest.mark.parametrize(
    "question",
    [
        "current_strikes",
        "feed_status",
        "btc_price_1s WHERE \"timestamp\" > now() - interval '70 minutes'",
        "btc_price_1s WHERE symbol = 'BRTI' AND \"timestamp\" > now() - interval '70 minutes'",
    ],
)
async def test_a_view_reads_no_table_whole(database: str, question: str) -> None:
    """However many rows there are, a view finds its few by an index, as the server plans it by itself."""
    await _fill_a_day(database)
    connection = await asyncpg.connect(database)
    try:
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM live_data.{question}")
        found = await connection.fetch(f"SELECT * FROM live_data.{question}")
    finally:
        await connection.close()
    plan = orjson.loads(text)[0]
    print(question, plan["Execution Time"])
    assert _scanned(plan["Plan"]) == 0
    assert found


async def test_the_last_row_of_a_silent_feed(database: str) -> None:
    """Of a feed that fell silent hours ago the last row is still told, by whichever table had it."""
    await _fill_a_day(database)
    connection = await asyncpg.connect(database)
    age = "round(extract(epoch FROM now() - last_received_at) / 60)::int"
    try:
        ages = await connection.fetch(f"SELECT feed, {age}, rows_last_minute FROM live_data.feed_status")
        await connection.execute("DELETE FROM live_data.websocket_market_data")
        without = await connection.fetch(f"SELECT feed, {age} FROM live_data.feed_status")
        await connection.execute("DELETE FROM live_data.btc_price_log")
        nothing = await connection.fetch("SELECT last_received_at FROM live_data.feed_status")
    finally:
        await connection.close()
    assert [tuple(row) for row in ages] == [("coinbase", 60, 0), ("kalshi", 50, 0)]
    assert [tuple(row) for row in without] == [("coinbase", 60), ("kalshi", 60)]
    assert [tuple(row) for row in nothing] == [(None,), (None,)]
