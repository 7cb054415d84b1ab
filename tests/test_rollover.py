"""The rollover: what is old leaves, whole and once, and is found where it belongs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.databases import PROGRAM, execute
from rollover_data import LIVE, PAST, count, fill, totals
from test_store import rows
from users_data import one

from recio_ingest import moves, store
from recio_ingest.errors import RolloverError, TryLaterError
from recio_ingest.moves import MOVES
from recio_ingest.partitions import LIVE_TABLES
from recio_ingest.records import Decoded, MarketState, Outcome
from recio_ingest.rollover import Pass, Rollover

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0


def rolling(dsn: str, **options: bool) -> Rollover:
    """A rollover with small slices, so that a thousand rows are several."""
    return Rollover(dsn, DAY_S, keep_raw=options.get("keep_raw", False), slice_rows=300)


async def roll(dsn: str, **options: bool) -> Pass:
    """One pass, without trouble."""
    done = await rolling(dsn, **options).run_once()
    assert done.troubles == []
    return done


async def make_days(dsn: str, days: range = range(-3, 2)) -> None:
    """Make the daily partitions of these days, today being 0."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for table in LIVE_TABLES:
        for day in days:
            lower = today + timedelta(days=day)
            await execute(
                dsn,
                f"SELECT ingest.make_partition_v1('{table}', '{table}_{lower:%Y%m%d}', 'received_at',"
                f" '{lower}', '{lower + timedelta(days=1)}')",
            )


def test_every_live_table_moves() -> None:
    """No live table is forgotten, and none is named twice."""
    assert sorted(move.table for move in MOVES) == sorted(LIVE_TABLES)


async def test_every_column_moves(database: str) -> None:
    """Each column of a live table goes somewhere, and each of a past one is filled, or the backfill's."""
    columns = "SELECT column_name FROM information_schema.columns WHERE (table_schema || '.' || table_name) = '{}'"
    for move in MOVES:
        theirs = {str(name) for (name,) in await rows(database, columns.format(move.table))}
        for arrival in move.arrivals:
            ours = {str(name) for (name,) in await rows(database, columns.format(arrival.target))}
            assert ours - set(arrival.columns) <= {"backfill_id"}
        taken = {value.strip('"') for arrival in move.arrivals for value in arrival.columns.values()}
        assert theirs == taken


@pytest.mark.parametrize("days", [True, False], ids=["days", "default"])
async def test_old_rows_move(database: str, days: bool) -> None:  # noqa: FBT001  # a parameter of pytest's
    """What is older than the window moves, from daily partitions and from DEFAULT; what is younger stays."""
    if days:
        await make_days(database)
    await fill(database, 1000)
    await fill(database, 1000, "10 minutes")
    before = await totals(database)

    assert (await roll(database)).moved == dict.fromkeys(LIVE_TABLES, 1000) | {"live_data.market_data": 100}
    assert await totals(database) == before
    assert await count(database, "live_data") == dict.fromkeys(LIVE, 1000) | {"market_data": 100}
    assert await count(database, "historical_data") == dict.fromkeys(PAST, 1000) | {
        "market_data_history": 100,
        "momentum_history": 800,
    }
    assert (await roll(database)).moved == {}


async def test_the_books(database: str) -> None:
    """Each slice is written down per table that it went to, and the sums are those of the tables."""
    await fill(database, 1000)
    await roll(database)
    assert await rows(
        database,
        "SELECT target_table, sum(deleted_rows)::int, sum(inserted_rows)::int, count(*) FROM ingest.rollovers"
        " GROUP BY 1 ORDER BY 1",
    ) == [
        ("historical_data.market_data_history", 100, 100, 1),
        ("historical_data.market_history", 1000, 1000, 4),
        ("historical_data.momentum_history", 800, 800, 4),
        ("historical_data.price_history", 1000, 1000, 4),
        ("historical_data.strike_history", 1000, 1000, 4),
    ]


@pytest.mark.parametrize("keep_raw", [True, False])
async def test_whole_messages(database: str, keep_raw: bool) -> None:  # noqa: FBT001  # a parameter of pytest's
    """The venue's whole messages go along with rollover.keep_raw, and only then."""
    await fill(database, 40)
    await roll(database, keep_raw=keep_raw)
    kept = await one(database, "SELECT count(raw_json) FROM historical_data.market_history")
    assert kept == (40 if keep_raw else 0)
    assert await one(database, "SELECT count(raw_json) FROM historical_data.market_data_history") == (
        4 if keep_raw else 0
    )


