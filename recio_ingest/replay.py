"""Ships files through the same path as the live feeds: spool segments, JSON lines, and frames out of the quarantine."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from recio_ingest import feeds, known, segments, store
from recio_ingest.decode import Decoder
from recio_ingest.errors import BadInputError, RecioError, TryLaterError
from recio_ingest.faults import Fault, classify
from recio_ingest.records import LIVE_STREAM, Batch, Decoded, Frame, Kind, Outcome, Row, is_repair, trade_name
from recio_ingest.ship import Shipper
from recio_ingest.store import Position, Store

UNKNOWN_FEED = "unknown"
_SQLITE = b"SQLite format 3\x00"
_LATEST_S = 4_102_444_800  # the year 2100; what is later, or no number, is no time of arrival
_MAX_BYTES = 16 * 2**20
_QUARANTINE_STEP = 500


class Replayed(NamedTuple):
    """What became of one file's frames, over all runs of it."""

    name: str
    counts: dict[Outcome, int]
    new_rows: int


async def replay(dsn: str, path: Path, feed: str | None, speed: float, max_rows: int) -> Replayed:
    """Ship one file; a second run of the same bytes adds nothing, a run that was cut off goes on where it stopped."""
    source, stream = _open(path, feed, speed)
    new_rows = 0

    async def acquire(opened: Store, epoch: int) -> Position:
        return await source.acquire(opened, stream, epoch)

    async def only_new(opened: Store, batch: Batch) -> Batch:
        nonlocal new_rows
        batch = await known.drop_known(opened, batch)
        new_rows += sum(map(len, batch.tables.values()))
        return batch

    shipper = Shipper(
        source, dsn, acquire, stream=stream, max_rows=max_rows, min_interval_s=0, refine=only_new, patient=False
    )
    await shipper.run()
    assert shipper.progress.position is not None
    return Replayed(path.name, shipper.progress.position.counts, new_rows)


def in_order(paths: Sequence[Path]) -> list[Path]:
    """Return files in the order in which they are to be replayed: segments by their frame numbers, after all others."""
    return sorted(paths, key=_first_no)


async def replay_quarantine(dsn: str) -> tuple[int, int]:
    """Decode every open entry of the quarantine with today's parsers; return how many were used and how many remain."""
    used = remaining = after_id = 0
    async with store.session(dsn) as opened:
        while entries := await opened.open_quarantine(after_id, _QUARANTINE_STEP):
            for entry in entries:
                after_id = entry["quarantine_id"]
                decoded = _decode_alone(entry)
                if decoded is None:
                    remaining += 1
                    continue
                rows = [row for row in decoded.rows if isinstance(row, Row)]
                stored = await opened.known_trades(rows)
                if rows and all(trade_name(row) in stored for row in rows):
                    decoded = Decoded(Outcome.DUPLICATE)
                elif decoded.outcome is Outcome.SHIPPED and is_repair(_frame(entry)):
                    # An answer with many trades, most of which are rows of this or of other frames.
                    decoded = Decoded(Outcome.SHIPPED, tuple(row for row in rows if trade_name(row) not in stored))
                try:
                    used += await opened.release(entry, decoded)
                except Exception as exc:
                    if classify(exc) is not Fault.BAD_ROW:
                        raise
                    remaining += 1  # the database still refuses it
    return used, remaining


class JsonLines:
    """Frames out of a file with one JSON object a line: bare messages, or `{"received_at": s, "frame": {...}}`.

    A file that is one JSON value over several lines, as a REST answer may be, is one frame.

    Without `received_at` the venue's time stands in, and without that the line before. Numbers begin after the clock
    (us) of the first run, which the stream's row remembers.
    """

    def __init__(self, path: Path, feed: str | None, speed: float) -> None:
        self._path = path
        self._feed = feed
        self._lines = self._frames()
        self._pace = _Pace(speed)
        self._base_no = 0

    async def acquire(self, opened: Store, stream: str, epoch: int) -> Position:
        """Begin or go on with this file's own stream."""
        begun = await opened.peek(stream)
        self._base_no = int(begun.spool_id) if begun else time.time_ns() // 1000
        position = await opened.acquire(stream, str(self._base_no), start_no=self._base_no, epoch=epoch)
        self._lines = self._frames()
        return position

    async def read(self, after_no: int, max_frames: int) -> list[Frame]:
        """Return the next lines as frames."""
        frames: list[Frame] = []
        size = 0
        for frame in self._lines:
            if frame.frame_no > after_no:
                frames.append(frame)
                size += len(frame.data)
            if len(frames) >= max_frames or size >= _MAX_BYTES:
                break
        await self._pace.wait(frames)
        return frames

    def committed(self, frame_no: int) -> None:
        """Nothing is trimmed of a file that belongs to somebody else."""

    def _frames(self) -> Iterator[Frame]:
        recv_ns, feed = 0, self._feed or UNKNOWN_FEED
        with self._path.open("rb") as file:
            for line_no, line in _lines(file):
                try:
                    message = json.loads(line, parse_float=Decimal)
                except (ValueError, RecursionError):
                    message = None  # the parser will say so, and the quarantine keep it
                given, message, data = _unwrap(message, line)
                feed = self._feed or _feed_of(message) or feed
                recv_ns = given or _venue_ns(feed, message) or recv_ns
                yield Frame(self._base_no + line_no, recv_ns, feed, Kind.DATA, data)


