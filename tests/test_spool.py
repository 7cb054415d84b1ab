"""The spool on real files: nothing durable is lost, repeated or altered, and what damage took is announced."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from recio_ingest import segments, spool
from recio_ingest.errors import SpoolError, SpoolLockedError
from recio_ingest.records import DAEMON_FEED, Frame, Kind
from recio_ingest.spool import Spool

FEEDS = ("coinbase",)
YEAR_NS = 365 * 86_400 * 1_000_000_000
SMALL = 4 * 2**20
"""A `max_bytes` that makes segments of 512 KiB, and the limit 2 MiB."""


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """Keep thousands of reports of damage out of the output."""
    with structlog.testing.capture_logs():
        yield


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Spool]:
    """Open a spool and run it; on leaving, make durable what was gathered, and close it."""
    with Spool(folder, FEEDS, **({"sync_interval_s": 0} | settings)) as opened:
        async with asyncio.TaskGroup() as group:
            group.create_task(opened.run())
            yield opened
            await opened.close()


async def put(opened: Spool, count: int, size: int = 10, groups: int = 1) -> list[Frame]:
    """Append frames, as so many groups; return them when they are durable."""
    frames: list[Frame] = []
    for _ in range(groups):
        for at in range(count):
            recv_ns, payload = time.time_ns(), bytes([at % 256]) * size
            number = opened.append("coinbase", Kind.DATA, recv_ns, payload)
            frames.append(Frame(number, recv_ns, "coinbase", Kind.DATA, payload))
        while opened.durable_no < frames[-1].frame_no:
            await asyncio.sleep(0)
    return frames


async def read_all(opened: Spool, after_no: int, step: int = 8) -> list[Frame]:
    """Read everything durable after a number, a few frames at a time."""
    found: list[Frame] = []
    while after_no < opened.durable_no:
        frames = await asyncio.wait_for(opened.read(after_no, step), 10)
        assert 0 < len(frames) <= step
        assert all(before.frame_no < after.frame_no for before, after in pairwise(frames))
        assert after_no < frames[0].frame_no
        found += frames
        after_no = frames[-1].frame_no
    return found


def announced(found: Sequence[Frame], after_no: int) -> list[tuple[int, int]]:
    """Return the ranges that LOST frames announce; each begins where the reader stood, and ends at its own number."""
    ranges = []
    for frame in found:
        if frame.kind == Kind.LOST:
            facts = orjson.loads(frame.data)
            assert facts.pop("cause") in {"spool_lost", "spool_damaged"}
            assert (frame.feed, facts) == (DAEMON_FEED, {"from_no": after_no + 1, "to_no": frame.frame_no})
            ranges.append((after_no + 1, frame.frame_no))
        after_no = frame.frame_no
    return ranges


async def test_durable_frames_read_back(tmp_path: Path) -> None:
    """From memory, from the files of the run that wrote them, and from those of the next run: the same frames."""
    async with running(tmp_path) as opened:
        written = await put(opened, 30, groups=10)
        before_no = written[0].frame_no - 1
        assert await opened.read(before_no, 1000) == written
        assert await read_all(opened, before_no) == written
        assert opened._recent_floor > before_no
        assert await read_all(opened, before_no) == written
        assert await opened.read(written[100].frame_no, 1000) == written[101:]
    async with running(tmp_path) as opened:
        assert await read_all(opened, before_no) == written
        more = await put(opened, 5)
        assert await read_all(opened, written[-2].frame_no) == written[-1:] + more


async def test_only_durable_frames_are_read(tmp_path: Path) -> None:
    """A frame that is gathered and not yet on disk is not given out; a reader waits for it."""
    with Spool(tmp_path, FEEDS, sync_interval_s=0) as opened:
        number = opened.append("coinbase", Kind.DATA, 1, b"x")
        reading = asyncio.create_task(opened.read(number - 1, 10))
        await asyncio.sleep(0.05)
        assert not reading.done()
        assert opened.durable_no == number - 1
        async with asyncio.TaskGroup() as group:
            group.create_task(opened.run())
            assert await reading == [Frame(number, 1, "coinbase", 0, b"x")]
            await opened.close()


async def test_what_was_gathered_is_durable_at_the_close(tmp_path: Path) -> None:
    """Frames appended right before the end are on disk when the spool is closed, control marks too."""
    async with running(tmp_path) as opened:
        first_no = opened.append("coinbase", Kind.DATA, 1, b"x")
        opened.append(DAEMON_FEED, Kind.TICK, 2, b"")
    async with running(tmp_path) as opened:
        assert await read_all(opened, first_no - 1) == [
            Frame(first_no, 1, "coinbase", 0, b"x"),
            Frame(first_no + 1, 2, "daemon", 3, b""),
        ]


@pytest.mark.parametrize("shift_ns", [0, -YEAR_NS, YEAR_NS], ids=["same clock", "a year back", "a year ahead"])
async def test_numbers_only_grow(tmp_path: Path, shift_ns: int) -> None:
    """A spool opened again goes on with larger numbers whatever its clock says, and nothing seems lost between."""
    async with running(tmp_path) as opened:
        spool_id, first = opened.spool_id, await put(opened, 3)
    async with running(tmp_path, now_ns=lambda: time.time_ns() + shift_ns) as opened:
        second = await put(opened, 3)
        assert opened.spool_id == spool_id
        assert first[-1].frame_no < opened.start_no == second[0].frame_no
        assert await read_all(opened, first[0].frame_no - 1) == first + second


async def test_numbers_begin_at_the_clock(tmp_path: Path) -> None:
    """A new spool numbers from its clock in microseconds, past all that an earlier, lost one gave out."""
    async with running(tmp_path, now_ns=lambda: 1_790_000_000_123_456_789) as opened:
        assert [frame.frame_no for frame in await put(opened, 2)] == [1_790_000_000_123_456, 1_790_000_000_123_457]
        assert opened.oldest_no == 1_790_000_000_123_456


def test_one_daemon_per_spool(tmp_path: Path) -> None:
    """A second opener is refused with exit code 75 while the first holds the spool, and not after."""
    with Spool(tmp_path, FEEDS):
        with pytest.raises(SpoolLockedError) as caught:
            Spool(tmp_path, FEEDS)
        assert caught.value.exit_code == 75
    with Spool(tmp_path, FEEDS):
        pass


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """Where the folder cannot be made the error says whose it should be."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="cannot be used") as caught:
        Spool(tmp_path / "file" / "spool", FEEDS)
    assert "state_dir" in caught.value.hint


