"""Says of Kalshi what `oracle` says of Coinbase: the database holds what was spooled and sent, and an honest account.

* conservation: every ticker, trade and index print in a spooled frame up to the committed offset is a row once, or
  quarantined; a trade, or a second of the index, that came before may be dropped
* no invention: every row equals what the exchange makes under its number, and leads to its frame; so does every frame
* honest gaps: what was made between the first and the newest row came by the socket, is quarantined, or is declared
  missing, also where it is a row by now because REST was asked for it. A gap
  with numbers declares these numbers of its subscription; one without, the time from its beginning to its end, of its
  channel and its market. A gap without an end declares nothing, because rows above it show that it ended
* books: every frame up to the offset has exactly one outcome
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from harness.kalshi_gaps import Declared, runs
from harness.kalshi_market import KINDS
from harness.kalshi_messages import KINDS_OF, number_of
from harness.kalshi_rows import INDEX_ROWS, MARKET_ROWS, Key, expected, key_of_row
from harness.oracle import BOOKS, QUARANTINED, Report, check_balance, shipped_frames
from harness.spool import DATA

if TYPE_CHECKING:
    from pathlib import Path

    from harness.kalshi_ledger import KalshiLedger
    from harness.spool import SpooledFrame

FEED = "kalshi"
GAPS = """
    SELECT channel, scope, from_time, to_time, from_seq, to_seq
    FROM ingest.gaps WHERE feed = $1 AND to_time IS NOT NULL
"""


@dataclass
class KalshiReport(Report):
    """The common counts are of all kinds together."""

    rows_of: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    declared_of: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    duplicates: int = 0  # frames of trades and prints that came before


class Message(NamedTuple):
    """What a spooled frame holds, and by which connection it came."""

    key: Key
    sid: int | None
    seq: int | None
    connection: int


@dataclass
class Spooled:
    """The messages up to the offset, by frame and by key, and how far back the spool goes."""

    messages: dict[int, Message] = field(default_factory=dict)
    frames: dict[Key, list[int]] = field(default_factory=dict)
    oldest: int = 0


@dataclass
class Books:
    """What the database says, read in one snapshot."""

    rows: list[Any]
    keys: list[Key]
    quarantined: set[int]
    gaps: list[Any]
    offset: Any

    @classmethod
    async def read(cls, dsn: str) -> Books:
        """Read everything that is judged."""
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                rows = [row for query in (MARKET_ROWS, INDEX_ROWS) for row in await connection.fetch(query)]
                return cls(
                    rows=rows,
                    keys=[key_of_row(row) for row in rows],
                    quarantined={row["frame_no"] for row in await connection.fetch(QUARANTINED)},
                    gaps=await connection.fetch(GAPS, FEED),
                    offset=await connection.fetchrow(BOOKS),
                )
        finally:
            await connection.close()


async def check(dsn: str, spool: Path, ledger: KalshiLedger, *, whole_spool: bool = True) -> KalshiReport:
    """Judge a database whose daemon has ended.

    `whole_spool` is false when the spool was trimmed or replaced: then what was before it is left open.
    """
    books, report = await Books.read(dsn), KalshiReport()
    spooled = read_messages(spool, books, ledger, report)
    if whole_spool:
        spooled.oldest = 0
    check_conservation(books, spooled, report)
    check_rows(books, spooled, ledger, report)
    check_gaps(books, spooled, ledger, report)
    check_balance(books.offset, report, whole_spool=whole_spool)
    return report


def read_messages(spool: Path, books: Books, ledger: KalshiLedger, report: KalshiReport) -> Spooled:
    """Find the messages in the spool; each must be what the exchange makes under its number."""
    spooled = Spooled()
    for frame in shipped_frames(spool, books.offset, report):
        spooled.oldest = spooled.oldest or frame.frame_no
        if frame.kind != DATA or frame.feed != FEED or (message := read(frame, ledger)) is None:
            continue
        spooled.messages[frame.frame_no] = message
        spooled.frames.setdefault(message.key, []).append(frame.frame_no)
        if json.loads(frame.payload)["msg"] != ledger.exchange.body(*message.key):
            report.altered.append((message.key, f"frame {frame.frame_no} is not what was sent"))
    report.spooled_trades = sum(kind == "trade" for kind, _ in spooled.frames)
    return spooled


def read(frame: SpooledFrame, ledger: KalshiLedger) -> Message | None:
    """Read a frame; nothing if it is an answer to a command or a request."""
    message = json.loads(frame.payload)
    kind = KINDS_OF.get(message.get("type"))
    if kind is None:
        return None
    body = message["msg"]
    if kind == "ticker":
        number = int(body["volume_fp"].partition(".")[0])
    elif kind == "trade":
        number = number_of(body["trade_id"])
    else:
        number = json.loads(body["data"])["time"] // 1000
    return Message((kind, number), message.get("sid"), message.get("seq"), ledger.connection_at(frame.recv_ns))


def check_conservation(books: Books, spooled: Spooled, report: KalshiReport) -> None:
    """A ticker is known by its frame, because a new connection repeats it; the others by what they are."""
    report.rows, report.quarantined_frames = len(books.rows), len(books.quarantined)
    report.rows_of |= Counter(kind for kind, _ in books.keys)
    of_frame = Counter((row["kind"], row["frame_no"]) for row in books.rows if not row["by_rest"])
    of_key = Counter(key for key in books.keys if key[0] != "ticker")
    report.doubled += [(key, times) for key, times in of_key.items() if times > 1]
    report.doubled += [(*frame, times) for frame, times in of_frame.items() if times > 1]
    for (kind, number), frames in spooled.frames.items():
        left = [frame for frame in frames if frame not in books.quarantined]
        if kind == "ticker":
            report.lost += [(kind, number, frame) for frame in left if not of_frame[kind, frame]]
        elif len(left) == len(frames) and not of_key[kind, number]:
            report.lost.append((kind, number, frames))
        else:
            report.duplicates += len(frames) - 1


def check_rows(books: Books, spooled: Spooled, ledger: KalshiLedger, report: KalshiReport) -> None:
    """Every column, the connection by which it was sent, and the way back to the frame."""
    for row, key in zip(books.rows, books.keys, strict=True):
        message = spooled.messages.get(row["frame_no"])
        trimmed = row["frame_no"] < spooled.oldest
        told = bool(ledger.trade_answers) if row["by_rest"] else was_sent(ledger, key, message, trimmed=trimmed)
        if not told:
            report.altered.append((key, "was never sent"))
            continue
        columns = expected(ledger.exchange, key)
        if message is not None and key[0] != "print":
            columns |= {"sid": message.sid, "seq": message.seq}
        wrong = {name: (row[name], value) for name, value in columns.items() if row[name] != value}
        if wrong and (message is None or message.key == key):
            report.altered.append((key, f"found and expected: {wrong}"))
        if not trimmed and not row["by_rest"] and (message is None or message.key != key):
            report.misplaced.append((key, row["frame_no"], spooled.frames.get(key)))


def was_sent(ledger: KalshiLedger, key: Key, message: Message | None, *, trimmed: bool) -> bool:
    """Tell whether a row's message was sent by the connection of its frame; by any, if the frame is not known."""
    if message is None or trimmed:
        return any(each.sent(*key) for each in ledger.connections)
    return message.connection >= 0 and ledger.connections[message.connection].sent(*key)


