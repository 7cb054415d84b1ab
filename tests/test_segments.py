"""One file of the spool: what is written is read back, and damage is found, bounded and never passed on."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import zlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recio_ingest import segments
from recio_ingest.errors import SpoolError
from recio_ingest.records import Frame
from recio_ingest.segments import Damaged, Group, Segment

FEEDS = ("daemon", "coinbase")
CODES = {"daemon": 0, "coinbase": 1}


def frames(first_no: int, last_no: int) -> list[Frame]:
    """Return frames of different feeds, kinds and sizes, one of them empty."""
    return [
        Frame(no, no * 1000, FEEDS[no % 2], no % 6, bytes([no % 251]) * (no % 7)) for no in range(first_no, last_no + 1)
    ]


def written(folder: Path, *groups: tuple[int, int]) -> Segment:
    """Write a segment of these groups (first and last number), and return what its file says of itself."""
    segment = segments.create(folder, "the-spool", groups[0][0] if groups else 10, 4, FEEDS)
    with closing(segments.connect(segment.path)) as connection:
        for first_no, last_no in groups:
            packed = segments.pack(frames(first_no, last_no), CODES)
            segments.insert(connection, Group(first_no, last_no, last_no - first_no + 1, packed))
    return segments.describe(segment.path)


def change(segment: Segment, sql: str) -> None:
    """Damage a segment behind the program's back."""
    with closing(sqlite3.connect(segment.path, isolation_level=None)) as connection:
        connection.execute(sql)


def numbers(found: Iterable[Frame]) -> list[int]:
    """Return the numbers of frames that must be what was written under them."""
    found = list(found)
    assert found == [frame for one in found for frame in frames(one.frame_no, one.frame_no)]
    return [frame.frame_no for frame in found]


def read(segment: Segment, after_no: int, max_frames: int = 1000, max_bytes: int = 10**6) -> list[int]:
    """Read, and return the numbers."""
    return numbers(segments.read(segment, after_no, max_frames, max_bytes))


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1), st.sampled_from(FEEDS), st.integers(0, 255), st.binary(max_size=300)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_packed_frames_come_out_the_same(parts: list[tuple[int, str, int, bytes]]) -> None:
    """Whatever frames hold, unpacking what was packed gives them back."""
    given_frames = [Frame(100 + at, *part) for at, part in enumerate(parts)]
    assert list(segments.unpack(100, segments.pack(given_frames, CODES), FEEDS)) == given_frames


def test_a_segment_reads_back(tmp_path: Path) -> None:
    """All groups, in order; from any number on; and from the files as they lie there while a writer holds them."""
    segment = segments.create(tmp_path, "the-spool", 10, 4, FEEDS)
    with closing(segments.connect(segment.path)) as connection:
        for first_no, last_no in ((10, 12), (13, 13), (14, 30)):
            packed = segments.pack(frames(first_no, last_no), CODES)
            segments.insert(connection, Group(first_no, last_no, last_no - first_no + 1, packed))
        shutil.copytree(tmp_path, tmp_path / "as a crash leaves it")
    assert read(segments.describe(segment.path), 0) == list(range(10, 31))
    copied = segments.describe(tmp_path / "as a crash leaves it" / segment.path.name)
    assert [read(copied, after_no) for after_no in (9, 12, 20, 29, 30)] == [
        list(range(10, 31)),
        list(range(13, 31)),
        list(range(21, 31)),
        [30],
        [],
    ]


def test_a_segment_describes_itself(tmp_path: Path) -> None:
    """What was said at its making, its last number, its age and its size can be read without the frames."""
    segment = written(tmp_path, (10, 12), (13, 20))
    assert (segment.path.name, segment.spool_id, segment.feeds) == ("00000000000000000010.db", "the-spool", FEEDS)
    assert (segment.first_no, segment.previous_last_no, segment.last_no) == (10, 4, 20)
    assert segment.closed_at_s == segment.path.stat().st_mtime
    assert segment.size_bytes == segment.path.stat().st_size > 0
    (tmp_path / "empty").mkdir()
    assert written(tmp_path / "empty").last_no == 4


def test_the_format_is_as_documented(tmp_path: Path) -> None:
    """A person with sqlite3 and the module's description can read a segment without this program."""
    with closing(sqlite3.connect(written(tmp_path, (10, 11)).path)) as connection:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        ((first_no, last_no, count, crc32, packed),) = connection.execute("SELECT * FROM groups")
    crc = meta.pop("crc32")
    assert meta == {
        "format": 1,
        "spool_id": "the-spool",
        "first_no": 10,
        "previous_last_no": 4,
        "feeds": '["daemon","coinbase"]',
    }
    assert crc == zlib.crc32(orjson.dumps(sorted(meta.items())))
    assert (first_no, last_no, count, crc32) == (10, 11, 2, zlib.crc32(packed))
    assert packed == (
        struct.pack("<qBBI", 10_000, 4, 0, 3)
        + b"\x0a\x0a\x0a"
        + struct.pack("<qBBI", 11_000, 5, 1, 4)
        + b"\x0b\x0b\x0b\x0b"
    )


def test_reads_are_bounded(tmp_path: Path) -> None:
    """A read ends at the frames asked for, or at the group that passes the bytes asked for."""
    segment = written(tmp_path, (10, 12), (13, 15), (16, 18))
    assert read(segment, 0, max_frames=5) == [10, 11, 12, 13, 14]
    assert read(segment, 14, max_frames=2) == [15, 16]
    assert read(segment, 0, max_bytes=1) == [10, 11, 12]
    assert read(segment, 0, max_bytes=100) == [10, 11, 12, 13, 14, 15]