async def test_a_write_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames wait while the disk refuses them, the trouble is known, and all become durable when it is over."""
    monkeypatch.setattr(spool, "RETRY_S", 0.01)
    async with running(tmp_path) as opened:
        in_the_way = tmp_path / f"{opened.start_no:020d}.new"
        in_the_way.mkdir()
        numbers = [opened.append("coinbase", Kind.DATA, 1, b"x") for _ in range(5)]
        while not opened.failing:
            await asyncio.sleep(0.01)
        assert opened.durable_no == opened.start_no - 1
        in_the_way.rmdir()
        assert [frame.frame_no for frame in await opened.read(numbers[0] - 1, 10)] == numbers
        assert opened.failing == ""


# Damage.


class Damage:
    """Two runs of a spool, kept as they were, and the folder in which each kind of damage is tried."""

    def __init__(self, folder: Path) -> None:
        self.kept, self.folder = folder / "kept", folder / "spool"
        self.before_no = 0
        self.first: list[Frame] = []
        self.second: list[Frame] = []

    async def prepare(self) -> None:
        """Write four groups and two."""
        async with running(self.kept) as opened:
            self.first = await put(opened, 3, groups=4)
        async with running(self.kept) as opened:
            self.second = await put(opened, 3, groups=2)
        self.before_no = self.first[0].frame_no - 1

    def files(self) -> list[Path]:
        """Return the two segments as they were."""
        return sorted(self.kept.glob(segments.PATTERN))

    async def after(self, name: str, content: bytes) -> list[Frame]:
        """Return what a spool reads in which one file has this content."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for path in self.files():
            (self.folder / path.name).write_bytes(content if path.name == name else path.read_bytes())
        with Spool(self.folder, FEEDS) as opened:
            found = await read_all(opened, self.before_no)
            assert 0 <= await opened.count_after(self.before_no) <= len(self.first + self.second)
        return found

    def check(self, found: list[Frame], up_to_no: int = 2**63) -> int:
        """No frame is altered, invented or repeated, and each that does not come is announced. Return how many."""
        original = {frame.frame_no: frame for frame in self.first + self.second if frame.frame_no <= up_to_no}
        good = [frame for frame in found if frame.kind != Kind.LOST]
        assert good == [original[frame.frame_no] for frame in good]
        absent = original.keys() - {frame.frame_no for frame in good}
        ranges = announced(found, self.before_no)
        assert [number for number in sorted(absent) if not any(low <= number <= high for low, high in ranges)] == []
        return len(absent)