def check_gaps(books: Books, spooled: Spooled, ledger: KalshiLedger, report: KalshiReport) -> None:
    """From the first message that was recorded as it happened: what a snapshot repeats is older than the recording."""
    declared = Declared(books.gaps, ledger)
    stored: dict[str, set[int]] = {kind: set() for kind in KINDS}
    heard = {spooled.messages[frame].key for frame in books.quarantined if frame in spooled.messages}
    first: dict[str, int] = {}
    for row, (kind, number) in zip(books.rows, books.keys, strict=True):
        stored[kind].add(number)
        # One that came by both, and by REST first, is a row of REST: the socket's frame is a duplicate.
        if not row["by_rest"] or (kind, number) in spooled.frames:
            heard.add((kind, number))
        if row["by_rest"]:
            continue
        message = spooled.messages.get(row["frame_no"])
        by = ledger.connections if message is None else ledger.connections[max(message.connection, 0) :][:1]
        if any(each.sent_live(kind, number) for each in by):
            first[kind] = min(number, first.get(kind, number))
    for kind in KINDS:
        newest = max((number for number in stored[kind] if number <= ledger.highest(kind)), default=0)
        report.open_tail += len(ledger.sent_after(kind, newest))
        if kind not in first:
            continue
        missed = [number for number in ledger.numbers(kind, first[kind], newest) if (kind, number) not in heard]
        undeclared = [number for number in missed if not declared.covers(kind, number)]
        report.declared_of[kind] = len(set(missed) - stored[kind] - set(undeclared))
        report.declared_missing += report.declared_of[kind]
        report.undeclared += runs(ledger.exchange, kind, undeclared)