async def test_rows_of_old_months(database: str) -> None:
    """A row whose venue's time is years back lies in that month's partition; a time that cannot be makes no month.

    Nor does it keep the rows beside it: no calendar of ours has a year 0, or a month behind December 9999.
    """
    old = (
        'INSERT INTO live_data.btc_price_log ("timestamp", received_at, venue, symbol, price, trade_id)'
        " VALUES ('{}', now() - interval '2 days', 'coinbase', 'BTC-USD', 1, 1)"
    )
    await execute(database, old.format("2019-12-31 23:59:59.999999Z"), old.format("2020-01-01Z"),
                  old.format("1970-01-01Z"), old.format("0001-12-31 23:00Z BC"), old.format("9999-12-31Z"))  # fmt: skip
    await roll(database)

    assert await one(database, "SELECT count(*) FROM historical_data.price_history_default") == 3
    assert await rows(
        database,
        "SELECT tableoid::regclass::text, \"timestamp\" AT TIME ZONE 'UTC' FROM historical_data.price_history"
        " WHERE \"timestamp\" BETWEEN '0001-01-02Z' AND '9999-01-01Z' ORDER BY 2",
    ) == [
        ("historical_data.price_history_default", datetime(1970, 1, 1)),  # noqa: DTZ001  # UTC, by the query
        ("historical_data.price_history_201912", datetime(2019, 12, 31, 23, 59, 59, 999999)),  # noqa: DTZ001
        ("historical_data.price_history_202001", datetime(2020, 1, 1)),  # noqa: DTZ001
    ]


async def test_what_is_there_already(database: str) -> None:
    """A row whose key is there is not doubled; that it says something else is counted, and what was there stays."""
    await fill(database, 1000)
    await execute(
        database,
        'INSERT INTO historical_data.price_history ("timestamp", received_at, created_at, trade_id, frame_no, row_no,'
        " source, symbol, side, price, volume, best_bid, best_ask)"
        ' SELECT "timestamp", received_at, received_at, trade_id, frame_no, row_no, venue, symbol, side,'
        " price + CASE WHEN frame_no < 11 THEN 1 ELSE 0 END, size, best_bid, best_ask FROM live_data.btc_price_log"
        " WHERE frame_no <= 100",
        # Twice in the live table, of one trade: a frame that was decoded again by another way.
        "INSERT INTO live_data.websocket_market_data SELECT * FROM live_data.websocket_market_data"
        " WHERE frame_no = 400",
    )
    await roll(database)

    books = "SELECT sum(inserted_rows)::int, sum(present_rows)::int, sum(differing_rows)::int FROM ingest.rollovers"
    assert await rows(database, f"{books} WHERE target_table LIKE '%price_history'") == [(900, 100, 10)]
    assert await rows(database, f"{books} WHERE target_table LIKE '%market_history'") == [(1000, 1, 0)]
    assert await count(database, "live_data") == dict.fromkeys(LIVE, 0)
    found = await count(database, "historical_data")
    assert (found["price_history"], found["market_history"]) == (1000, 1000)


async def lossy(dsn: str, table: str, loss: str) -> None:
    """Have somebody's trigger lose or change rows on their way into a table of the past."""
    await execute(
        dsn,
        f"CREATE FUNCTION public.lossy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {loss}; END $$",
        f"CREATE TRIGGER lossy BEFORE INSERT ON historical_data.{table} FOR EACH ROW EXECUTE FUNCTION public.lossy()",
    )


_TICKERS = """
INSERT INTO live_data.websocket_market_data ("timestamp", received_at, frame_no, row_no, venue, ticker, event_type,
                                             yes_bid, trade_id)
SELECT '2026-09-01Z', now() - interval '2 days', n, 0, 'kalshi', 'M', CASE n WHEN 1 THEN 'trade' ELSE 'ticker' END,
       n / 100.0, CASE n WHEN 1 THEN 't-1' END FROM generate_series(1, 4) AS n
"""
_KNOWN_TRADE = """
INSERT INTO historical_data.market_history ("timestamp", received_at, frame_no, row_no, venue, ticker, event_type,
                                            yes_bid, trade_id)
SELECT "timestamp", received_at, frame_no, row_no, venue, ticker, event_type, yes_bid, trade_id
  FROM live_data.websocket_market_data WHERE frame_no = 1
"""


async def test_quotes_of_one_moment_differ_from_nothing(database: str) -> None:
    """Quotes have no key: two of one market and moment are not told as differing because a trade was there already."""
    await execute(database, _TICKERS, _KNOWN_TRADE)
    await roll(database)
    assert await rows(
        database, "SELECT deleted_rows, inserted_rows, present_rows, differing_rows FROM ingest.rollovers"
    ) == [(4, 3, 1, 0)]