class SpoolSegment:
    """Frames out of a segment of a spool, with the numbers that they have.

    Where the segment before was replayed to its end, decoding goes on from there: together they give the rows that the
    daemon made of them.
    """

    def __init__(self, path: Path, speed: float) -> None:
        self._segment = segments.describe(path)
        self._pace = _Pace(speed)

    async def acquire(self, opened: Store, stream: str, epoch: int) -> Position:
        """Begin or go on with this file's own stream.

        Raises TryLaterError where the daemon has frames of this segment still to ship: they would be there twice.
        """
        live = await opened.peek(LIVE_STREAM)
        if live is not None and live.spool_id == self._segment.spool_id and live.frame_no < self._segment.last_no:
            raise TryLaterError(
                f"{self._segment.path.name} is still being shipped by the daemon",
                hint="start the daemon and wait until --status shows nothing waiting",
            )
        spool_id, start_no = self._segment.spool_id, self._segment.first_no - 1
        position = await opened.acquire(stream, spool_id, start_no=start_no, epoch=epoch)
        if position.frame_no == start_no:
            position = position._replace(state=await opened.state_at(spool_id, self._segment.previous_last_no))
        return position._replace(ledger=spool_id)

    async def read(self, after_no: int, max_frames: int) -> list[Frame]:
        """Return the next frames. Raises BadInputError at damage."""
        if after_no >= self._segment.last_no:
            return []
        try:
            frames = segments.read(self._segment, after_no, max_frames, _MAX_BYTES)
        except segments.Damaged as exc:
            raise BadInputError(f"{self._segment.path.name} is damaged after frame {after_no}: {exc}") from exc
        await self._pace.wait(frames)
        return frames

    def committed(self, frame_no: int) -> None:
        """Nothing is trimmed of a file that belongs to somebody else."""


class _Pace:
    """Holds batches back so that arrival times pass at `speed` times their own rate (0: as fast as it goes)."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._origin: tuple[int, float] | None = None

    async def wait(self, frames: Sequence[Frame]) -> None:
        if not self._speed or not frames:
            return
        now_s = asyncio.get_running_loop().time()
        first_ns, began_s = self._origin = self._origin or (frames[0].recv_ns, now_s)
        await asyncio.sleep(began_s + (frames[-1].recv_ns - first_ns) / 1e9 / self._speed - now_s)


def _first_no(path: Path) -> int:
    try:
        with path.open("rb") as file:
            is_segment = file.read(len(_SQLITE)) == _SQLITE
        return segments.describe(path).first_no if is_segment else 0
    except (OSError, KeyError, TypeError, ValueError, sqlite3.Error, RecioError):
        return 0  # what is wrong with it is told when its turn comes


def _open(path: Path, feed: str | None, speed: float) -> tuple[JsonLines | SpoolSegment, str]:
    try:
        with path.open("rb") as file:
            is_segment = file.read(len(_SQLITE)) == _SQLITE
        if not is_segment:
            with path.open("rb") as file:
                return JsonLines(path, feed, speed), file_digest(file, "sha256").hexdigest()
        segment = SpoolSegment(path, speed)  # opening it has put its write-ahead log, if it had one, into the file
        if Path(f"{path}-wal").exists():
            raise TryLaterError(
                f"{path.name} is in use", hint="stop the daemon, or wait until it has begun another file"
            )
        with path.open("rb") as file:
            return segment, file_digest(file, "sha256").hexdigest()
    except (OSError, KeyError, TypeError, ValueError, sqlite3.Error) as exc:
        raise BadInputError(
            f"{path} cannot be replayed: {exc}", hint="a spool segment or JSON lines is wanted"
        ) from exc


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that hold something, with their numbers; an answer spread over several lines is one of them."""
    head = file.read(_MAX_BYTES + 1).strip()
    if len(head) <= _MAX_BYTES and b"\n" in head and not _is_json(head.partition(b"\n")[0]) and _is_json(head):
        yield 1, head
        return
    file.seek(0)
    for line_no, line in enumerate(file, 1):
        if data := line.strip():
            yield line_no, data


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except ValueError:
        return False
    return True


def _unwrap(message: Any, data: bytes) -> tuple[int, Any, bytes]:  # noqa: ANN401  # any JSON value
    """Return the arrival time (ns, 0: not given), the message, and the message's bytes with its numbers untouched."""
    if not (isinstance(message, dict) and "frame" in message and "type" not in message):
        return 0, message, data
    given = message.get("received_at")
    known = given if isinstance(given, (int, Decimal)) and 0 < given < _LATEST_S else Decimal(0)
    try:
        inner = orjson.dumps(message["frame"], default=lambda number: orjson.Fragment(str(number)))
    except TypeError:  # what orjson will not write (a lone surrogate, 65 bits, 300 levels): the whole line is the frame
        return 0, None, data
    return int(known * 1_000_000_000), message["frame"], inner


def _feed_of(message: Any) -> str | None:  # noqa: ANN401  # any JSON value
    return next((name for name in feeds.NAMES if feeds.load(name).recognises(message)), None)


def _venue_ns(feed: str, message: Any) -> int:  # noqa: ANN401  # any JSON value
    moment = feeds.load(feed).venue_time(message) if feed in feeds.NAMES else None
    return moment * 1000 if moment else 0


def _frame(entry: Any) -> Frame:  # noqa: ANN401  # asyncpg.Record
    return Frame(entry["frame_no"], entry["received_at"] * 1000, entry["feed"], Kind.DATA, entry["frame"])


def _decode_alone(entry: Any) -> Decoded | None:  # noqa: ANN401  # asyncpg.Record
    """Decode one frame with a parser that knows nothing else; None where it is still of no use."""
    try:
        decoded = Decoder({}).decode_one(_frame(entry))
    except Exception:  # noqa: BLE001  # still of no use, or still a bug: it stays where it is
        return None
    return None if decoded.outcome is Outcome.QUARANTINED else decoded
