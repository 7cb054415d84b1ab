"""The settlement check over the tables: by the command and by the daemon's own pass."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.databases import execute
from harness.waiting import until
from prometheus_client import REGISTRY
from test_cli import Command
from test_settlement import captured, expirations
from test_store import rows

from recio_ingest import partitions, store, verify
from recio_ingest.feeds import rules
from recio_ingest.records import EPOCH, LIVE_STREAM, micros
from recio_ingest.settlement import Result, Settlement
from recio_ingest.ship import Progress
from recio_ingest.sql import statement
from recio_ingest.store import Store
from recio_ingest.verify import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOSE = datetime(2026, 9, 25, 20, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LIVE, PAST = "live_data.btc_price_log", "historical_data.price_history"
STATES, PAST_STATES = "live_data.market_data", "historical_data.market_data_history"
# What 60 prints of 84000.00, 84000.01, ... give.
VALUE = "84000.30"


@pytest.fixture
async def session(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of a superuser, to put rows where they could be."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def put_prints(
    session: asyncpg.Connection, close: datetime = CLOSE, seconds: Sequence[int] = range(60), table: str = LIVE
) -> None:
    """Store the prints of these seconds of the last minute: 84000.00, 84000.01, and so on."""
    moments = [close + (second - 60) * SECOND for second in seconds]
    prices = [Decimal(8400000 + second).scaleb(-2) for second in seconds]
    source, arrived = ("source", "received_at") if table == PAST else ("venue", "received_at")
    await session.execute(
        f'INSERT INTO {table} ({source}, symbol, "timestamp", {arrived}, price)'
        " SELECT 'cfbenchmarks', 'BRTI', at, at + interval '1.5 s', price"
        " FROM unnest($1::timestamptz[], $2::numeric[]) AS print (at, price)",
        moments,
        prices,
    )


async def put_market(  # what a description says
    session: asyncpg.Connection,
    event: str,
    published: str | None = VALUE,
    close: datetime = CLOSE,
    *,
    strike: int = 1,
    table: str = STATES,
    frame_no: int = 1,
) -> None:
    """Store what was told of one market."""
    changed = close + timedelta(minutes=2 if published else -60)
    await session.execute(
        f'INSERT INTO {table} ("timestamp", received_at, close_time, expected_expiration_time, venue, ticker,'
        " event_ticker, series_ticker, status, expiration_value, frame_no, row_no)"
        " VALUES ($1, $1, $2, $2::timestamptz + interval '5 minutes', 'kalshi', $3 || '-T' || $4::text, $3,"
        " split_part($3, '-', 1), 'finalized', $5::text::numeric, $6, 0)",
        changed, close, event, str(strike), published, frame_no,
    )  # fmt: skip


async def make_partitions(dsn: str) -> None:
    """Make some months of history, from August to November, and two days of live prints around a month's turn."""
    connection = await store.connect(dsn, role=None)
    try:
        for table in (PAST, PAST_STATES):
            for month in partitions.monthly(table, datetime(2026, 8, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)):
                await Store(connection).make_partition(month, "timestamp")
        for day in partitions.daily(LIVE, datetime(2026, 9, 30, tzinfo=UTC), 1):
            await Store(connection).make_partition(day, "received_at")
    finally:
        await connection.close()


async def checked(dsn: str, *, again: bool = True) -> dict[str, Settlement]:
    """Check, and return what was found by event."""
    connection = await store.connect(dsn)
    try:
        return {row.event_ticker: row async for row in verify.verify(connection, rules(), 0, again=again)}
    finally:
        await connection.close()


async def stored(dsn: str) -> list[tuple[object, ...]]:
    """What is written down, by event."""
    query = "SELECT event_ticker, outcome, prints, computed::text, published::text FROM ingest.settlements ORDER BY 1"
    return await rows(dsn, query)


async def test_capture(session: asyncpg.Connection, database: str, tmp_path: Path) -> None:
    """The recorded minutes and the published values of three series are found equal, as rows, by the command."""
    for number, about in enumerate(expirations()):
        close, prints = captured(about)
        await session.executemany(
            f'INSERT INTO {LIVE} (venue, symbol, "timestamp", received_at, price)'
            " VALUES ('cfbenchmarks', 'BRTI', $1, $1, $2)",
            [(EPOCH + timedelta(microseconds=moment), price) for moment, price in prints],
        )
        for series in about["series"]:
            closes = EPOCH + timedelta(microseconds=close)
            await put_market(session, f"{series}-{number}", about["expiration_value"], closes)
    command = Command(tmp_path)
    assert await asyncio.to_thread(command, "--verify-settlements", RECIO_DATABASE__DSN=database) == 0
    assert command.out == "4 events: 4 equal, 0 differs, 0 incomplete, 0 unpublished\n"
    assert await stored(database) == [
        ("KXBTC-0", "equal", 60, "84028.57", "84028.57"),
        ("KXBTC15M-0", "equal", 60, "84028.57", "84028.57"),
        ("KXBTC15M-1", "equal", 60, "83963.17", "83963.17"),
        ("KXBTCD-0", "equal", 60, "84028.57", "84028.57"),
    ]