async def test_a_lost_quote_is_missed(database: str) -> None:
    """One of several quotes of a moment that does not arrive is lost, however like the others it is."""
    await execute(database, _TICKERS, _KNOWN_TRADE)
    await lossy(database, "market_history", "RETURN CASE WHEN NEW.frame_no <> 3 THEN NEW END")
    (trouble,) = (await rolling(database).run_once()).troubles
    assert "1 rows neither came nor were there" in str(trouble)
    assert (await count(database, "live_data"))["websocket_market_data"] == 4


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        ("RETURN CASE WHEN NEW.frame_no <> 500 THEN NEW END", "1 rows neither came nor were there"),
        ("NEW.price := NEW.price + CASE WHEN NEW.frame_no = 500 THEN 0.01 ELSE 0 END; RETURN NEW", "checksums differ"),
    ],
    ids=["lost", "changed"],
)
async def test_a_slice_that_does_not_arrive(database: str, loss: str, why: str) -> None:
    """Rows that are lost or changed on the way (by somebody's trigger) stay where they were; other tables move."""
    await fill(database, 1000)
    before = await totals(database)
    await lossy(database, "price_history", loss)
    done = await rolling(database).run_once()

    (trouble,) = done.troubles
    assert isinstance(trouble, RolloverError)
    assert why in str(trouble)
    assert await totals(database) == before
    left = await count(database, "live_data")
    assert left == {"btc_price_log": left["btc_price_log"]} | dict.fromkeys(LIVE[1:], 0)
    assert left["btc_price_log"] >= 300


async def test_one_at_a_time(database: str) -> None:
    """While another one moves a slice, a rollover moves nothing and says so; afterwards it can."""
    await fill(database, 10)
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(7307190614)")
            done = await rolling(database).run_once()
    finally:
        await connection.close()
    assert {type(trouble) for trouble in done.troubles} == {TryLaterError}
    assert await count(database, "live_data") == dict.fromkeys(LIVE, 10) | {"market_data": 1}
    await roll(database)


async def test_an_emptied_partition_is_dropped_later(database: str) -> None:
    """It goes a pass after it was found empty, when whoever could still see its rows has ended; DEFAULT stays."""
    await make_days(database)
    await fill(database, 300, "49 hours")
    mover = rolling(database)
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'live_data.btc_price_log'::regclass"
    reader = await asyncpg.connect(database)
    try:
        snapshot = reader.transaction(isolation="repeatable_read", readonly=True)
        await snapshot.start()
        assert await reader.fetchval("SELECT 1 FROM ingest.offsets") is None  # it has its view, and no lock on rows
        before = await one(database, partitions)
        for _ in range(3):
            assert (await mover.run_once()).troubles == []
        assert await one(database, partitions) == before
        assert await reader.fetchval("SELECT count(*) FROM live_data.btc_price_log") == 300
        assert await reader.fetchval("SELECT count(*) FROM historical_data.price_timeline") == 300
        await snapshot.rollback()

        assert (await mover.run_once()).troubles == []
        after = await one(database, partitions)
        assert isinstance(before, int)
        assert after == before - 2  # three days and two days ago; a part of yesterday is young
        assert await one(database, f"{partitions} AND inhrelid = 'live_data.btc_price_log_default'::regclass") == 1
    finally:
        await reader.close()


async def test_late_rows_that_pass_through_are_seen(database: str) -> None:
    """Rows that came late to a partition found empty, and moved on, are seen by whoever began in between."""
    await make_days(database, range(-3, -2))
    mover = rolling(database)
    assert (await mover.run_once()).troubles == []
    await fill(database, 100, "73 hours")
    reader = await asyncpg.connect(database)
    try:
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            assert await reader.fetchval("SELECT 1 FROM ingest.offsets") is None
            assert (await mover.run_once()).moved["live_data.btc_price_log"] == 100
            assert await reader.fetchval("SELECT count(*) FROM historical_data.price_timeline") == 100
    finally:
        await reader.close()


