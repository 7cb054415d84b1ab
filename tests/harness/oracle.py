"""Says whether the database holds exactly what was spooled and sent, and an honest account of the rest.

* I1 conservation: every trade in a spooled frame up to the committed offset is a row once, or quarantined
* I2 no invention: every row equals the trade that the market makes under its number, and leads to its frame
* I3 honest gaps: a trade between the first and the newest row came by the socket, or is declared missing, also where
  it is a row by now because REST was asked for it
* books: every frame up to the offset has exactly one outcome
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from harness.ledger import contains, merge, missing_from
from harness.spool import DATA, read_spool, spool_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from harness.ledger import Ledger
    from harness.spool import SpooledFrame

VENUE = "coinbase"
ROWS = """
    SELECT venue, symbol, trade_id::text AS trade_id, "timestamp" AS time, price::text AS price,
           size::text AS size, side, frame_no
    FROM live_data.btc_price_log WHERE venue = $1 ORDER BY frame_no
"""
QUARANTINED = "SELECT frame_no FROM ingest.quarantine WHERE frame_no IS NOT NULL"
GAPS = "SELECT scope, from_seq, to_seq FROM ingest.gaps WHERE feed = $1 AND from_seq IS NOT NULL"
BOOKS = """
    SELECT spool_id::text AS spool_id, frame_no, received_frames, shipped_frames, state_frames,
           duplicate_frames, control_frames, quarantined_frames
    FROM ingest.offsets WHERE stream = 'live'
