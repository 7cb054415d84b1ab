"""An oracle that cannot see a fault proves nothing: each fault is made by hand, and must be named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import asyncpg
import pytest
from harness.databases import execute
from harness.ledger import Ledger, missing_from
from harness.market import Market, Trade
from harness.oracle import check
from harness.spool import CONNECTED, DATA, BrokenSpoolError, read_spool, segments
from harness.spool_writer import Written, write_segment

if TYPE_CHECKING:
    from pathlib import Path

MARKET = Market("BTC-USD", first_id=1001, start_ns=1_790_000_000_000_000_000, step_ns=7_654_321)
SENT = [1001, *range(1002, 1021), *range(1026, 1061)]  # 1021 to 1025 were lost on the way
FIRST_FRAME = 1_790_000_000_000_000
SPOOLED, COMMITTED = 50, 45  # frames
TRIMMABLE = next(n for n in SENT[:40] if MARKET.trade(n).price.endswith("0"))

TABLES = """
CREATE SCHEMA live_data;
CREATE SCHEMA ingest;
CREATE TABLE live_data.btc_price_log (venue text, symbol text, trade_id bigint, "timestamp" timestamptz,
    price numeric, size numeric, side text, frame_no bigint);
CREATE TABLE ingest.quarantine (frame_no bigint);
CREATE TABLE ingest.gaps (feed text, scope text, from_seq bigint, to_seq bigint);
CREATE TABLE ingest.offsets (stream text, spool_id text, frame_no bigint, received_frames bigint,
    shipped_frames bigint, state_frames bigint, duplicate_frames bigint, control_frames bigint,
    quarantined_frames bigint);
