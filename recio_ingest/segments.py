"""The spool's files: one SQLite database per segment, one row per durable group of frames.

A segment is named after its first frame (20 digits, so that names sort) and can be read by hand:

* `meta` (key, value): `format`, `spool_id`, `first_no`, `previous_last_no` (the last frame of the segment before, so
  that a missing file is noticed), `feeds` (a JSON list; frames name their feed by its place there), `crc32` (of the
  other pairs, sorted, as JSON).
* `groups` (first_no, last_no, count, crc32, frames): frame numbers follow each other, within a group and from group to
  group, so that a missing one is noticed.

`frames` is the frames one after another, each a 14-byte little-endian head (recv_ns int64, kind uint8, feed uint8,
length uint32) and its bytes. One row per group and not per frame: `sqlite3` releases the GIL for every row, so row by
row a busy event loop and the writing thread convoyed, at a third of the speed.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from recio_ingest.errors import SpoolError
from recio_ingest.records import Frame

FORMAT = 1
HEAD = Struct("<qBBI")
SUFFIX = ".db"
ASIDE = ".damaged"
PATTERN = "[0-9]" * 20 + SUFFIX

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE groups (
  first_no INTEGER PRIMARY KEY, last_no INTEGER NOT NULL, count INTEGER NOT NULL, crc32 INTEGER NOT NULL,
  frames BLOB NOT NULL);
"""
# A group whose own numbers contradict each other says nothing about what the segment holds.
_LAST = """
SELECT max(last_no) FILTER (WHERE consistent), count(*) FILTER (WHERE NOT coalesce(consistent, false))
  FROM (SELECT last_no, last_no - first_no + 1 = count AND typeof(last_no) = 'integer' AS consistent FROM groups)
"""
_COUNT = """
SELECT coalesce(sum(last_no - max(first_no, ?1) + 1), 0) FROM groups
 WHERE last_no >= ?1 AND last_no - first_no + 1 = count AND typeof(last_no) = 'integer'
"""
_READ = """
SELECT first_no, last_no, count, crc32, frames FROM groups
 WHERE first_no >= coalesce((SELECT max(first_no) FROM groups WHERE first_no <= ?1), 0) ORDER BY first_no
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
    """Of a segment without frames: `previous_last_no`."""
    closed_at_s: float
    size_bytes: int = 0
    suspect: bool = False
    """Some of its groups contradict themselves: there may have been frames after `last_no`."""


class Damaged(Exception):  # noqa: N818  # a finding, not a failure of this program
    """A group cannot be read; everything up to `last_no` is lost as far as this read could tell."""

    def __init__(self, last_no: int, why: str) -> None:
        super().__init__(why)
        self.last_no = last_no


def file_name(first_no: int) -> str:
    """Return the name of the segment that begins with this frame."""
    return f"{first_no:020d}{SUFFIX}"


def create(folder: Path, spool_id: str, first_no: int, previous_last_no: int, feeds: Sequence[str]) -> Segment:
    """Make a segment's file, durably; the folder's entry too. A crash leaves it there whole, or not at all."""
    path = folder / file_name(first_no)
    unfinished = path.with_suffix(".new")
    _unlink(unfinished)
    meta: dict[str, Any] = {
        "format": FORMAT,
        "spool_id": spool_id,
        "first_no": first_no,
        "previous_last_no": previous_last_no,
        "feeds": orjson.dumps(list(feeds)).decode(),
    }
    connection = connect(unfinished, mode="rwc")
    try:
        connection.executescript(_SCHEMA)
        with connection:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", (meta | {"crc32": _meta_crc32(meta)}).items())
    finally:
        connection.close()
    unfinished.rename(path)
    sync_folder(folder)
    return Segment(path, spool_id, first_no, previous_last_no, tuple(feeds), previous_last_no, 0.0)


def describe(path: Path) -> Segment:
    """Return what a segment's file says of itself.

    Raises sqlite3.Error, KeyError, TypeError or ValueError for a damaged file, SpoolError for one of a newer version.
    """
    connection = connect(path)
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta.pop("crc32") != _meta_crc32(meta):
            raise ValueError("checksum of meta")
        if meta["format"] > FORMAT:
            raise SpoolError(
                f"the spool segment {path.name} has format {meta['format']}, newer than this program's {FORMAT}",
                hint="start the newer version again; nothing was deleted",
            )
        last_no, contradictions = connection.execute(_LAST).fetchone()
    finally:
        connection.close()
    previous_last_no = int(meta["previous_last_no"])
    return Segment(
        path=path,
        spool_id=str(meta["spool_id"]),
        first_no=int(meta["first_no"]),
        previous_last_no=previous_last_no,
        feeds=tuple(orjson.loads(meta["feeds"])),
        last_no=previous_last_no if last_no is None else int(last_no),
        closed_at_s=path.stat().st_mtime,
        size_bytes=size_bytes(path),
        suspect=contradictions > 0,
    )


def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Open a segment that is there. The caller keeps to one thread; busy readers by hand are waited for."""
    uri = f"file:{quote(str(path))}?mode={mode}"
    if mode == "ro" and not Path(f"{path}-wal").exists():
        # Closed, so nobody writes to it any more: read without making a write-ahead log, which takes room.
        uri += "&immutable=1"
    connection = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def is_passing(exc: sqlite3.Error) -> bool:
    """Tell whether an error says nothing against the file: no room, no right, no descriptor, somebody's lock."""
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in _PASSING and code != sqlite3.SQLITE_IOERR_SHORT_READ


