"""The spool's files: one SQLite database per segment, one row per durable group of frames.

A segment is named after its first frame (20 digits, so that names sort) and can be read by hand:

* `meta` (key, value): `format`, `spool_id`, `first_no`, `previous_last_no` (the last frame of the segment before, so
  that a missing file is noticed), `feeds` (a JSON list; frames name their feed by its place there).
* `groups` (first_no, last_no, count, crc32, frames): frame numbers within a group follow each other.

`frames` is the frames one after another, each a 14-byte little-endian head (recv_ns int64, kind uint8, feed uint8,
length uint32) and its bytes. One row per group and not per frame: `sqlite3` releases the GIL for every row, so row by
row a busy event loop and the writing thread convoyed, at a third of the speed.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import orjson

from recio_ingest.errors import SpoolError
from recio_ingest.records import Frame

FORMAT = 1
HEAD = Struct("<qBBI")
SUFFIX = ".db"

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS groups (
  first_no INTEGER PRIMARY KEY, last_no INTEGER NOT NULL, count INTEGER NOT NULL, crc32 INTEGER NOT NULL,
  frames BLOB NOT NULL);
"""


class Group(NamedTuple):
    """Frames that became durable together, packed."""

    first_no: int
    last_no: int
    frame_count: int
    frames: bytes


@dataclass(slots=True)
class Segment:
    """What is known of one file without reading its frames."""

    path: Path
    spool_id: str
    first_no: int
    previous_last_no: int
    feeds: tuple[str, ...]
    last_no: int
    closed_at_s: float
    size_bytes: int = 0


class Damaged(Exception):  # noqa: N818  # a finding, not a failure of this program
    """A group cannot be read; everything up to `last_no` is lost as far as this read could tell."""

    def __init__(self, last_no: int, why: str) -> None:
        super().__init__(why)
        self.last_no = last_no


def file_name(first_no: int) -> str:
    """Return the name of the segment that begins with this frame."""
    return f"{first_no:020d}{SUFFIX}"


def create(folder: Path, spool_id: str, first_no: int, previous_last_no: int, feeds: Sequence[str]) -> Segment:
    """Make a segment's file, durably; the folder's entry too."""
    path = folder / file_name(first_no)
    meta = {
        "format": FORMAT,
        "spool_id": spool_id,
        "first_no": first_no,
        "previous_last_no": previous_last_no,
        "feeds": orjson.dumps(list(feeds)).decode(),
    }
    connection = connect(path)
    try:
        connection.executescript(_SCHEMA)
        with connection:
            connection.execute("BEGIN")
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
    finally:
        connection.close()
    sync_folder(folder)
    return Segment(path, spool_id, first_no, previous_last_no, tuple(feeds), first_no - 1, 0.0)


def describe(path: Path) -> Segment:
    """Return what a segment's file says of itself.

    Raises sqlite3.Error, KeyError or ValueError for a damaged file; SpoolError for one that a newer version wrote.
    """
    connection = connect(path)
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta["format"] > FORMAT:
            raise SpoolError(
                f"the spool segment {path.name} has format {meta['format']}, newer than this program's {FORMAT}",
                hint="start the newer version again; nothing was deleted",
            )
        (last_no,) = connection.execute("SELECT max(last_no) FROM groups").fetchone()
    finally:
        connection.close()
    first_no = int(meta["first_no"])
    last_no = first_no - 1 if last_no is None else int(last_no)
    feeds = tuple(orjson.loads(meta["feeds"]))
    segment = Segment(path, str(meta["spool_id"]), first_no, int(meta["previous_last_no"]), feeds, last_no, 0.0)
    segment.closed_at_s = path.stat().st_mtime
    segment.size_bytes = size_bytes(path)
    return segment


def connect(path: Path) -> sqlite3.Connection:
    """Open a segment. The caller keeps to one thread; busy readers by hand are waited for."""
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def insert(connection: sqlite3.Connection, group: Group) -> None:
    """Make a group durable: when this returns, the frames survive a power cut."""
    connection.execute(
        "INSERT INTO groups VALUES (?, ?, ?, ?, ?)", (*group[:3], zlib.crc32(group.frames), group.frames)
    )


def read(segment: Segment, after_no: int, max_frames: int, max_bytes: int) -> list[Frame]:
    """Return the frames of a segment after a number, until either limit is reached.

    Raises Damaged where the very next group cannot be read; frames before the damage are returned first.
    """
    frames: list[Frame] = []
    size = 0
    damaged: Damaged | None = None
    try:
        connection = connect(segment.path)
    except sqlite3.Error as exc:
        raise Damaged(segment.last_no, str(exc)) from exc
    try:
        rows = connection.execute(
            "SELECT first_no, last_no, count, crc32, frames FROM groups WHERE last_no > ? ORDER BY first_no",
            (after_no,),
        )
        for first_no, last_no, count, crc32, packed in rows:
            if zlib.crc32(packed) != crc32 or last_no - first_no + 1 != count:
                damaged = Damaged(last_no, "checksum or count")
                break
            frames += (frame for frame in unpack(first_no, packed, segment.feeds) if frame.frame_no > after_no)
            size += len(packed)
            if len(frames) >= max_frames or size >= max_bytes:
                break
    except sqlite3.Error as exc:
        damaged = Damaged(segment.last_no, str(exc))
    finally:
        connection.close()
    if damaged is not None and not frames:
        raise damaged
    return frames[:max_frames]


def count_after(segment: Segment, after_no: int) -> int:
    """Return how many frames of a segment come after a number (groups are counted, not read)."""
    try:
        connection = connect(segment.path)
        try:
            rows = connection.execute(
                "SELECT max(first_no, ? + 1), last_no FROM groups WHERE last_no > ?", (after_no,) * 2
            )
            return sum(last_no - first_no + 1 for first_no, last_no in rows)
        finally:
            connection.close()
    except sqlite3.Error:
        return 0


def pack(frames: Sequence[Frame], codes: Mapping[str, int]) -> bytes:
    """Return the frames one after another."""
    head = HEAD.pack
    return b"".join(
        [part for _, ns, feed, kind, data in frames for part in (head(ns, kind, codes[feed], len(data)), data)]
    )


def unpack(first_no: int, packed: bytes, feeds: Sequence[str]) -> Iterator[Frame]:
    """Yield the frames of a group."""
    at = 0
    frame_no = first_no
    while at < len(packed):
        recv_ns, kind, feed, length = HEAD.unpack_from(packed, at)
        at += HEAD.size
        yield Frame(frame_no, recv_ns, feeds[feed], kind, packed[at : at + length])
        at += length
        frame_no += 1


def size_bytes(path: Path) -> int:
    """Return the bytes that a segment and its write-ahead log take."""
    return sum(_size(Path(f"{path}{suffix}")) for suffix in ("", "-wal"))


def remove(segment: Segment) -> None:
    """Delete a segment's files."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{segment.path}{suffix}").unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