async def test_a_reader_does_not_hold_the_drop_up(database: str) -> None:
    """A partition that is read stays, the pass goes on without trouble, and a later one drops it."""
    await make_days(database, range(-3, -2))
    mover = rolling(database)
    reader = await asyncpg.connect(database)
    try:
        async with reader.transaction():
            await mover.run_once()
            await reader.fetch("SELECT FROM live_data.btc_price_log")
        assert (await mover.run_once()).troubles == []
        await make_days(database, range(-3, -2))
        await mover.run_once()
        async with reader.transaction():
            mover._emptied.update({name: set() for name in mover._emptied})  # as if it had come later
            await reader.fetch("SELECT FROM live_data.btc_price_log")
            started = asyncio.get_running_loop().time()
            assert (await mover.run_once()).troubles == []
            assert asyncio.get_running_loop().time() - started < 5
            assert await one(database, "SELECT count(*) FROM pg_inherits WHERE inhparent ="
                             " 'live_data.btc_price_log'::regclass") == 2  # fmt: skip
    finally:
        await reader.close()
    assert (await mover.run_once()).troubles == []
    assert (
        await one(database, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'live_data.btc_price_log'::regclass")
        == 1
    )


async def test_the_drop_asks_what_it_is_told(database: str) -> None:
    """A partition with rows, of younger days, or of another schema, is never dropped, whoever asks."""
    await make_days(database)
    await fill(database, 1, "49 hours")
    today = datetime.now(UTC)
    for name in (
        f"live_data.btc_price_log_{today - timedelta(hours=49):%Y%m%d}",
        f"live_data.btc_price_log_{today:%Y%m%d}",
        "live_data.btc_price_log_default",
        "historical_data.price_history_default",
        "live_data.no_such_table",
    ):
        assert await one(database, f"SELECT ingest.drop_live_partition_v2('{name}', 'infinity')") is False


@pytest.mark.parametrize(
    ("held", "within_s"), [("btc_price_log", 0.045), ("btc_price_log_{day}", 0.025), ("btc_price_log_default", 0.025)]
)
async def test_ingest_waits_for_no_drop(database: str, held: str, within_s: float) -> None:
    """Whatever a reader holds, an attempt is over within its share of the 50 ms that ingest may queue behind it."""
    await make_days(database, range(-3, -2))
    day = f"{datetime.now(UTC) - timedelta(days=3):%Y%m%d}"
    reader, dropper = await asyncpg.connect(database), await asyncpg.connect(database)
    loop, took_s = asyncio.get_running_loop(), []
    try:
        async with reader.transaction():
            await reader.execute(f"LOCK TABLE ONLY live_data.{held.format(day=day)} IN ACCESS SHARE MODE")
            for _ in range(10):
                started_s = loop.time()
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await dropper.execute(
                        f"SELECT ingest.drop_live_partition_v2('live_data.btc_price_log_{day}', 'infinity')"
                    )
                took_s.append(loop.time() - started_s)
    finally:
        await dropper.close()
        await reader.close()
    assert 0.01 <= min(took_s) < within_s, took_s  # the machine's own pauses are in the others


async def test_a_frame_out_of_the_quarantine(database: str) -> None:
    """Rows of a frame that is decoded again are replaced where they have rolled over; another file's number is not."""
    entry = (
        "INSERT INTO ingest.quarantine (stream, frame_no, feed, received_at, reason, detail, frame)"
        " VALUES ('live', 7, 'kalshi', '2026-09-21Z', 'schema', '', '')"
    )
    row = (
        'INSERT INTO live_data.market_data ("timestamp", received_at, venue, ticker, frame_no, row_no, status)'
        " VALUES ('2026-09-21Z', '{}', 'kalshi', 'M', 7, {}, 'active')"
    )
    await execute(database, "SET timezone = 'UTC'", entry, row.format("2026-09-21Z", 1), row.format("2026-09-21Z", 2),
                  row.format("2026-09-20Z", 1))  # fmt: skip
    await roll(database)
    async with store.session(database) as opened:
        (waiting,) = await opened.open_quarantine(0, 10)
        when = waiting["received_at"]
        again = MarketState(when, when, "kalshi", "M", 7, 1, status="finalized")
        assert await opened.release(waiting, Decoded(Outcome.SHIPPED, (again,)))
    await roll(database)

    assert await rows(
        database,
        "SELECT row_no, status, received_at < '2026-09-21Z' FROM historical_data.market_data_history ORDER BY 1, 3",
    ) == [(1, "finalized", False), (1, "active", True), (2, "active", False)]


async def test_command_line(database: str, tmp_path: Path) -> None:
    """--rollover moves what is old, says how much, and a second run finds nothing."""
    await fill(database, 1000)
    for expected in ("live_data.btc_price_log: 1000 rows", "no row is old enough"):
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "--rollover", stdout=asyncio.subprocess.PIPE,
            env={"HOME": str(tmp_path), "RECIO_DATABASE__DSN": database, "RECIO_STATE_DIR": str(tmp_path)},
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert expected in output.decode()
    assert await count(database, "live_data") == dict.fromkeys(LIVE, 0)


def test_a_statement_has_all_its_pieces() -> None:
    """No mark is left in the statement of any table."""
    for move in MOVES:
        for new in (True, False):
            text = moves.slice_statement(move, "live_data.leaf", keep_raw=False, new=new)
            assert "{" not in text
            assert "NULL::jsonb" in text or "raw_json" not in text
