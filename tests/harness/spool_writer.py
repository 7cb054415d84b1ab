"""Writes a spool by hand, as its documented format says, for an oracle to find faults in."""

from __future__ import annotations

import json
import sqlite3
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from harness.spool import FORMAT, HEAD

if TYPE_CHECKING:
    from pathlib import Path


class Written(NamedTuple):
    """One frame of the only feed."""

    kind: int
    payload: bytes
    recv_ns: int = 1


def write_segment(
    folder: Path, first_no: int, previous: int | None, groups: list[list[Written]], feed: str = "coinbase"
) -> None:
    """Write one file of the spool `s1`."""
    with closing(sqlite3.connect(folder / f"{first_no:020}.db")) as segment, segment:
        segment.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value)")
        meta = {"format": FORMAT, "spool_id": "s1", "first_no": first_no, "previous_last_no": previous}
        segment.executemany("INSERT INTO meta VALUES (?, ?)", [*meta.items(), ("feeds", json.dumps([feed]))])
        segment.execute(
            "CREATE TABLE groups"
            " (first_no INTEGER PRIMARY KEY, last_no INTEGER, count INTEGER, crc32 INTEGER, frames BLOB)"
        )
        for group in groups:
            blob = b"".join(HEAD.pack(recv_ns, kind, 0, len(payload)) + payload for kind, payload, recv_ns in group)
            last_no = first_no + len(group) - 1
            segment.execute(
                "INSERT INTO groups VALUES (?, ?, ?, ?, ?)",
                (first_no, last_no, len(group), zlib.crc32(blob), blob),
            )
            first_no = last_no + 1