"""
EXAMPLES = 5

Key = tuple[str, int]  # symbol and trade number


def key_of(row: Any) -> Key:
    """What a trade is known by."""
    return row["symbol"], int(row["trade_id"])


@dataclass
class Report:
    """What was counted, and each way in which it can be wrong."""

    rows: int = 0
    spooled_frames: int = 0  # up to the offset
    spooled_trades: int = 0
    unshipped_frames: int = 0  # behind the offset: nothing is claimed about them
    quarantined_frames: int = 0
    declared_missing: int = 0
    open_tail: int = 0  # sent, and newer than the newest row
    lost: list[object] = field(default_factory=list)
    doubled: list[object] = field(default_factory=list)
    altered: list[object] = field(default_factory=list)
    misplaced: list[object] = field(default_factory=list)
    undeclared: list[object] = field(default_factory=list)
    unbalanced: list[object] = field(default_factory=list)

    def problems(self) -> dict[str, list[object]]:
        """The lists of faults that are not empty."""
        return {name: value for name, value in vars(self).items() if isinstance(value, list) and value}

    def assert_clean(self) -> None:
        """Fail with the first examples of everything that is wrong."""
        if problems := self.problems():
            lines = [f"{name}: {len(found)}, as {found[:EXAMPLES]}" for name, found in problems.items()]
            raise AssertionError("\n".join([*lines, str(self)[:400]]))


@dataclass
class Books:
    """What the database says, read in one snapshot."""

    rows: list[Any]
    quarantined: set[int]
    gaps: list[Any]
    offset: Any

    @classmethod
    async def read(cls, dsn: str) -> Books:
        """Read everything that is judged."""
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return cls(
                    rows=await connection.fetch(ROWS, VENUE),
                    quarantined={row["frame_no"] for row in await connection.fetch(QUARANTINED)},
                    gaps=await connection.fetch(GAPS, VENUE),
                    offset=await connection.fetchrow(BOOKS),
                )
        finally:
            await connection.close()


@dataclass
class Spooled:
    """The frames up to the offset in which each trade lies in the spool, and how far back the spool goes."""

    trades: dict[Key, list[int]] = field(default_factory=dict)
    frames: dict[int, Key] = field(default_factory=dict)
    oldest: int = 0


async def check(dsn: str, spool: Path, ledger: Ledger, *, whole_spool: bool = True) -> Report:
    """Judge a database whose daemon has ended.

    `whole_spool` is false when the spool was trimmed or replaced: then what was before it is left open.
    """
    books, report = await Books.read(dsn), Report()
    spooled = read_trades(spool, books, report)
    if whole_spool:
        spooled.oldest = 0
    check_conservation(books, spooled, report)
    check_rows(books, spooled, ledger, report)
    check_gaps(books, spooled, ledger, report)
    check_balance(books.offset, report, whole_spool=whole_spool)
    return report


def shipped_frames(spool: Path, offset: Any, report: Report) -> Iterator[SpooledFrame]:
    """Yield the frames up to the offset, of all feeds, and count them and those behind it."""
    if offset is None or offset["spool_id"] != spool_id(spool):
        raise ValueError(f"the database's offset {offset} is not of the spool {spool_id(spool)}")
    for frame in read_spool(spool):
        if frame.frame_no > (offset["frame_no"] or 0):
            report.unshipped_frames += 1
            continue
        report.spooled_frames += 1
        yield frame


def read_trades(spool: Path, books: Books, report: Report) -> Spooled:
    """Find the trades in the spool."""
    spooled = Spooled()
    for frame in shipped_frames(spool, books.offset, report):
        spooled.oldest = spooled.oldest or frame.frame_no
        # Most frames are no matches; looking for the word is cheaper than reading them.
        if frame.kind == DATA and frame.feed == VENUE and b'match"' in frame.payload:
            message = json.loads(frame.payload)
            if isinstance(message, dict) and message.get("type") in {"match", "last_match"}:
                key = message["product_id"], message["trade_id"]
                spooled.trades.setdefault(key, []).append(frame.frame_no)
                spooled.frames[frame.frame_no] = key
    report.spooled_trades = len(spooled.trades)
    return spooled


def check_conservation(books: Books, spooled: Spooled, report: Report) -> None:
    """I1."""
    report.rows, report.quarantined_frames = len(books.rows), len(books.quarantined)
    stored = Counter(key_of(row) for row in books.rows)
    report.doubled += [(key, times) for key, times in stored.items() if times > 1]
    report.lost += [
        (key, frames)
        for key, frames in spooled.trades.items()
        if key not in stored and books.quarantined.isdisjoint(frames)
    ]


def check_rows(books: Books, spooled: Spooled, ledger: Ledger, report: Report) -> None:
    """I2: every column, and the way back to the frame."""
    for row in books.rows:
        key = symbol, trade_id = key_of(row)
        market = ledger.markets.get(symbol)
        was_sent = ledger.rest_answers or contains(ledger.sent.get(symbol, []), trade_id)
        if market is None or not was_sent:
            report.altered.append((key, "was never sent"))
            continue
        trade = market.trade(trade_id)
        expected = trade.time, trade.price, trade.size, trade.taker_side
        found = row["time"], row["price"], row["size"], row["side"]
        if found != expected:
            report.altered.append((key, f"{found} instead of {expected}"))
        # What came by REST lies in frames of another shape, so there only a wrong frame is a fault.
        unknown = key if ledger.rest_answers or (row["frame_no"] or 0) < spooled.oldest else None
        if spooled.frames.get(row["frame_no"], unknown) != key:
            report.misplaced.append((key, row["frame_no"], spooled.trades.get(key)))


def check_gaps(books: Books, spooled: Spooled, ledger: Ledger, report: Report) -> None:
    """I3; a gap without an end declares nothing, because rows above it show that it ended."""
    heard = {key for key, frames in spooled.trades.items() if not books.quarantined.isdisjoint(frames)}
    for row in books.rows:
        # One that came by both, and by REST first, is a row of REST: the socket's frame is a duplicate.
        if not came_by_rest(row, spooled, ledger) or key_of(row) in spooled.trades:
            heard.add(key_of(row))
    for product in ledger.markets:
        stored = ranges_of(int(row["trade_id"]) for row in books.rows if row["symbol"] == product)
        if not stored:
            report.open_tail += ledger.count(product)
            continue
        first, newest = stored[0][0], stored[-1][1]
        report.open_tail += max(0, ledger.highest(product) - newest)
        accounted = ranges_of(number for symbol, number in heard if symbol == product)
        declared = [
            (gap["from_seq"], gap["to_seq"])
            for gap in books.gaps
            if gap["scope"] == product and gap["to_seq"] is not None
        ]
        undeclared = missing_from(merge(accounted + declared), first, newest)
        report.undeclared += [(product, *each) for each in undeclared]
        missing = missing_from(merge(accounted + stored + undeclared), first, newest)
        report.declared_missing += sum(last - low + 1 for low, last in missing)


def came_by_rest(row: Any, spooled: Spooled, ledger: Ledger) -> bool:
    """Tell whether a row is of an answer of REST: its frame is in the spool, and holds no trade of the socket."""
    frame_no = row["frame_no"] or 0
    return bool(ledger.rest_answers) and frame_no >= spooled.oldest and frame_no not in spooled.frames


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as ranges."""
    return merge([(number, number) for number in numbers])


def check_balance(offset: Any, report: Report, *, whole_spool: bool) -> None:
    """Every frame has exactly one outcome, and none was made up."""
    parts = ("shipped", "state", "duplicate", "control", "quarantined")
    total = sum(offset[f"{part}_frames"] for part in parts)
    if offset["received_frames"] != total:
        report.unbalanced.append(dict(offset))
    elif whole_spool and total != report.spooled_frames:
        report.unbalanced.append({**offset, "frames in the spool up to the offset": report.spooled_frames})