@pytest.fixture
async def damage(tmp_path: Path) -> Damage:
    """Return a spool of two runs to be damaged."""
    prepared = Damage(tmp_path)
    await prepared.prepare()
    return prepared


def flipped(content: bytes, at: int) -> bytes:
    """Return the content with one byte changed, in one bit or in all of them."""
    return content[:at] + bytes([content[at] ^ (0xFF if at % 2 else 1 << at % 8)]) + content[at + 1 :]


async def test_undamaged(damage: Damage) -> None:
    """The sweeps below begin from a spool that reads back whole."""
    path = damage.files()[0]
    assert damage.check(await damage.after(path.name, path.read_bytes())) == 0


async def test_a_flipped_byte_costs_what_it_hits_and_no_more(damage: Damage) -> None:
    """Any byte of the older file changed: no crash, no altered frame, and what is missing is announced."""
    path = damage.files()[0]
    content = path.read_bytes()
    costs = []
    # Every other byte that says something; most of a file this small is zeros.
    for at in [at for at, byte in enumerate(content) if byte or at % 83 == 0][::2]:
        found = await damage.after(path.name, flipped(content, at))
        costs.append(damage.check(found))
        assert found[-len(damage.second) :] == damage.second
    assert {0, 3, 12} <= set(costs) <= set(range(13))


async def test_a_flipped_byte_of_the_newest_file(damage: Damage) -> None:
    """The same in the file that nothing comes after: what is read is right, and the older file is untouched by it."""
    path = damage.files()[1]
    content = path.read_bytes()
    for at in range(3, len(content), 31):
        found = await damage.after(path.name, flipped(content, at))
        assert found[: len(damage.first)] == damage.first
        damage.check(found, found[-1].frame_no)


async def test_a_truncated_file(damage: Damage) -> None:
    """The older file cut anywhere: no crash, no altered frame, and what is missing is announced."""
    path = damage.files()[0]
    content = path.read_bytes()
    for at in range(0, len(content), 211):
        found = await damage.after(path.name, content[:at])
        damage.check(found)
        assert found[-len(damage.second) :] == damage.second


async def test_a_damaged_newest_file_is_announced(damage: Damage) -> None:
    """What stood in a newest file that cannot be opened is lost up to the first frame of the run that finds out."""
    older, newer = damage.files()
    newer.write_bytes(b"")
    async with running(damage.kept) as opened:
        more = await put(opened, 2)
        found = await read_all(opened, damage.before_no)
    assert [frame for frame in found if frame.kind != Kind.LOST] == damage.first + more
    assert announced(found, damage.before_no) == [(damage.first[-1].frame_no + 1, more[0].frame_no - 1)]
    assert sorted(path.suffix for path in damage.kept.iterdir()) == ["", "", ".damaged", ".db", ".db"]
    async with running(damage.kept) as opened:
        more += await put(opened, 1)
        assert await read_all(opened, more[0].frame_no) == more[1:]
    assert older.exists()


async def test_a_contradictory_end_is_announced(damage: Damage) -> None:
    """The same where the newest file opens, but its last group contradicts itself."""
    with closing(segments.connect(damage.files()[1])) as connection:
        connection.execute("UPDATE groups SET count = 99 WHERE first_no = ?", (damage.second[3].frame_no,))
    async with running(damage.kept) as opened:
        more = await put(opened, 2)
        found = await read_all(opened, damage.before_no)
    assert [frame for frame in found if frame.kind != Kind.LOST] == damage.first + damage.second[:3] + more
    assert announced(found, damage.before_no) == [(damage.second[3].frame_no, more[0].frame_no - 1)]


