"""Reads the daemon's spool from its documented format, and checks everything that the format lets one check.

`<first_no as 20 digits>.db` per segment, in SQLite: `meta` (key, value) and `groups` (first_no, last_no,
count, crc32, frames). `frames` holds frames one after another, each a packed head and its payload.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import tempfile
import zlib
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1
HEAD = struct.Struct("<qBBI")  # recv_ns, kind, feed, length of the payload
DATA, CONNECTED, DISCONNECTED, TICK = range(4)


class BrokenSpoolError(AssertionError):
    """The spool is not as its format promises."""


class SpooledFrame(NamedTuple):
    """One frame, with the name of its feed."""

    frame_no: int
    recv_ns: int
    kind: int
    feed: str
    payload: bytes


@dataclass(frozen=True)
class Meta:
    """The head of a segment."""

    spool_id: str
    first_no: int
    previous_last_no: int | None
    feeds: tuple[str, ...]


def segments(folder: Path) -> list[Path]:
    """The segment files of a spool, oldest first."""
    return sorted(folder.glob("[0-9]" * 20 + ".db"))


def read_meta(segment: sqlite3.Connection, name: str) -> Meta:
    """Read and check the head of a segment."""
    meta = dict(segment.execute("SELECT key, value FROM meta"))
    if int(meta["format"]) != FORMAT or int(meta["first_no"]) != int(name.removesuffix(".db")):
        raise BrokenSpoolError(f"{name} says of itself {meta}")
    previous = meta.get("previous_last_no")
    return Meta(
        spool_id=str(meta["spool_id"]),
        first_no=int(meta["first_no"]),
        previous_last_no=None if previous in {None, "", "null"} else int(previous),
        feeds=tuple(json.loads(meta["feeds"])),
    )


def unpack(first_no: int, count: int, crc32: int, frames: bytes, feeds: tuple[str, ...]) -> list[SpooledFrame]:
    """Cut a group into its frames."""
    if zlib.crc32(frames) != crc32:
        raise BrokenSpoolError(f"the checksum of group {first_no} is wrong")
    unpacked: list[SpooledFrame] = []
    at = 0
    while at < len(frames):
        recv_ns, kind, feed, length = HEAD.unpack_from(frames, at)
        at += HEAD.size + length
        payload = frames[at - length : at]
        unpacked.append(SpooledFrame(first_no + len(unpacked), recv_ns, kind, feeds[feed], payload))
    if at != len(frames) or len(unpacked) != count:
        raise BrokenSpoolError(f"group {first_no} holds {len(unpacked)} frames and promises {count}")
    return unpacked


@contextmanager
def copied(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of a segment: opening a WAL database changes it, and the daemon is to find what it left."""
    with tempfile.TemporaryDirectory(prefix="recio-spool-") as folder:
        for part in (path, path.with_name(f"{path.name}-wal")):
            if part.exists():
                shutil.copy(part, folder)
        with closing(sqlite3.connect(Path(folder, path.name))) as segment:
            yield segment


def read_groups(segment: sqlite3.Connection, name: str, expected: int) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield the groups of a segment, each following the one before it without a hole."""
    query = "SELECT first_no, last_no, count, crc32, frames FROM groups ORDER BY first_no"
    for group in segment.execute(query):
        first_no, last_no, count, _, _ = group
        if first_no != expected or last_no != first_no + count - 1:
            raise BrokenSpoolError(f"{name}: group {first_no}..{last_no} ({count}), {expected} is due")
        expected = last_no + 1
        yield group


def read_spool(folder: Path) -> Iterator[SpooledFrame]:
    """Yield the frames of a spool whose daemon has ended."""
    last: int | None = None
    spool_id = ""
    for path in segments(folder):
        with copied(path) as segment:
            meta = read_meta(segment, path.name)
            if last is not None and meta.previous_last_no != last:
                raise BrokenSpoolError(f"{path.name} follows {meta.previous_last_no}, but {last} is before it")
            if meta.spool_id != (spool_id := spool_id or meta.spool_id):
                raise BrokenSpoolError(f"{path.name} belongs to another spool")
            for first_no, last_no, count, crc32, frames in read_groups(segment, path.name, meta.first_no):
                yield from unpack(first_no, count, crc32, frames, meta.feeds)
                last = last_no


def spool_id(folder: Path) -> str:
    """The identity of the spool, from its newest segment."""
    newest = segments(folder)[-1]
    with copied(newest) as segment:
        return read_meta(segment, newest.name).spool_id