GAP = (
    "59 of 60 prints; missing 2026-09-25T18:59:30Z; gap 77/5 (reset, 2026-09-25T18:59:29Z to 2026-09-25T18:59:30.500Z)"
)
GAPS = """
INSERT INTO ingest.gaps (frame_no, gap_no, feed, channel, scope, cause, from_time, to_time) VALUES
 (77, 5, 'kalshi', 'cfbenchmarks_value', 'connection', 'reset', '2026-09-25 18:59:29Z', '2026-09-25 18:59:30.5Z'),
 (77, 2, 'kalshi', 'ticker', 'connection', 'reset', '2026-09-25 18:59:29Z', '2026-09-25 18:59:31Z'),
 (78, 5, 'kalshi', 'cfbenchmarks_value', 'connection', 'reset', '2026-09-25 19:00Z', NULL)
"""


async def test_command(session: asyncpg.Connection, database: str, tmp_path: Path) -> None:
    """Each outcome is told and written down; a wrong value alone makes the exit code 1."""
    await put_prints(session)
    await put_prints(session, CLOSE - timedelta(hours=1), [*range(30), *range(31, 60)])
    await put_market(session, "KXBTCD-A")
    await put_market(session, "KXBTC-B", "84000.29")
    await put_market(session, "KXBTCD-C", "84000.30", CLOSE - timedelta(hours=1))
    await put_market(session, "KXBTC15M-D", None)
    await put_market(session, "KXETHD-E", "3000.00")
    await session.execute(GAPS)
    command = Command(tmp_path)
    series = {"RECIO_DATABASE__DSN": database, "RECIO_FEEDS__KALSHI__SERIES": "KXBTCD,KXETHD"}
    assert await asyncio.to_thread(command, "--verify-settlements", **series) == 1
    assert command.out.splitlines() == [
        "KXETHD: not checked, as it is not known how its events are settled",
        f"KXBTCD-C: incomplete: {GAP}",
        "KXBTC-B: differs: the prints give 84000.30; published 84000.29, which is -0.01",
        "KXBTC15M-D: unpublished: the venue has not published a value",
        "4 events: 1 equal, 1 differs, 1 incomplete, 1 unpublished",
    ]
    assert await stored(database) == [
        ("KXBTC-B", "differs", 60, "84000.30", "84000.29"),
        ("KXBTC15M-D", "unpublished", 60, "84000.30", None),
        ("KXBTCD-A", "equal", 60, "84000.30", "84000.30"),
        ("KXBTCD-C", "incomplete", 59, None, "84000.30"),
    ]
    await put_market(session, "KXBTC-B", "84000.30", frame_no=2)
    assert await asyncio.to_thread(command, "--verify-settlements", **series) == 0


EDGES = [
    datetime(2026, 10, 1, tzinfo=UTC),  # a month, and a day, and so partitions, begin
    datetime(2026, 9, 26, tzinfo=UTC),
    datetime(2026, 11, 1, 5, tzinfo=UTC),  # summer time ends in New York: one in the morning comes twice
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),  # and begins
]


WHERE = {
    "live": [(LIVE, [*range(59, -1, -1)])],
    "past": [(PAST, [*range(0, 60, 2), *range(1, 60, 2)])],
    "both": [(LIVE, [*range(60)]), (PAST, [*range(60)])],
    "halves": [(LIVE, [*range(30, 60)]), (PAST, [*range(31)])],
}