async def test_a_segment_without_frames_is_no_trouble(damage: Damage) -> None:
    """A daemon killed between making a file and writing to it leaves one that is empty: nothing was lost."""
    last_no = damage.second[-1].frame_no
    with Spool(damage.kept, FEEDS) as opened:
        empty = segments.create(damage.kept, opened.spool_id, opened.start_no, last_no, (DAEMON_FEED, *FEEDS))
    for clock_ns in (time.time_ns, lambda: time.time_ns() - YEAR_NS):
        with Spool(damage.kept, FEEDS, now_ns=clock_ns) as opened:
            assert (opened.durable_no, opened.start_no > empty.first_no) == (last_no, True)
            assert await read_all(opened, damage.before_no) == damage.first + damage.second
    async with running(damage.kept, now_ns=lambda: time.time_ns() - YEAR_NS) as opened:
        more = await put(opened, 2)
        assert await read_all(opened, damage.before_no) == damage.first + damage.second + more


async def test_a_segment_that_is_gone_is_announced(damage: Damage) -> None:
    """Frames of a file that somebody removed are lost, exactly, and those after it come; oldest or in between."""
    async with running(damage.kept) as opened:
        third = await put(opened, 2)
    _, middle, _ = damage.files()
    middle.unlink()
    with Spool(damage.kept, FEEDS) as opened:
        found = await read_all(opened, damage.before_no)
    assert [frame for frame in found if frame.kind != Kind.LOST] == damage.first + third
    assert announced(found, damage.before_no) == [(damage.first[-1].frame_no + 1, damage.second[-1].frame_no)]
    damage.files()[0].unlink()
    with Spool(damage.kept, FEEDS) as opened:
        assert opened.oldest_no == third[0].frame_no
        found = await read_all(opened, damage.before_no)
    assert found[1:] == third
    assert announced(found, damage.before_no) == [(damage.first[0].frame_no, damage.second[-1].frame_no)]


async def test_trouble_that_is_not_the_files(damage: Damage) -> None:
    """A segment that cannot be opened for a reason outside it is not moved aside; the start is refused instead."""
    kept = damage.files()[0]
    kept.rename(damage.kept / "elsewhere")
    kept.mkdir()
    with pytest.raises(SpoolError, match="cannot be opened"):
        Spool(damage.kept, FEEDS)
    kept.rmdir()
    (damage.kept / "elsewhere").rename(kept)
    with Spool(damage.kept, FEEDS) as opened:
        assert await read_all(opened, damage.before_no) == damage.first + damage.second


async def test_a_newer_format_is_refused(damage: Damage) -> None:
    """A spool that a later version wrote is refused as a whole, nothing is moved, and nothing was lost by trying."""
    path = damage.files()[1]
    kept = path.read_bytes()
    with closing(segments.connect(path)) as connection:
        meta: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta WHERE key != 'crc32'"))
        meta["format"] = 2
        meta["crc32"] = segments._meta_crc32(meta)
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
    before = {file.name: file.read_bytes() for file in damage.kept.iterdir()}
    for _ in range(2):
        with pytest.raises(SpoolError, match="newer than this program's"):
            Spool(damage.kept, FEEDS)
    assert {file.name: file.read_bytes() for file in damage.kept.iterdir()} == before
    path.write_bytes(kept)
    with Spool(damage.kept, FEEDS) as opened:
        assert await read_all(opened, damage.before_no) == damage.first + damage.second


async def test_other_files_are_left_alone(damage: Damage) -> None:
    """A file that is not named like a segment is nobody's damage."""
    (damage.kept / "notes.db").write_bytes(b"mine")
    with Spool(damage.kept, FEEDS) as opened:
        assert await read_all(opened, damage.before_no) == damage.first + damage.second
    assert (damage.kept / "notes.db").read_bytes() == b"mine"


# Limits.


def held(opened: Spool) -> list[int]:
    """Return the first numbers of the segments on disk."""
    return [int(path.stem) for path in sorted(opened._folder.glob(segments.PATTERN))]