_PASSING = frozenset(
    {sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY}
    | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}
)


def insert(connection: sqlite3.Connection, group: Group) -> None:
    """Make a group durable: when this returns, the frames survive a power cut."""
    connection.execute(
        "INSERT INTO groups VALUES (?, ?, ?, ?, ?)", (*group[:3], zlib.crc32(group.frames), group.frames)
    )


def read(segment: Segment, after_no: int, max_frames: int, max_bytes: int) -> list[Frame]:
    """Return the frames of a segment after a number, until either limit is reached.

    Raises Damaged where the very next frames are not there, up to the next group that is there whole (or the segment's
    end); frames before the damage are returned first. Raises OSError where the file may well be whole: a full disk, a
    lock, a limit.
    """
    if not segment.path.exists():
        raise Damaged(segment.last_no, "the file is gone")
    frames: list[Frame] = []
    next_no = max(after_no + 1, segment.first_no)
    try:
        connection = connect(segment.path, "ro")
        try:
            why = _gather(connection, segment, next_no, frames, (max_frames, max_bytes))
        finally:
            connection.close()
    except sqlite3.Error as exc:
        if is_passing(exc) and not frames:
            raise OSError(f"the spool segment {segment.path.name} cannot be read now: {exc}") from exc
        why = str(exc)
    if not frames and next_no <= segment.last_no:
        raise Damaged(segment.last_no, why)
    return frames[:max_frames]


def _gather(
    connection: sqlite3.Connection, segment: Segment, next_no: int, frames: list[Frame], limits: tuple[int, int]
) -> str:
    """Add the frames from a number on, up to damage or a limit (frames, bytes); return what the damage would be."""
    why, size = "a group is missing", 0
    for group in connection.execute(_READ, (next_no,)):
        first_no, last_no, _, _, packed = group
        if not _whole(*group):
            why = "checksum or count"
        elif first_no > next_no:
            if frames:
                break
            raise Damaged(first_no - 1, why)
        elif last_no >= next_no:
            frames += (frame for frame in unpack(first_no, packed, segment.feeds) if frame.frame_no >= next_no)
            size += len(packed)
            next_no = last_no + 1
            if len(frames) >= limits[0] or size >= limits[1]:
                break
    return why


def count_after(segment: Segment, after_no: int) -> int:
    """Return how many frames of a segment come after a number (groups are counted, not read)."""
    try:
        connection = connect(segment.path)
        try:
            (count,) = connection.execute(_COUNT, (after_no + 1,)).fetchone()
            return int(count)
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
    _unlink(segment.path)


def move_aside(path: Path) -> Path:
    """Rename a segment's files so that they are no longer of the spool; return the new name."""
    aside = path.with_suffix(ASIDE)
    for suffix in ("-shm", "-wal", ""):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _meta_crc32(meta: Mapping[str, Any]) -> int:
    return zlib.crc32(orjson.dumps(sorted(meta.items())))


def _whole(first_no: int, last_no: object, count: object, crc32: object, packed: object) -> bool:
    """Tell whether a row is as it was written; in a damaged file a value may be of any type."""
    return (
        isinstance(last_no, int)
        and isinstance(packed, bytes)
        and last_no - first_no + 1 == count
        and zlib.crc32(packed) == crc32
    )


def _unlink(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