@pytest.mark.parametrize("where", WHERE)
async def test_wherever_rows_lie(session: asyncpg.Connection, database: str, where: str) -> None:
    """Live, historical, in both for a moment, out of order, in any partition: each second counts once."""
    await session.execute(
        f"ALTER DATABASE {await session.fetchval('SELECT current_database()')} SET timezone = 'America/New_York'"
    )
    await make_partitions(database)
    for number, close in enumerate(EDGES):
        for table, seconds in WHERE[where]:
            await put_prints(session, close, seconds, table)
        past = where == "past" or (where == "halves" and number % 2)
        await put_market(session, f"KXBTCD-{number}", close=close, table=PAST_STATES if past else STATES)
        if where == "both":
            await put_market(session, f"KXBTCD-{number}", close=close, table=PAST_STATES)
    found = await checked(database)
    assert [(row.outcome, row.prints) for row in found.values()] == [(Result.EQUAL, 60)] * len(EDGES)


async def test_the_newest_description_counts(session: asyncpg.Connection, database: str) -> None:
    """A close that was moved is where it was moved to, and a value that was corrected is the new one."""
    later = CLOSE + timedelta(days=2)
    await put_prints(session, later)
    await put_market(session, "KXBTCD-A", None, CLOSE, table=PAST_STATES, frame_no=1)
    await put_market(session, "KXBTCD-A", "1.00", later, frame_no=2)
    await put_market(session, "KXBTCD-A", VALUE, later, frame_no=3)
    await session.execute(  # a step of its life names neither event nor value
        f'INSERT INTO {STATES} ("timestamp", venue, ticker, close_time, frame_no)'
        " VALUES ($1, 'kalshi', 'KXBTCD-A-T1', $1, 4)",
        later,
    )
    await put_market(session, "KXBTCD-B", VALUE, later, strike=1)
    await put_market(session, "KXBTCD-B", VALUE, later + SECOND, strike=2)
    await put_market(session, "KXBTCD-C", VALUE, datetime.now(UTC) + timedelta(minutes=9))
    found = await checked(database)
    assert {name: row.outcome for name, row in found.items()} == {
        "KXBTCD-A": Result.EQUAL,
        "KXBTCD-B": Result.INCOMPLETE,
    }
    assert "close at different times" in (found["KXBTCD-B"].why or "")


async def test_only_what_changed_is_written(session: asyncpg.Connection, database: str) -> None:
    """What was found equal is not looked at again unless its value changed; what was not, is, and late rows mend it."""
    await put_prints(session)
    await put_prints(session, CLOSE - timedelta(hours=1), range(1, 60))
    await put_market(session, "KXBTCD-A")
    await put_market(session, "KXBTCD-B", close=CLOSE - timedelta(hours=1))
    assert {name: row.outcome for name, row in (await checked(database, again=False)).items()} == {
        "KXBTCD-A": Result.EQUAL,
        "KXBTCD-B": Result.INCOMPLETE,
    }
    query = "SELECT event_ticker, checked_at, xmin::text FROM ingest.settlements ORDER BY 1"
    before = await rows(database, query)
    assert [*await checked(database, again=False)] == ["KXBTCD-B"]
    assert [*await checked(database)] == ["KXBTCD-B", "KXBTCD-A"]
    assert await rows(database, query) == before, "nothing changed, so nothing is written"

    await put_prints(session, CLOSE - timedelta(hours=1), [0], PAST)
    await put_market(session, "KXBTCD-A", "84000.31", frame_no=2)
    assert Counter(row.outcome for row in (await checked(database, again=False)).values()) == {
        Result.EQUAL: 1,
        Result.DIFFERS: 1,
    }
    assert (await checked(database, again=False)).keys() == {"KXBTCD-A"}


async def test_archived_prints(session: asyncpg.Connection, database: str) -> None:
    """Events whose prints are all gone keep the verdict that they had; a single print taken away is told."""
    await put_prints(session)
    await put_market(session, "KXBTCD-A")
    assert (await checked(database))["KXBTCD-A"].outcome == Result.EQUAL
    await session.execute(f"DELETE FROM {LIVE} WHERE price = 84000.07")
    less = (await checked(database))["KXBTCD-A"]
    assert (less.outcome, less.prints) == (Result.INCOMPLETE, 59)
    await put_prints(session, seconds=[7])
    before = await checked(database)
    await session.execute(f"DELETE FROM {LIVE}")
    assert await checked(database) == before
    assert await stored(database) == [("KXBTCD-A", "equal", 60, "84000.30", "84000.30")]


