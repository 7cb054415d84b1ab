"""What a parser has back from the tables at every start, and what it costs to ask."""

from __future__ import annotations

import asyncpg
import pytest
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


async def test_a_restart_knows_what_is_stored(database: str) -> None:
    """What came before a restart and comes again is no second row: the tables say so, to the last digit."""
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        batch = Decoder({}).decode(frames(1))
        assert sum(map(len, batch.tables.values())) == 5
        assert len(batch.quarantine) == 1
        position = await opened.commit(position, batch)

        again = Decoder(position.state, await opened.recall(recall(), position.state)).decode(frames(11))
        assert (again.tables, again.quarantine) == ({}, [])


WANTED = {
    "$1": "ARRAY['coinbase']",
    "$2": "ARRAY['BTC-USD']",
    "$3": "ARRAY['2026-09-21 14:00Z'::timestamptz]",
    "$4": "9",
}


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
        ("strike_markets", "close_time"),
        ("strike_markets", "steps"),
        ("strike_quotes", "ticker_timestamp"),
        ("strike_rows", "btc_live_strikes_ticker"),
    ],
)
async def test_asking_reads_no_table_whole(database: str, name: str, index: str) -> None:
    """After months of rows a start reads the newest by an index, and none of the others."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET enable_seqscan = off")
        query = statement(name)
        for parameter, value in (WANTED if name == "recent_prices" else {"$1": "'{}'"}).items():
            query = query.replace(parameter, value)
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {query}"))
    finally:
        await connection.close()
    assert index in plan or "_idx" in plan
    assert "Seq Scan" not in plan
