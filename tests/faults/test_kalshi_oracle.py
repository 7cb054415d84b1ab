"""An oracle that cannot see a fault proves nothing: each fault is made by hand, and must be named."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from harness.databases import execute
from harness.kalshi_gaps import within
from harness.kalshi_ledger import Connection, KalshiLedger
from harness.kalshi_market import Exchange
from harness.kalshi_messages import CHANNELS_OF, EPOCH, number_of
from harness.kalshi_oracle import check
from harness.kalshi_rows import Key, expected
from harness.spool import CONNECTED, DATA, DISCONNECTED
from harness.spool_writer import Written, write_segment

if TYPE_CHECKING:
    from pathlib import Path

FIRST = 1_000_000
EXCHANGE = Exchange(
    "KXBTCD",
    "KXBTCD-26SEP2515",
    markets=5,
    trade_every=4,
    first=FIRST,
    start_ns=1_790_000_000_000_000_000,
    step_ns=50_000_000,
    print_delay_ms=53,
    close_s=1_790_010_000,
)
SIDS = {"print": 2, "ticker": 3, "trade": 4}
# Two connections, nothing between them; a trade of the second is lost behind its number, another comes twice.
OLD, NEW = (FIRST, FIRST + 59), (FIRST + 90, FIRST + 149)
SKIPPED, REPEATED = FIRST + 111, FIRST + 115
FIRST_FRAME = 1_790_000_000_000_000
NOT_COMMITTED = 5  # frames
AFTER_NS = 1_000_000  # between sending and arrival

TABLES = """
CREATE SCHEMA live_data;
CREATE SCHEMA ingest;
CREATE TABLE live_data.btc_price_log (venue text, symbol text, trade_id bigint, "timestamp" timestamptz,
    price numeric, size numeric, side text, frame_no bigint DEFAULT 0);
CREATE TABLE live_data.websocket_market_data (venue text, event_type text, ticker text, market_id text,
    "timestamp" timestamptz, yes_bid numeric, yes_bid_size numeric, yes_ask numeric, yes_ask_size numeric,
    no_bid numeric, no_ask numeric, last_price numeric, last_size numeric, side text, volume numeric,
    open_interest numeric, trade_id text, sid bigint, seq bigint, frame_no bigint DEFAULT 0);
CREATE TABLE ingest.quarantine (frame_no bigint);
CREATE TABLE ingest.gaps (feed text, channel text, scope text, from_time timestamptz, to_time timestamptz,
    from_seq bigint, to_seq bigint);
CREATE TABLE ingest.offsets (stream text, spool_id text, frame_no bigint, received_frames bigint,
    shipped_frames bigint, state_frames bigint, duplicate_frames bigint, control_frames bigint,
    quarantined_frames bigint);