async def test_archived_prints_and_descriptions(session: asyncpg.Connection, database: str) -> None:
    """A difference stays one when its prints are gone, and what was published when only a step of its life is left."""
    await put_prints(session)
    await put_market(session, "KXBTCD-A", "84000.31")
    await put_market(session, "KXBTCD-B")
    before = await checked(database)
    assert [row.outcome for row in before.values()] == [Result.DIFFERS, Result.EQUAL]
    await session.execute(f"DELETE FROM {LIVE}; UPDATE {STATES} SET expiration_value = NULL")
    assert await checked(database) == before
    assert (await checked(database, again=False)).keys() == {"KXBTCD-A"}
    await put_market(session, "KXBTCD-A", "84000.30", frame_no=2)
    assert (await checked(database))["KXBTCD-A"].outcome == Result.EQUAL, "a value that is corrected later still counts"


async def test_an_event_over_midnight_is_one(session: asyncpg.Connection, database: str) -> None:
    """Markets of one event that close on two days are looked at together, and each check says the same."""
    midnight = CLOSE.replace(hour=0)
    for strike, close in enumerate((midnight - timedelta(hours=1), midnight + timedelta(hours=1))):
        await put_prints(session, close)
        await put_market(session, "KXBTCD-A", close=close, strike=strike)
    found = (await checked(database))["KXBTCD-A"]
    assert (found.outcome, found.close_time) == (Result.INCOMPLETE, micros(midnight + timedelta(hours=1)))
    assert "close at different times" in (found.why or "")
    assert await rows(database, "SELECT outcome FROM ingest.settlements") == [("incomplete",)]


async def test_the_documented_query(session: asyncpg.Connection) -> None:
    """The query of docs/operations.md gives the 60 prints of a close, and the view that it reads is the reader's."""
    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    (query,) = [block for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL) if "price_timeline" in block]
    await put_prints(session, seconds=range(40))
    await put_prints(session, seconds=range(40, 60), table=PAST)
    await put_prints(session, CLOSE + timedelta(minutes=1))
    await session.execute("SET ROLE recio_read")
    found = await session.fetch(query)
    assert [row["price"] for row in found] == [Decimal(8400000 + n).scaleb(-2) for n in range(60)]


async def test_the_books_refuse_what_cannot_be(database: str) -> None:
    """A row that calls equal what is not, or has a value without its prints, is refused."""
    put = (
        "INSERT INTO ingest.settlements (event_ticker, venue, close_time, outcome, prints, computed, published)"
        " VALUES ('A', 'kalshi', now(), "
    )
    for values in ("'equal', 60, 1, 2", "'equal', 59, 1, 1", "'equal', 60, NULL, NULL", "'differs', 60, NULL, 1",
                   "'incomplete', 3, 1, 1", "'lost', 60, 1, 1", "'incomplete', 61, NULL, 1"):  # fmt: skip
        with pytest.raises(asyncpg.CheckViolationError):
            await execute(database, f"{put}{values})")
    await execute(database, f"{put}'equal', 60, 1.0, 1.00)")


# Twenty days of 24 events, ten markets each; a day of prints in each of two months, and half a live one.
FILL = f"""
INSERT INTO {PAST_STATES} ("timestamp", received_at, close_time, venue, ticker, event_ticker, expiration_value,
                           frame_no, row_no)
SELECT h + step * interval '10 minutes', h, h, 'kalshi', 'KXBTCD-' || extract(epoch FROM h) || '-T' || strike,
       'KXBTCD-' || extract(epoch FROM h), CASE step WHEN 1 THEN 84000.3 END, step + 2, strike
  FROM generate_series(timestamptz '2026-09-10 00:00Z', '2026-09-29 23:00Z', '1 hour') h, generate_series(-1, 1) step,
       generate_series(1, 10) strike;
INSERT INTO {STATES} ("timestamp", received_at, close_time, venue, ticker, event_ticker, frame_no)
SELECT "timestamp" + interval '60 days', received_at + interval '60 days', close_time + interval '60 days', venue,
       'KXBTC-' || ticker, 'KXBTC-' || event_ticker, frame_no
  FROM {PAST_STATES} WHERE close_time >= '2026-09-28 00:00Z';
INSERT INTO {PAST} (source, symbol, "timestamp", price)
SELECT 'cfbenchmarks', 'BRTI', day + s * interval '1 second', 84000.3
  FROM unnest(ARRAY['2026-08-20 00:00Z', '2026-09-25 00:00Z']::timestamptz[]) day, generate_series(0, 86400) s;
INSERT INTO {LIVE} (venue, symbol, "timestamp", received_at, price)
SELECT 'cfbenchmarks', 'BRTI', at, at, 84000.3
  FROM generate_series(timestamptz '2026-11-24 00:00Z', '2026-11-24 12:00Z', '1 second') at;
ANALYZE;
"""