async def test_committed_segments_are_kept_for_a_while(tmp_path: Path) -> None:
    """A file goes when all of it is committed and it was closed `retain_s` ago, and never the newest one."""
    now_s = 1_790_000_000.0
    clock: Callable[[], int] = lambda: int(now_s * 1e9)  # noqa: E731  # reads now_s anew each time
    async with running(tmp_path, max_bytes=SMALL, retain_s=100, now_ns=clock) as opened:
        written = await put(opened, 40, size=8000, groups=5)
        first, second, third = held(opened)
        opened.committed(written[-1].frame_no)
        assert held(opened) == [first, second, third]
        now_s += 101
        opened.committed(second - 2)
        assert held(opened) == [first, second, third]
        opened.committed(second - 1)
        assert (held(opened), opened.oldest_no) == ([second, third], second)
        opened.committed(written[-1].frame_no)
        assert held(opened) == [third]
        assert await read_all(opened, first - 1) == written
    with Spool(tmp_path, FEEDS) as opened:
        found = await read_all(opened, first - 1)
    assert announced(found, first - 1) == [(first, third - 1)]
    assert found[1:] == [frame for frame in written if frame.frame_no >= third]


async def test_at_the_limit_committed_segments_go_at_once(tmp_path: Path) -> None:
    """`max_bytes` comes before `retain_s`: what is committed makes room for what is not."""
    async with running(tmp_path, max_bytes=SMALL, retain_s=10**6) as opened:
        written = await put(opened, 30, size=8000, groups=8)
        opened.committed(written[-1].frame_no)
        assert len(held(opened)) == 3
        while not opened.at_limit:
            await put(opened, 30, size=8000)
        before = held(opened)
        assert (opened.full, opened.size_bytes <= SMALL) == (True, True)
        opened.committed(written[-1].frame_no)
        assert (opened.at_limit, opened.full) == (False, False)
        assert held(opened) in [before[at:] for at in range(1, len(before))]


async def test_a_full_spool_makes_the_sockets_wait(tmp_path: Path) -> None:
    """At `max_bytes` the spool is full and stays within it, marks still fit, and room comes with what is committed."""
    async with running(tmp_path, max_bytes=SMALL, retain_s=0) as opened:
        while not opened.at_limit:
            written = await put(opened, 30, size=8000)
        assert opened.full
        waiting = asyncio.create_task(opened.wait_room())
        mark = opened.append("coinbase", Kind.PAUSED, 1, b'{"cause":"spool_full"}')
        assert [frame.frame_no for frame in await opened.read(mark - 1, 1)] == [mark]
        assert not waiting.done()
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= SMALL
        opened.committed(written[-1].frame_no)
        await asyncio.wait_for(waiting, 5)
        assert not opened.full


@pytest.mark.parametrize(("count", "size"), [(8192, 0), (64, 2**16)], ids=["frames", "bytes"])
async def test_a_full_group_makes_the_sockets_wait(tmp_path: Path, count: int, size: int) -> None:
    """A group that holds all it may is `full` while the one before it is written, and not after."""
    with Spool(tmp_path, FEEDS, sync_interval_s=0) as opened:
        for _ in range(count - 1):
            number = opened.append("coinbase", Kind.DATA, 1, b"x" * size)
        assert not opened.full
        opened.append("coinbase", Kind.DATA, 1, b"x" * size)
        assert (opened.full, opened.at_limit) == (True, False)
        async with asyncio.TaskGroup() as group:
            group.create_task(opened.run())
            await asyncio.wait_for(opened.wait_room(), 10)
            assert len(await opened.read(number - 1, 10)) == 2
            await opened.close()


async def test_frames_after_a_number_are_counted(tmp_path: Path) -> None:
    """After any number, over several files and from the middle of one."""
    async with running(tmp_path, max_bytes=SMALL) as opened:
        written = await put(opened, 30, size=8000, groups=8)
        assert len(held(opened)) > 2
        assert await opened.count_after(written[0].frame_no - 1) == 240
        assert await opened.count_after(0) == 240
        assert await opened.count_after(written[100].frame_no) == 139
        assert await opened.count_after(written[-1].frame_no) == 0