"""


class Line:
    """One connection as it is recorded: its frames, what each holds, and its ledger."""

    def __init__(self, numbers: tuple[int, int], snapshots: list[int]) -> None:
        self.opened_ns = EXCHANGE.time_ns(numbers[0]) - AFTER_NS
        self.sent = Connection(self.opened_ns, EXCHANGE.time_ns(numbers[1]) + 3 * AFTER_NS)
        self.frames = [Written(CONNECTED, b'{"series":["KXBTCD"]}', self.opened_ns)]
        self.keys: list[Key | None] = [None]
        self.seqs = dict.fromkeys(SIDS, 0)
        for kind, sid in SIDS.items():
            told = {"type": "subscribed", "msg": {"channel": CHANNELS_OF[kind], "sid": sid}}
            self.put(None, told, self.opened_ns)
        self.sent.snapshots = snapshots
        for number in snapshots:
            self.tell("ticker", number, self.opened_ns)
        for number in range(numbers[0], numbers[1] + 1):
            self.happen(number)
        self.put(None, None, self.sent.closed_ns)

    def happen(self, number: int) -> None:
        """Tell a message, and the index where its second has come."""
        at_ns = EXCHANGE.time_ns(number)
        for second in range(EXCHANGE.newest_second(at_ns - EXCHANGE.step_ns) + 1, EXCHANGE.newest_second(at_ns) + 1):
            self.sent.print.append([second, second])
            self.tell("print", second, at_ns)
        kind = EXCHANGE.kind(number)
        if number == SKIPPED:
            self.seqs[kind] += 1
            self.sent.skipped.append([number, SIDS[kind], self.seqs[kind]])
            return
        getattr(self.sent, kind).append([number, number])
        self.tell(kind, number, at_ns)
        if number == REPEATED:
            self.tell(kind, number, at_ns)

    def tell(self, kind: str, number: int, at_ns: int) -> None:
        """Put a message with its numbers into a frame."""
        message = {"type": CHANNELS_OF[kind], "sid": SIDS[kind], "msg": EXCHANGE.body(kind, number)}
        if kind != "ticker":
            self.seqs[kind] += 1
            message["seq"] = self.seqs[kind]
        self.put((kind, number), message, at_ns)

    def put(self, key: Key | None, message: object, at_ns: int) -> None:
        """Record a frame; without a message it is the mark of the end."""
        kind = DISCONNECTED if message is None else DATA
        self.frames.append(Written(kind, json.dumps(message).encode(), at_ns + AFTER_NS))
        self.keys.append(key)


SNAPSHOTS = [EXCHANGE.latest(place, NEW[0] - 1) for place in range(EXCHANGE.markets)]
LINES = [Line(OLD, []), Line(NEW, SNAPSHOTS)]
FRAMES = [frame for line in LINES for frame in line.frames]
KEYS = [key for line in LINES for key in line.keys]
COMMITTED = len(FRAMES) - NOT_COMMITTED
SKIPPED_SEQ = LINES[1].sent.skipped[0][2]


def stored() -> list[tuple[int, Key, dict[str, Any]]]:
    """Frame, key and columns of every row there should be."""
    rows: list[tuple[int, Key, dict[str, Any]]] = []
    seen: set[Key] = set()
    for place, (frame, key) in enumerate(zip(FRAMES[:COMMITTED], KEYS, strict=False)):
        if key is None or (key in seen and key[0] != "ticker"):
            continue
        seen.add(key)
        message = json.loads(frame.payload)
        numbers = {} if key[0] == "print" else {"sid": message["sid"], "seq": message.get("seq")}
        rows.append((FIRST_FRAME + place, key, expected(EXCHANGE, key) | numbers))
    return rows


async def insert(connection: Any, frame_no: int, key: Key, columns: dict[str, Any]) -> None:
    """Insert one row."""
    kind = key[0]
    table = "btc_price_log" if kind == "print" else "websocket_market_data"
    row = columns | {"frame_no": frame_no, "timestamp": columns["time"]}
    row |= {"venue": "cfbenchmarks"} if kind == "print" else {"venue": "kalshi", "event_type": kind}
    del row["time"]
    plain = {"timestamp", "frame_no", "sid", "seq", "ticker", "market_id", "side", "trade_id", "venue", "event_type"}
    places = [
        f"${at}" if name in plain | {"symbol"} else f"${at}::text::numeric" for at, name in enumerate(row, start=1)
    ]
    names = ", ".join(f'"{name}"' for name in row)
    await connection.execute(f"INSERT INTO live_data.{table} ({names}) VALUES ({', '.join(places)})", *row.values())


@pytest.fixture
async def world(empty_database: str, tmp_path: Path) -> str:
    """A database and a spool in `tmp_path` without a fault."""
    split = len(LINES[0].frames) + 20
    write_segment(tmp_path, FIRST_FRAME, None, [FRAMES[:50], FRAMES[50:split]], "kalshi")
    write_segment(tmp_path, FIRST_FRAME + split, FIRST_FRAME + split - 1, [FRAMES[split:]], "kalshi")
    connection = await asyncpg.connect(empty_database)
    await connection.execute(TABLES)
    async with connection.transaction():
        for frame_no, key, columns in stored():
            await insert(connection, frame_no, key, columns)
    lost_ns, back_ns = EXCHANGE.time_ns(OLD[1]), LINES[1].opened_ns + AFTER_NS
    near = [EPOCH + timedelta(microseconds=EXCHANGE.time_ns(SKIPPED + step) // 1000) for step in (-4, 4)]
    await connection.executemany(
        "INSERT INTO ingest.gaps VALUES ('kalshi', $1, $2, $3, $4, $5, $6)",
        [
            ("*", "connection", *(EPOCH + timedelta(microseconds=ns // 1000) for ns in (lost_ns, back_ns)), None, None),
            ("trade", "sid 4", *near, SKIPPED_SEQ, SKIPPED_SEQ),
        ],
    )
    await connection.execute(
        "INSERT INTO ingest.offsets VALUES ('live', 's1', $1, $2::bigint, $2::bigint - 1, 0, 0, 1, 0)",
        FIRST_FRAME + COMMITTED - 1,
        COMMITTED,
    )
    await connection.close()
    return empty_database


@pytest.fixture
def ledger() -> KalshiLedger:
    """What the venue sent, the last of it spooled and not stored."""
    return KalshiLedger(EXCHANGE, [line.sent for line in LINES])


async def test_counts_without_fault(world: str, tmp_path: Path, ledger: KalshiLedger) -> None:
    """A database without a fault is clean, and what is still under way is counted, not condemned."""
    report = await check(world, tmp_path, ledger)
    report.assert_clean()

    assert report.rows == len(stored()) == sum(report.rows_of.values())
    assert (report.spooled_frames, report.unshipped_frames) == (COMMITTED, NOT_COMMITTED)
    between = range(OLD[1] + 1, NEW[0])
    missed_tickers = sum(EXCHANGE.kind(n) == "ticker" for n in between) - len({*between} & {*SNAPSHOTS})
    missed_trades = sum(EXCHANGE.kind(n) == "trade" for n in between)
    assert report.declared_of == {"ticker": missed_tickers, "trade": missed_trades + 1, "print": 2}
    assert report.declared_missing == sum(report.declared_of.values())
    assert report.open_tail == sum(key is not None for key in KEYS[COMMITTED:])
    assert report.duplicates == 1


LOG, MARKETS = "live_data.btc_price_log", "live_data.websocket_market_data"
TICKER = next(n for n in range(*OLD) if EXCHANGE.kind(n + 1) == "trade" and EXCHANGE.ticker(n).bid)
TRADE = next(n for n in range(*OLD) if EXCHANGE.kind(n) == "trade" and n > OLD[0] + 20)
FINE = next(n for n in range(*OLD) if EXCHANGE.kind(n) == "ticker" and EXCHANGE.decimals(n) > 4)
EMPTY = next(n for n in range(*OLD) if EXCHANGE.kind(n) == "ticker" and EXCHANGE.ticker(n).bid is None)
SECOND = LINES[0].sent.print[1][0]
OF_TICKER, OF_TRADE = f"volume = {TICKER}", f"trade_id = '{EXCHANGE.trade(TRADE).trade_id}'"
OF_PRINT = f"timestamp = to_timestamp({SECOND})"
SET = f"UPDATE {MARKETS} SET"
UNSENT = EXCHANGE.trade(EXCHANGE.last("trade", NEW[0] - 1)).trade_id
NEWEST = max(key[1] for _, key, _ in stored() if key[0] == "ticker")
REPEAT_FRAME = FIRST_FRAME + [place for place, key in enumerate(KEYS) if key == ("trade", REPEATED)][1]
FAULTS = {
    "a lost ticker": (f"DELETE FROM {MARKETS} WHERE {OF_TICKER}", {"lost", "undeclared"}),
    "a lost trade": (f"DELETE FROM {MARKETS} WHERE {OF_TRADE}", {"lost", "undeclared"}),
    "a lost print": (f"DELETE FROM {LOG} WHERE {OF_PRINT}", {"lost", "undeclared"}),
    "a lost newest row": (f"DELETE FROM {MARKETS} WHERE volume = {NEWEST}", {"lost"}),
    "a lost repetition of a ticker": (
        f"DELETE FROM {MARKETS} WHERE volume = {SNAPSHOTS[0]} AND frame_no >= {FIRST_FRAME + len(LINES[0].frames)}",
        {"lost"},
    ),
    "a doubled ticker": (f"INSERT INTO {MARKETS} SELECT * FROM {MARKETS} WHERE {OF_TICKER}", {"doubled"}),
    "a doubled trade": (f"INSERT INTO {MARKETS} SELECT * FROM {MARKETS} WHERE {OF_TRADE}", {"doubled"}),
    "a doubled print": (f"INSERT INTO {LOG} SELECT * FROM {LOG} WHERE {OF_PRINT}", {"doubled"}),
    "a repeated trade that became a row": (
        (
            f"INSERT INTO {MARKETS} SELECT * FROM {MARKETS} WHERE trade_id = '{EXCHANGE.trade(REPEATED).trade_id}';"
            f"{SET} frame_no = {REPEAT_FRAME}, seq = seq + 1 WHERE ctid = (SELECT max(ctid) FROM {MARKETS})"
        ),
        {"doubled"},
    ),
    "an altered bid": (f"{SET} yes_bid = yes_bid + 0.0001 WHERE {OF_TICKER}", {"altered"}),
    "an altered mirror": (f"{SET} no_ask = yes_bid WHERE {OF_TICKER}", {"altered"}),
    "a rounded price": (f"{SET} last_price = round(last_price, 4) WHERE volume = {FINE}", {"altered"}),
    "an altered size": (f"{SET} yes_ask_size = yes_ask_size * 10 WHERE {OF_TICKER}", {"altered"}),
    "an empty side as a price": (f"{SET} yes_bid = 0.0000 WHERE volume = {EMPTY}", {"altered"}),
    "the mirror of an empty side as a price": (f"{SET} no_ask = 1.0000 WHERE volume = {EMPTY}", {"altered"}),
    "an empty side without its size": (f"{SET} yes_bid_size = NULL WHERE volume = {EMPTY}", {"altered"}),
    "altered open interest": (f"{SET} open_interest = open_interest + 1 WHERE {OF_TICKER}", {"altered"}),
    "another market": (f"{SET} ticker = ticker || '0' WHERE {OF_TRADE}", {"altered"}),
    "another market's id": (f"{SET} market_id = NULL WHERE {OF_TICKER}", {"altered"}),
    "the other side": (
        f"{SET} side = CASE side WHEN 'yes' THEN 'no' ELSE 'yes' END WHERE {OF_TRADE}",
        {"altered"},
    ),
    "a trade with a quote": (f"{SET} yes_bid = last_price WHERE {OF_TRADE}", {"altered"}),
    "a shifted time": (f"{SET} timestamp = timestamp + '1 ms' WHERE {OF_TRADE}", {"altered"}),
    "another subscription": (f"{SET} sid = sid + 1 WHERE {OF_TICKER}", {"altered"}),
    "another number": (f"{SET} seq = seq + 1 WHERE {OF_TRADE}", {"altered"}),
    "a number where there is none": (f"{SET} seq = 1 WHERE {OF_TICKER}", {"altered"}),
    "an altered index": (f"UPDATE {LOG} SET price = price + 0.01 WHERE {OF_PRINT}", {"altered"}),
    "an index with a size": (f"UPDATE {LOG} SET size = 0 WHERE {OF_PRINT}", {"altered"}),
    "another index": (f"UPDATE {LOG} SET symbol = 'BRR' WHERE {OF_PRINT}", {"altered"}),
    "a second that was none": (
        f"UPDATE {LOG} SET timestamp = timestamp + '1 ms' WHERE {OF_PRINT}",
        {"altered", "lost", "undeclared"},
    ),
    "another name of a trade": (f"{SET} trade_id = 'x' WHERE {OF_TRADE}", {"altered", "lost", "undeclared"}),
    "a ticker under the next one's volume": (
        f"{SET} volume = volume - 1 WHERE {OF_TICKER}",
        {"misplaced", "undeclared"},
    ),
    "an invented ticker": (
        f"INSERT INTO {MARKETS} (venue, event_type, volume) VALUES ('kalshi', 'ticker', {NEW[1] + 7}.00)",
        {"altered"},
    ),
    "a trade that nobody was sent": (
        f"INSERT INTO {MARKETS} (venue, event_type, trade_id) VALUES ('kalshi', 'trade', '{UNSENT}')",
        {"altered"},
    ),
    "a wrong way back": (f"{SET} frame_no = frame_no + 1 WHERE {OF_TRADE}", {"misplaced"}),
    "a wrong way back of a ticker": (f"{SET} frame_no = frame_no + 1 WHERE {OF_TICKER}", {"misplaced", "lost"}),
    "rows ahead of the offset": (
        (
            "UPDATE ingest.offsets SET frame_no = frame_no - 5, received_frames = received_frames - 5,"
            " shipped_frames = shipped_frames - 5"
        ),
        {"misplaced"},
    ),
    "no gaps": ("DELETE FROM ingest.gaps", {"undeclared"}),
    "an undeclared outage": ("DELETE FROM ingest.gaps WHERE scope = 'connection'", {"undeclared"}),
    "an undeclared loss": ("DELETE FROM ingest.gaps WHERE channel = 'trade'", {"undeclared"}),
    "a gap that begins too late": (
        "UPDATE ingest.gaps SET from_time = from_time + interval '51 ms' WHERE scope = 'connection'",
        {"undeclared"},
    ),
    "a gap that ends too early": (
        "UPDATE ingest.gaps SET to_time = to_time - interval '151 ms' WHERE scope = 'connection'",
        {"undeclared"},
    ),
    "a gap left open": ("UPDATE ingest.gaps SET to_time = NULL WHERE scope = 'connection'", {"undeclared"}),
    "a gap of another feed": ("UPDATE ingest.gaps SET feed = 'coinbase'", {"undeclared"}),
    "a gap of one channel": ("UPDATE ingest.gaps SET channel = 'trade'", {"undeclared"}),
    "a gap of one market": (
        f"UPDATE ingest.gaps SET scope = '{EXCHANGE.tickers[0]}' WHERE scope = 'connection'",
        {"undeclared"},
    ),
    "a gap beside the number": ("UPDATE ingest.gaps SET from_seq = from_seq + 1, to_seq = to_seq + 1", {"undeclared"}),
    "a gap of another subscription": ("UPDATE ingest.gaps SET scope = 'sid 3' WHERE scope = 'sid 4'", {"undeclared"}),
    "a gap of another connection": (
        "UPDATE ingest.gaps SET to_time = to_time - interval '4 s' WHERE scope = 'sid 4'",
        {"undeclared"},
    ),
    "an outcome too many": ("UPDATE ingest.offsets SET state_frames = 1", {"unbalanced"}),
    "frames that were never spooled": (
        "UPDATE ingest.offsets SET received_frames = received_frames + 1, state_frames = 1",
        {"unbalanced"},
    ),
    "quarantined, which is no fault": (
        "".join(
            f"INSERT INTO ingest.quarantine SELECT frame_no FROM {table} WHERE {which};"
            f"DELETE FROM {table} WHERE {which};"
            for table, which in ((MARKETS, OF_TICKER), (MARKETS, OF_TRADE), (LOG, OF_PRINT))
        ),
        set(),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_names_the_fault(world: str, tmp_path: Path, ledger: KalshiLedger, fault: str) -> None:
    """Each fault made in the database is found and called by its name."""
    statements, names = FAULTS[fault]
    await execute(world, statements)
    report = await check(world, tmp_path, ledger)

    assert set(report.problems()) == names, report.problems()
    if names:
        with pytest.raises(AssertionError, match=min(names)):
            report.assert_clean()


async def test_frame_that_was_never_sent(world: str, tmp_path: Path, ledger: KalshiLedger) -> None:
    """A frame whose text is not what the exchange makes is named, even where its row agrees with it."""
    ledger.exchange = replace(EXCHANGE, event="KXBTCD-26SEP2516")
    report = await check(world, tmp_path, ledger)
    assert any("is not what was sent" in str(what) for what in report.altered)


async def test_row_by_another_connection(world: str, tmp_path: Path, ledger: KalshiLedger) -> None:
    """A row whose connection was not sent its message is named, also if another one was."""
    ledger.connections[0].ticker.remove([TICKER, TICKER])
    ledger.connections[1].ticker.insert(0, [TICKER, TICKER])
    assert set((await check(world, tmp_path, ledger)).problems()) == {"altered"}


async def test_trimmed_spool(world: str, tmp_path: Path, ledger: KalshiLedger) -> None:
    """Rows whose frames are trimmed away are judged by the ledger alone."""
    next(iter(sorted(tmp_path.glob("*.db")))).unlink()
    (await check(world, tmp_path, ledger, whole_spool=False)).assert_clean()
    assert "misplaced" in (await check(world, tmp_path, ledger)).problems()


def test_within() -> None:
    """Both ends of a range belong to it."""
    ranges = [(3, 5), (8, 8)]
    assert [number for number in range(10) if within(ranges, number)] == [3, 4, 5, 8]
    assert not within([], 1)


def test_number_of_a_trade() -> None:
    """The number of a trade can be read back from its name, and none from another name."""
    assert number_of(EXCHANGE.trade(TRADE).trade_id) == TRADE
    assert number_of("not-a-trade") == 0


def columns_of(kind: str, number: int, *names: str) -> list[Any]:
    """Some columns of the row that is expected."""
    row = expected(EXCHANGE, (kind, number))
    return [row[name] for name in names]


def test_rows_by_hand() -> None:
    """What is expected of a row is what a person reads in its message: digit by digit, an empty side as nothing."""
    fine, bare = EXCHANGE.body("ticker", FIRST + 6), EXCHANGE.body("ticker", FIRST + 5)
    quotes = ("yes_bid", "yes_bid_size", "yes_ask", "yes_ask_size", "no_bid", "no_ask")
    assert (fine["yes_bid_dollars"], fine["yes_ask_dollars"]) == ("0.014055", "0.082959")
    assert columns_of("ticker", FIRST + 6, *quotes) == [
        *("0.014055", "8983.45", "0.082959", "17364.85"),
        *("0.917041", "0.985945"),
    ]
    assert (bare["yes_bid_dollars"], bare["yes_bid_size_fp"], bare["yes_ask_dollars"]) == ("0.0000", "0.00", "0.9907")
    assert columns_of("ticker", FIRST + 5, *quotes) == [None, "0.00", "0.9907", "4741.31", "0.0093", None]
    assert columns_of("ticker", FIRST + 5, "last_price", "last_size", "volume", "open_interest", "side") == [
        *("0.5635", "799.70", "1000005.00", "13180760.55"),
        None,
    ]
    empty = EXCHANGE.body("ticker", FIRST + 8)
    assert (empty["yes_bid_dollars"], empty["yes_ask_dollars"], empty["yes_ask_size_fp"]) == (
        "0.0000",
        "1.0000",
        "0.00",
    )
    assert columns_of("ticker", FIRST + 8, *quotes) == [None, "0.00", None, "0.00", None, None]
    name = "0000000f-4257-41a4-a372-55531125eb5e"
    assert EXCHANGE.body("trade", FIRST + 23)["trade_id"] == name
    assert columns_of("trade", FIRST + 23, "trade_id", "last_price", "last_size", "side", "ticker", "volume") == [
        *(name, "0.3533", "3749.31", "no", "KXBTCD-26SEP2515-T114999.99"),
        None,
    ]
    assert '"value":"115858.19"' in EXCHANGE.body("print", 1_790_000_001)["data"]
    assert columns_of("print", 1_790_000_001, "symbol", "price", "size") == ["BRTI", "115858.19", None]