async def test_questions_go_by_index(session: asyncpg.Connection, database: str) -> None:
    """A day of closes is looked at by indexes alone, and reads none of the months that have nothing to do with it."""
    await make_partitions(database)
    await session.execute(FILL)
    lower, upper = CLOSE.replace(hour=0), CLOSE.replace(hour=0) + timedelta(days=1)
    closes = [lower + n * timedelta(hours=1) for n in range(24)]
    wider = lower - timedelta(days=1), upper + timedelta(days=1)
    questions = {
        "settlement_first": (lower, lower - timedelta(days=9)),
        "settlement_events": ("kalshi", ["KXBTCD"], lower, upper, True, lower - timedelta(days=9), upper, *wider),
        "settlement_prints": ("cfbenchmarks", "BRTI", closes, lower - timedelta(minutes=1), upper),
    }
    for name, arguments in questions.items():
        plan = "\n".join(row[0] for row in await session.fetch(f"EXPLAIN {statement(name)}", *arguments))
        scanned = {line.split(" on ")[1].split()[0] for line in plan.splitlines() if "Seq Scan" in line}
        empty = {row[0] for row in await session.fetch("SELECT relname FROM pg_class WHERE reltuples <= 0")}
        assert scanned - empty - {"settlements"} == set(), f"{name}\n{plan}"
        assert "_history_202609" in plan
        assert "_history_202608" not in plan
        assert "Subplans Removed" not in plan, "months are left out before they are planned for"
    found = await checked(database)
    assert len([row for row in found.values() if row.outcome == Result.EQUAL]) == 24


async def test_the_daemons_pass(session: asyncpg.Connection, database: str) -> None:
    """The daily task writes what it finds, shows it as a metric, lives through a failure, and logs what differs."""
    recent = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    await put_prints(session, recent)
    await put_market(session, "KXBTCD-A", close=recent)
    await put_market(session, "KXBTCD-B", "84000.31", recent)
    await put_market(session, "KXBTCD-C", close=CLOSE)
    progress = Progress()
    verifier = Verifier(database, rules(), progress, first_after_s=0)

    async def counted() -> bool:
        return verifier.counts is not None

    task = asyncio.create_task(verifier.run())
    try:
        await asyncio.sleep(0.1)
        assert not await counted(), "not before the schema is known to be there"
        async with store.session(database) as opened:
            progress.position = await opened.acquire(LIVE_STREAM, "spool-a", start_no=0)
        progress.schema_ready = True
        await until(counted, within_s=20, what="the first check")
    finally:
        task.cancel()
    assert verifier.counts == {"equal": 1, "differs": 1, "incomplete": 0, "unpublished": 0}
    shown = {result: REGISTRY.get_sample_value("recio_ingest_settlements", {"outcome": result}) for result in Result}
    assert shown == verifier.counts
    assert await rows(database, "SELECT count(*) FROM ingest.settlements") == [(3,)]


async def test_a_pass_that_fails_is_tried_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is not there, or a table of another shape, ends neither the task nor, so, the daemon."""
    monkeypatch.setattr(verify, "RETRY_S", 0.05)
    async with store.session(database) as opened:
        progress = Progress(await opened.acquire(LIVE_STREAM, "spool-a", start_no=0), schema_ready=True)
    await execute(database, "ALTER TABLE ingest.settlements RENAME TO elsewhere")
    verifier = Verifier(database, rules(), progress, first_after_s=0)
    task = asyncio.create_task(verifier.run())
    try:
        await asyncio.sleep(0.5)
        assert (task.done(), verifier.counts) == (False, None)
        await execute(database, "ALTER TABLE ingest.elsewhere RENAME TO settlements")

        async def counted() -> bool:
            return verifier.counts is not None

        await until(counted, within_s=20, what="a check that succeeds")
    finally:
        task.cancel()


async def test_who_may_do_what(database: str) -> None:
    """The ingest role writes settlements and reads history, the reader reads them, and neither deletes."""
    connection = await asyncpg.connect(database)
    try:
        for role, may in (("recio_ingest", {"SELECT", "INSERT", "UPDATE"}), ("recio_read", {"SELECT"})):
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                has = await connection.fetchval("SELECT has_table_privilege($1, 'ingest.settlements', $2)", role, right)
                assert has == (right in may), f"{role}: {right}"
            assert await connection.fetchval("SELECT has_table_privilege($1, $2, 'SELECT')", role, PAST)
            assert await connection.fetchval("SELECT has_table_privilege($1, $2, 'SELECT')", role, PAST_STATES)
    finally:
        await connection.close()