async def test_memory_is_bounded_when_nobody_reads(tmp_path: Path) -> None:
    """However much was written, only the newest few MiB are held; the rest comes from the files, the same."""
    async with running(tmp_path) as opened:
        written = await put(opened, 20, size=2**16, groups=20)
        cached = sum(len(frame.data) for group, _ in opened._recent for frame in group)
        assert cached == opened._recent_bytes - 14 * sum(len(group) for group, _ in opened._recent)
        assert 2 * 2**20 < cached <= 4 * 2**20 < 25 * 2**20 <= sum(len(frame.data) for frame in written)
        assert await read_all(opened, written[0].frame_no - 1, step=1000) == written
        assert len(await opened.read(written[0].frame_no - 1, 10**6)) < 200


async def test_trouble_outside_the_file_is_no_damage(tmp_path: Path) -> None:
    """When a file cannot be opened for want of descriptors, reading fails and passes; nothing is announced as lost."""
    async with running(tmp_path) as opened:
        for _ in range(20):
            opened.append("coinbase", Kind.DATA, 1, b"{}")
    with Spool(tmp_path, FEEDS) as opened:
        await opened.read(0, 1)  # the reader's thread exists, and with it what a thread needs
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            with pytest.raises(OSError, match="cannot be read now"):
                await opened.read(0, 100)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

        assert [frame.kind for frame in await opened.read(opened.oldest_no - 1, 100)] == [Kind.DATA] * 20


async def test_renewed_spool_is_another(tmp_path: Path) -> None:
    """A spool that takes another name keeps its frames, and its next file says so."""
    async with running(tmp_path) as opened:
        former = opened.spool_id
        opened.append("coinbase", Kind.DATA, 1, b"{}")
    async with running(tmp_path) as opened:
        assert former == opened.spool_id
        opened.renew()
        opened.append("coinbase", Kind.DATA, 2, b"{}")
        frames = await opened.read(opened.oldest_no - 1, 2)
    with Spool(tmp_path, FEEDS) as again:
        assert again.spool_id == opened.spool_id != former

    assert [frame.recv_ns for frame in frames][:1] == [1]


async def test_numbers_follow_the_database(tmp_path: Path) -> None:
    """Before its first frame a spool can be told where to go on; after that its numbers stand."""
    with Spool(tmp_path, FEEDS) as opened:
        ahead = opened.start_no + 10**12
        opened.number_after(ahead)
        assert ahead + 1 == opened.append("coinbase", Kind.DATA, 1, b"{}") == opened.start_no
        opened.number_after(ahead + 10**12)
        assert ahead + 2 == opened.append("coinbase", Kind.DATA, 1, b"{}")


def test_folders_are_private(tmp_path: Path) -> None:
    """The spool, and the state folder that it makes on the way, are this account's alone."""
    with Spool(tmp_path / "state" / "spool", FEEDS):
        for folder in (tmp_path / "state", tmp_path / "state" / "spool"):
            assert folder.stat().st_mode & 0o077 == 0


async def test_a_spool_without_a_frame_keeps_its_name(tmp_path: Path) -> None:
    """Killed before anything was durable, it is the same spool at the next start, and nothing of it is lost."""
    with Spool(tmp_path / "spool", FEEDS) as opened:
        spool_id, before = opened.spool_id, opened.durable_no
    with Spool(tmp_path / "spool", FEEDS) as again:
        assert (again.spool_id, again.durable_no, again.found_no) == (spool_id, before, before)
        assert again.start_no > before
        async with asyncio.TaskGroup() as group:
            running = group.create_task(again.run())
            again.append("coinbase", Kind.DATA, 1, b"{}")
            (frame,) = await again.read(before, 10)
            await again.close()
            await running
        assert (frame.kind, frame.frame_no) == (Kind.DATA, again.start_no)
    with Spool(tmp_path / "spool", FEEDS) as third:
        assert [each.kind for each in await third.read(before, 10)] == [Kind.DATA]


@pytest.mark.parametrize("text", ["", "x", "not-a-uuid 5", "\xff"])
def test_a_damaged_name_is_replaced(tmp_path: Path, text: str) -> None:
    """A name that cannot be read is a new name, and a start all the same."""
    (tmp_path / "spool").mkdir(mode=0o700)
    (tmp_path / "spool" / "NAME").write_text(text, encoding="latin-1")
    with Spool(tmp_path / "spool", FEEDS) as opened:
        spool_id = opened.spool_id
    with Spool(tmp_path / "spool", FEEDS) as again:
        assert again.spool_id == spool_id