"""


def write_spool(folder: Path) -> list[Trade | None]:
    """Write a connected mark and the first trades sent, in two segments; return the trade of each frame."""
    trades = [None, *map(MARKET.trade, SENT[: SPOOLED - 1])]
    frames = [Written(CONNECTED, b"{}")] + [Written(DATA, json.dumps(t.message()).encode()) for t in trades if t]
    split = 30
    write_segment(folder, FIRST_FRAME, None, [frames[:10], frames[10:split]])
    write_segment(folder, FIRST_FRAME + split, FIRST_FRAME + split - 1, [frames[split:]])
    return trades


@pytest.fixture
async def world(empty_database: str, tmp_path: Path) -> str:
    """A database, a spool in `tmp_path` and a ledger without a fault."""
    trades = write_spool(tmp_path)
    connection = await asyncpg.connect(empty_database)
    await connection.execute(TABLES)
    await connection.executemany(
        "INSERT INTO live_data.btc_price_log VALUES"
        " ('coinbase', $1, $2, $3, $4::text::numeric, $5::text::numeric, $6, $7)",
        [
            (t.product, t.trade_id, t.time, t.price, t.size, t.taker_side, FIRST_FRAME + place)
            for place, t in enumerate(trades[:COMMITTED])
            if t
        ],
    )
    await connection.execute("INSERT INTO ingest.gaps VALUES ('coinbase', 'BTC-USD', 1021, 1025)")
    await connection.execute(
        "INSERT INTO ingest.offsets VALUES ('live', 's1', $1, $2::bigint, $2::bigint - 1, 0, 0, 1, 0)",
        FIRST_FRAME + COMMITTED - 1,
        COMMITTED,
    )
    await connection.close()
    return empty_database


@pytest.fixture
def ledger() -> Ledger:
    """What the venue sent, the last of it neither spooled nor stored."""
    return Ledger(markets={"BTC-USD": MARKET}, sent={"BTC-USD": [(1001, 1020), (1026, SENT[-1])]})


async def test_counts_without_fault(world: str, tmp_path: Path, ledger: Ledger) -> None:
    """A database without a fault is clean, and what is still under way is counted, not condemned."""
    report = await check(world, tmp_path, ledger)
    report.assert_clean()

    assert report.rows == report.spooled_trades == COMMITTED - 1
    assert report.spooled_frames == COMMITTED
    assert report.unshipped_frames == SPOOLED - COMMITTED
    assert report.declared_missing == 5
    assert report.open_tail == len(SENT) - (COMMITTED - 1)


LOG = "live_data.btc_price_log"
FAULTS = {
    "a lost row": (f"DELETE FROM {LOG} WHERE trade_id = 1010", {"lost", "undeclared"}),
    "a lost newest row": (f"DELETE FROM {LOG} WHERE trade_id = {SENT[COMMITTED - 2]}", {"lost"}),
    "a doubled row": (f"INSERT INTO {LOG} SELECT * FROM {LOG} WHERE trade_id = 1010", {"doubled"}),
    "an altered digit": (f"UPDATE {LOG} SET price = price + 0.01 WHERE trade_id = 1010", {"altered"}),
    "a lost zero": (f"UPDATE {LOG} SET price = trim_scale(price) WHERE trade_id = {TRIMMABLE}", {"altered"}),
    "an altered size": (f"UPDATE {LOG} SET size = size * 10 WHERE trade_id = 1010", {"altered"}),
    "the maker's side": (
        f"UPDATE {LOG} SET side = CASE side WHEN 'buy' THEN 'sell' ELSE 'buy' END WHERE trade_id = 1010",
        {"altered"},
    ),
    "a shifted time": (f"UPDATE {LOG} SET timestamp = timestamp + '1 us' WHERE trade_id = 1010", {"altered"}),
    "an invented trade": (
        (
            f"INSERT INTO {LOG} SELECT venue, symbol, 2000 FROM {LOG} WHERE trade_id = 1010;"
            "INSERT INTO ingest.gaps VALUES ('coinbase', 'BTC-USD', 1045, 1999)"
        ),
        {"altered"},
    ),
    "another symbol": (
        f"UPDATE {LOG} SET symbol = 'X' WHERE trade_id = 1010",
        {"lost", "altered", "undeclared"},
    ),
    "a wrong way back": (f"UPDATE {LOG} SET frame_no = frame_no + 1 WHERE trade_id = 1010", {"misplaced"}),
    "rows ahead of the offset": (
        (
            "UPDATE ingest.offsets SET frame_no = frame_no - 5, received_frames = received_frames - 5,"
            " shipped_frames = shipped_frames - 5"
        ),
        {"misplaced"},
    ),
    "an undeclared gap": ("DELETE FROM ingest.gaps", {"undeclared"}),
    "a gap too small": ("UPDATE ingest.gaps SET to_seq = to_seq - 1", {"undeclared"}),
    "a gap left open": ("UPDATE ingest.gaps SET to_seq = NULL", {"undeclared"}),
    "a gap of another product": ("UPDATE ingest.gaps SET scope = 'ETH-USD'", {"undeclared"}),
    "an outcome too many": ("UPDATE ingest.offsets SET state_frames = 1", {"unbalanced"}),
    "frames that were never spooled": (
        "UPDATE ingest.offsets SET received_frames = received_frames + 1, state_frames = 1",
        {"unbalanced"},
    ),
    "quarantined, which is no fault": (
        (
            f"INSERT INTO ingest.quarantine SELECT frame_no FROM {LOG} WHERE trade_id = 1010;"
            f"DELETE FROM {LOG} WHERE trade_id = 1010"
        ),
        set(),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_names_the_fault(world: str, tmp_path: Path, ledger: Ledger, fault: str) -> None:
    """Each fault made in the database is found and called by its name."""
    statements, names = FAULTS[fault]
    await execute(world, statements)
    report = await check(world, tmp_path, ledger)

    assert set(report.problems()) == names
    if names:
        with pytest.raises(AssertionError, match=min(names)):
            report.assert_clean()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE groups SET frames = CAST(substr(frames, 1, 99) || 'x' || substr(frames, 101) AS BLOB)",
        "UPDATE groups SET count = count + 1",
        "DELETE FROM groups WHERE first_no = (SELECT min(first_no) FROM groups)",
        "UPDATE meta SET value = value + 1 WHERE key = 'first_no'",
    ],
)
def test_broken_segment(tmp_path: Path, damage: str) -> None:
    """A flipped byte, a wrong count, a missing group and a misnamed file are seen."""
    write_spool(tmp_path)
    with closing(sqlite3.connect(segments(tmp_path)[0])) as segment, segment:
        segment.execute(damage)
    with pytest.raises(BrokenSpoolError):
        list(read_spool(tmp_path))


def test_missing_segment(tmp_path: Path) -> None:
    """A segment that is gone from the middle is missed."""
    write_spool(tmp_path)
    write_segment(tmp_path, FIRST_FRAME + SPOOLED, FIRST_FRAME + SPOOLED - 1, [[Written(CONNECTED, b"")]])
    assert len(list(read_spool(tmp_path))) == SPOOLED + 1
    segments(tmp_path)[1].unlink()
    with pytest.raises(BrokenSpoolError, match="follows"):
        list(read_spool(tmp_path))


def test_missing_from() -> None:
    """What ranges leave out has no number too many at either end."""
    ranges = [(3, 5), (8, 8)]
    assert missing_from(ranges, 1, 10) == [(1, 2), (6, 7), (9, 10)]
    assert missing_from(ranges, 4, 8) == [(6, 7)]
    assert missing_from(ranges, 3, 5) == []
    assert missing_from([], 1, 2) == [(1, 2)]
    assert missing_from(ranges, 6, 6) == [(6, 6)]


@pytest.mark.parametrize("declared", [True, False])
async def test_what_came_by_rest_was_declared(world: str, tmp_path: Path, ledger: Ledger, *, declared: bool) -> None:
    """A trade that only REST brought is not missing, and all the same it must lie in a gap."""
    ledger.rest_answers = 1
    rows = [
        f"('coinbase', '{t.product}', {t.trade_id}, '{t.time}', {t.price}, {t.size}, '{t.taker_side}', {FIRST_FRAME})"
        for t in map(MARKET.trade, range(1021, 1026))
    ]
    await execute(world, f"INSERT INTO live_data.btc_price_log VALUES {', '.join(rows)}")
    if not declared:
        await execute(world, "DELETE FROM ingest.gaps")
    report = await check(world, tmp_path, ledger)
    assert report.declared_missing == 0
    assert report.problems() == ({} if declared else {"undeclared": [("BTC-USD", 1021, 1025)]})