def test_frames_after_a_number_are_counted(tmp_path: Path) -> None:
    """The count is of frames, also from the middle of a group."""
    segment = written(tmp_path, (10, 12), (13, 20))
    assert [segments.count_after(segment, after_no) for after_no in (0, 9, 10, 12, 19, 20, 99)] == [
        11,
        11,
        10,
        8,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        ("UPDATE groups SET frames = zeroblob(length(frames)) WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET frames = 'text' WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET frames = 7 WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET crc32 = crc32 + 1 WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET crc32 = 'x' WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET count = 2 WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET last_no = 9000000000000000000 WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET last_no = 3 WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET last_no = 'x' WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET first_no = 1 WHERE first_no = 13", [13, 14, 15]),
        ("UPDATE groups SET first_no = 9000000000000000000 WHERE first_no = 13", [13, 14, 15]),
        ("DELETE FROM groups WHERE first_no = 13", [13, 14, 15]),
        ("DELETE FROM groups WHERE first_no = 10", [10, 11, 12]),
        ("DELETE FROM groups WHERE first_no < 16", [10, 11, 12, 13, 14, 15]),
        ("UPDATE groups SET frames = x'' WHERE first_no IN (10, 13)", [10, 11, 12, 13, 14, 15]),
    ],
)
def test_a_damaged_group_is_lost_alone(tmp_path: Path, damage: str, lost: list[int]) -> None:
    """The frames before it come first, then exactly its own numbers are reported, then those after it come."""
    segment = written(tmp_path, (10, 12), (13, 15), (16, 18))
    change(segment, damage)
    segment = segments.describe(segment.path)
    assert segment.last_no == 18
    assert segments.count_after(segment, 0) in {9, 9 - len(lost)}
    if lost[0] > 10:
        assert read(segment, 9) == list(range(10, lost[0]))
    with pytest.raises(Damaged) as caught:
        read(segment, lost[0] - 1)
    assert caught.value.last_no == lost[-1]
    assert read(segment, lost[-1]) == list(range(lost[-1] + 1, 19))


def test_a_single_lost_frame_is_noticed(tmp_path: Path) -> None:
    """One number missing between two groups is enough."""
    segment = written(tmp_path, (10, 12), (13, 13), (14, 16))
    change(segment, "DELETE FROM groups WHERE first_no = 13")
    assert read(segment, 9) == [10, 11, 12]
    with pytest.raises(Damaged) as caught:
        read(segment, 12)
    assert caught.value.last_no == 13
    assert read(segment, 13) == [14, 15, 16]


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM groups WHERE first_no = 16", "DROP TABLE groups", "UPDATE groups SET count = 0 WHERE first_no = 16"],
)
def test_a_lost_end_is_reported(tmp_path: Path, damage: str) -> None:
    """What a segment is known to have held and does not any more is reported to its last number."""
    segment = written(tmp_path, (10, 12), (13, 15), (16, 18))
    change(segment, damage)
    with pytest.raises(Damaged) as caught:
        read(segment, 15)
    assert caught.value.last_no == 18


@pytest.mark.parametrize("key", ["format", "spool_id", "first_no", "previous_last_no", "feeds", "crc32"])
@pytest.mark.parametrize(
    "damage", ["DELETE FROM meta", "UPDATE meta SET value = value || '0'", "UPDATE meta SET value = NULL"]
)
def test_a_damaged_head_is_found(tmp_path: Path, damage: str, key: str) -> None:
    """A segment whose description was changed is not believed: a feed's name in it names its frames."""
    segment = written(tmp_path, (10, 12))
    change(segment, f"{damage} WHERE key = '{key}'")
    with pytest.raises((KeyError, ValueError, TypeError)):
        segments.describe(segment.path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A segment of a later version is an error that says what to do, and the file stays as it is."""
    segment = written(tmp_path, (10, 12))
    with closing(sqlite3.connect(segment.path, isolation_level=None)) as connection:
        meta = dict(connection.execute("SELECT key, value FROM meta WHERE key != 'crc32'")) | {
            "format": 2,
            "novelty": "x",
        }
        meta["crc32"] = zlib.crc32(orjson.dumps(sorted(meta.items())))
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
    before = segment.path.read_bytes()
    with pytest.raises(SpoolError, match="format 2, newer than this program's 1") as caught:
        segments.describe(segment.path)
    assert "newer version" in caught.value.hint
    assert segment.path.read_bytes() == before


def test_a_removed_file_is_not_made_again(tmp_path: Path) -> None:
    """Reading or counting in a segment that was trimmed meanwhile leaves no empty file behind."""
    segment = written(tmp_path, (10, 12))
    segments.remove(segment)
    with pytest.raises(Damaged):
        read(segment, 9)
    assert segments.count_after(segment, 9) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_segment_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Making a segment that fails half-way leaves none, and making it again succeeds."""
    unfinished = tmp_path / "00000000000000000010.new"
    unfinished.write_bytes(b"half of a segment, as a crash leaves it")
    assert written(tmp_path, (10, 12)).last_no == 12
    assert [path.name for path in tmp_path.iterdir()] == ["00000000000000000010.db"]
