"""What a parser has back from the tables at every start, and what it costs to ask."""

from __future__ import annotations

import re

import asyncpg
import pytest
from harness.databases import execute
from rollover_data import roll_all
from samples import START_NS

from recio_ingest import store
from recio_ingest.decode import Decoder, recall
from recio_ingest.records import LIVE_STREAM, Frame, Kind
from recio_ingest.sql import statement

MARKET = (
    b'{"ticker":"M-1","event_ticker":"M","title":"T","status":"active","strike_type":"greater","floor_strike":60199.990,'
    b'"yes_bid_dollars":"0.4000","yes_bid_size_fp":"3.00","yes_ask_dollars":"1.0000","yes_ask_size_fp":"0.00",'
    b'"close_time":"2026-09-21T15:00:00Z","result":"","expiration_value":"60,123.45","volume_fp":"5.50"}'
)
TRADE = (
    b'{"type":"trade","sid":2,"seq":1,"msg":{"trade_id":"t-1","market_ticker":"M-1","yes_price_dollars":"0.4600",'
    b'"count_fp":"3.25","taker_outcome_side":"no","ts_ms":1790000000000}}'
)
PRINT = (
    b'{"type":"cfbenchmarks_value","sid":5,"seq":1,"msg":{"index_id":"BRTI",'
    b'"data":"{\\"type\\":\\"value\\",\\"time\\":1790000000000,\\"id\\":\\"BRTI\\",\\"value\\":\\"60000.10\\"}"}}'
)
SETTLED = b'{"type":"market_lifecycle_v2","sid":4,"seq":1,"msg":{"market_ticker":"M-1","event_type":"settled"}}'
ODD = b'{"ticker":"M-2","status":"active","floor_strike":"high","volume_fp":1.50}'
MESSAGES = (TRADE, PRINT, SETTLED, b'{"markets":[' + MARKET + b"," + ODD + b'],"cursor":""}')


def frames(first_no: int) -> list[Frame]:
    """The same messages, as another connection would bring them."""
    marks = Frame(first_no, START_NS, "kalshi", Kind.CONNECTED, b'{"series":["M"],"by":"socket"}')
    return [marks, *(Frame(first_no + 1 + n, START_NS, "kalshi", Kind.DATA, data) for n, data in enumerate(MESSAGES))]


@pytest.mark.parametrize("past", [False, True], ids=["live", "past"])
async def test_a_restart_knows_what_is_stored(database: str, past: bool) -> None:  # noqa: FBT001  # a parameter of pytest's
    """What came before a restart and comes again is no second row: the tables say so, to the last digit.

    So they do where it has rolled over meanwhile.
    """
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        batch = Decoder({}).decode(frames(1))
        assert sum(map(len, batch.tables.values())) == 5
        assert len(batch.quarantine) == 1
        position = await opened.commit(position, batch)
        if past:
            await roll_all(database)

        again = Decoder(position.state, await opened.recall(recall(), position.state)).decode(frames(11))
        assert (again.tables, again.quarantine) == ({}, [])


TIME = "'2026-09-21 14:00Z'::timestamptz"
GIVEN = {
    "recent_prices": ("ARRAY['coinbase']", "ARRAY['BTC-USD']", f"ARRAY[{TIME}]", "9", TIME),
    "kalshi_gaps": ("9",),
}
MONTHS = range(202601, 202613)
PAST = ("price_history", "momentum_history", "market_history", "market_data_history", "strike_history")


async def explained(dsn: str, name: str) -> dict[str, list[str]]:
    """Return how the server reads for a statement: of each table the indexes, "Seq Scan" where there is none."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET enable_seqscan = off; SET timezone = 'UTC'")
        query = re.sub(r"\$\d::text::jsonb", "'{}'::jsonb", statement(name))
        for number, value in enumerate(GIVEN.get(name, (TIME,)), 1):
            query = query.replace(f"${number}", value)
        plan = [row[0] for row in await connection.fetch(f"EXPLAIN {query}")]
    finally:
        await connection.close()
    found: dict[str, list[str]] = {}
    for how, table in re.findall(r"(\w[\w ]*) on (\w+)", "\n".join(plan)):
        name = table if how == "Bitmap Index Scan" else how.partition(" using ")[2] or how
        found.setdefault("" if how == "Bitmap Index Scan" else table, []).append(name)
    return found


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("recent_prices", "symbol_timestamp"),
        ("kalshi_trades", "steps"),
        ("kalshi_settled", "steps"),
        ("kalshi_quotes", "steps"),
        ("kalshi_states", "states"),
        ("kalshi_refused", "quarantine"),
        ("kalshi_prints", "symbol_timestamp"),
        ("kalshi_gaps", "close_time"),
        ("strike_markets", "close_time"),
        ("strike_markets", "steps"),
        ("strike_quotes", "ticker_timestamp"),
        ("strike_rows", "btc_live_strikes_ticker"),
    ],
)
async def test_asking_reads_no_table_whole(database: str, name: str, index: str) -> None:
    """After months of rows a start reads the newest by an index, and none of the others."""
    read = await explained(database, name)
    indexes = [each for found in read.values() for each in found]
    assert any(index in each or "_idx" in each for each in indexes)
    assert "Seq Scan" not in indexes


@pytest.mark.parametrize("name", [*(name for name in recall() if name != "kalshi_refused"), "recent_prices"])
async def test_asking_reads_the_last_months(database: str, name: str) -> None:
    """Of twelve months of the past, a start in September reads none before it looks back to, and those by an index."""
    for table in PAST:
        for month in MONTHS:
            first = f"{month // 100}-{month % 100:02d}-01Z"
            await execute(
                database,
                f"SELECT ingest.make_partition_v1('historical_data.{table}', 'historical_data.{table}_{month}',"
                f" 'timestamp', '{first}', '{first}'::timestamptz + interval '1 month')",
            )
    past = {table: found for table, found in (await explained(database, name)).items() if "history_2026" in table}
    assert {table[-6:] for table in past} == {"202609", "202610", "202611", "202612"}
    assert "Seq Scan" not in [each for found in past.values() for each in found]
