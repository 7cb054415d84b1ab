"""The durable local record of frames, between the sockets and the database.

`append` gathers, `run` makes groups durable one after another off the event loop, `read` gives durable frames back:
from memory while the shipper keeps up, from the files when it does not. Memory stays flat either way.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

import orjson
import structlog

from recio_ingest import metrics, segments, spool_folder
from recio_ingest.errors import SpoolError
from recio_ingest.records import DAEMON_FEED, Frame, Kind, make
from recio_ingest.segments import HEAD, Damaged, Group, Segment

log = structlog.get_logger()

# One group is one SQLite row and one fsync. 4 MiB bounds what a crash can cost and what one commit can take; past
# either limit `full` is set and the sockets wait.
GROUP_FRAMES = 8192
GROUP_BYTES = 4 * 2**20
# Durable frames kept in memory for a shipper that keeps up; past this it reads the files.
RECENT_BYTES = 4 * 2**20
READ_BYTES = 4 * 2**20
# Trimming is deleting a file: small enough to trim in steps, large enough that a day is not ten thousand files.
SEGMENT_BYTES = 64 * 2**20
SEGMENT_AGE_S = 600.0
RETRY_S = 1.0
# A commit costs the same for one frame as for fifty, and one of the database follows each. A feed so quiet that a
# group holds no more than this waits a little longer for the next: 100 frames/s then take a third less CPU, and still
# go from socket to committed in under 50 ms.
QUIET_FRAMES = 8
QUIET_STRETCH = 1.75
# What control marks may still take when `max_bytes` is reached, so that the pause itself is on record.
RESERVE_BYTES = 2 * 2**20


class Spool:
    """The spool of one installation, open and locked. Construction reads the folder; `run` must run."""

    def __init__(
        self,
        folder: Path,
        feeds: Sequence[str],
        *,
        retain_s: float = 3600,
        max_bytes: int = 2**33,
        sync_interval_s: float = 0.02,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._folder = folder
        self._feeds = (DAEMON_FEED, *feeds)
        self._codes = {name: code for code, name in enumerate(self._feeds)}
        self._retain_s = retain_s
        self._max_bytes = max_bytes
        self._sync_interval_s = sync_interval_s
        self._now_ns = now_ns
        self._lock = spool_folder.lock(folder)
        try:
            self._segments = list(spool_folder.scan(folder))
        except BaseException:
            os.close(self._lock)
            raise
        newest = self._segments[-1] if self._segments else None
        # The clock in microseconds: past every number that an earlier run, or a lost spool, gave out.
        self._next_no = max(now_ns() // 1000, max(newest.first_no, newest.last_no) + 1 if newest else 0)
        self.start_no = self._next_no
        if newest is None:
            self.spool_id, first_no = spool_folder.name(folder, self.start_no)
            self.found_no = min(first_no, self.start_no) - 1
        else:
            self.spool_id, self.found_no = newest.spool_id, newest.last_no
        self.durable_no = self.found_no
        self.durable_count = 0
        self.durable_at_s = 0.0
        self.failing = ""
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // 8)
        self._connection: sqlite3.Connection | None = None
        self._opened_at_s = 0.0
        self._writer = ThreadPoolExecutor(1, "spool-writer")
        self._reader = ThreadPoolExecutor(1, "spool-reader")
        self._frames: list[Frame] = []
        self._gathered_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._durable = asyncio.Event()
        self._closing = False
        self._renewed = False
        self._recent: deque[tuple[list[Frame], int]] = deque()
        self._recent_bytes = 0
        # Where the newest frames of the run before are damaged, nothing says how many there were: all numbers up to
        # the first of this run are then lost.
        self._end_lost = newest is not None and (newest.suspect or spool_folder.moved_after(folder, newest))
        self._recent_floor = self.start_no - 1 if self._end_lost else self.durable_no

    @property
    def oldest_no(self) -> int:
        """The first frame number that is, or will be, on record."""
        return self._segments[0].first_no if self._segments else self.start_no

    @property
    def size_bytes(self) -> int:
        """What the spool takes on disk (the open segment: what was written to it)."""
        return sum(segment.size_bytes for segment in self._segments)

    @property
    def full(self) -> bool:
        """Whether the sockets must wait."""
        return not self._room.is_set()

    @property
    def at_limit(self) -> bool:
        """Whether `max_bytes` is reached (and not merely the gathering group full)."""
        return self.size_bytes >= self._max_bytes - RESERVE_BYTES

    def append(self, feed: str, kind: int, recv_ns: int, data: bytes) -> int:
        """Gather a frame; return its number. It is not accepted before it is durable."""
        frame_no = self._next_no
        self._next_no = frame_no + 1
        self._frames.append(make(Frame, (frame_no, recv_ns, feed, kind, data)))
        self._gathered_bytes += len(data) + HEAD.size
        if self._gathered_bytes >= GROUP_BYTES or len(self._frames) >= GROUP_FRAMES:
            self._room.clear()
        self._arrived.set()
        return frame_no

    def renew(self) -> None:
        """Become another spool: what the database knows under the old name is not the history of these files."""
        self.spool_id = str(uuid.uuid4())
        self._renewed = True

    def number_after(self, frame_no: int) -> None:
        """Begin after this number, where nothing was gathered yet: a clock set back must not repeat numbers."""
        if self._next_no == self.start_no:
            self._next_no = self.start_no = max(self.start_no, frame_no + 1)

    async def wait_room(self) -> None:
        """Return when frames may be gathered again."""
        await self._room.wait()

    async def run(self) -> None:
        """Make gathered frames durable, group after group, until `close`."""
        loop = asyncio.get_running_loop()
        while not (self._closing and not self._frames):
            await self._arrived.wait()
            self._arrived.clear()
            if not self._frames:
                continue
            started_s = loop.time()
            frame_count = await self._commit()
            stretch = QUIET_STRETCH if frame_count <= QUIET_FRAMES else 1.0
            if not self._closing:
                await asyncio.sleep(self._sync_interval_s * stretch - (loop.time() - started_s))

    async def close(self) -> None:
        """Let `run` end after the frames gathered so far."""
        self._closing = True
        self._arrived.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(wait=True)
        self._reader.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()
        os.close(self._lock)

    async def read(self, after_no: int, max_frames: int) -> list[Frame]:
        """Return the next durable frames after a number, waiting for at least one.

        Where frames are missing, the list begins with a LOST frame that carries the number of the last one missing.
        """
        while self.durable_no <= after_no:
            self._durable.clear()
            await self._durable.wait()
        if after_no >= self._recent_floor:
            return self._read_recent(after_no, max_frames)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._read_files, after_no, max_frames)

    async def count_after(self, after_no: int) -> int:
        """Return how many frames, durable at the moment of the call, come after a number."""
        loop = asyncio.get_running_loop()
        upto_no = max(after_no, self.durable_no)
        return await loop.run_in_executor(self._reader, self._count_between, after_no, upto_no, list(self._segments))

    def committed(self, frame_no: int) -> None:
        """Note that everything up to this frame is in the database, and trim what need not be kept."""
        oldest_s = self._now_ns() / 1e9 - self._retain_s
        while len(self._segments) > 1 and (first := self._segments[0]).last_no <= frame_no:
            if first.closed_at_s > oldest_s and not self.at_limit:
                break
            segments.remove(first)
            del self._segments[0]
            log.info("spool.segment_trimmed", last_no=first.last_no)
        if not self._room.is_set():
            self._update_room()

    def _read_recent(self, after_no: int, max_frames: int) -> list[Frame]:
        while self._recent and self._recent[0][0][-1].frame_no <= after_no:
            self._drop_recent()
        frames: list[Frame] = []
        for group, _ in self._recent:
            start = max(0, after_no + 1 - group[0].frame_no)
            frames += group[start : start + max_frames - len(frames)]
            if len(frames) >= max_frames:
                break
        return frames

    def _drop_recent(self) -> None:
        group, size = self._recent.popleft()
        self._recent_floor = group[-1].frame_no
        self._recent_bytes -= size

    def _read_files(self, after_no: int, max_frames: int) -> list[Frame]:
        held = list(self._segments)
        for at, segment in enumerate(held):
            if segment.previous_last_no > after_no and segment.first_no > after_no:
                return [self._lost(held, after_no, segment.previous_last_no, "spool_lost")]
            if segment.last_no <= after_no:
                continue
            try:
                frames = segments.read(segment, after_no, max_frames, READ_BYTES)
            except Damaged as exc:
                last_no = max(exc.last_no, after_no + 1)
                log.error("spool.damaged", segment=segment.path.name, last_no=last_no, why=str(exc))
                return [self._lost(held, after_no, last_no, "spool_damaged")]
            if frames:
                return frames
            if at + 1 == len(held):
                break
        raise SpoolError(f"no frame after {after_no} although {self.durable_no} is durable")

    def _lost(self, held: list[Segment], after_no: int, last_no: int, cause: str) -> Frame:
        """Make the mark of what is missing; its time is that of the first frame after, so the files alone decide it."""
        recv_ns = self._now_ns()
        for segment in held:
            if segment.last_no > last_no:
                with suppress(Damaged):
                    frames = segments.read(segment, last_no, 1, 1)
                    if frames:  # a file may have none
                        recv_ns = frames[0].recv_ns
                        break
        data = orjson.dumps({"from_no": after_no + 1, "to_no": last_no, "cause": cause})
        return Frame(last_no, recv_ns, DAEMON_FEED, Kind.LOST, data)

    def _count_between(self, after_no: int, upto_no: int, held: list[Segment]) -> int:
        after, past = (
            sum(segments.count_after(segment, number) for segment in held if segment.last_no > number)
            for number in (after_no, upto_no)
        )
        return after - past

    async def _commit(self) -> int:
        """Write the gathered frames as one group, return how many; on failure keep them and try again, for ever."""
        frames, self._frames, self._gathered_bytes = self._frames, [], 0
        self._update_room()
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            try:
                size = await loop.run_in_executor(self._writer, self._write, frames)
                break
            except (sqlite3.Error, OSError) as exc:
                if str(exc) != self.failing:
                    log.error("spool.write_failed", error=str(exc), hint="free space or check the disk; frames wait")
                self.failing = str(exc)
                metrics.SPOOL_ERRORS.inc()
                await asyncio.sleep(RETRY_S)
        if self.failing:
            self.failing = ""
            log.info("spool.write_recovered")
        metrics.SPOOL_COMMIT.observe(loop.time() - started_s)
        self._remember(frames, size)
        return len(frames)

    def _remember(self, frames: list[Frame], size: int) -> None:
        self.durable_no = frames[-1].frame_no
        self.durable_count += len(frames)
        self.durable_at_s = time.monotonic()
        self._recent.append((frames, size))
        self._recent_bytes += size
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            self._drop_recent()
        self._update_room()
        self._durable.set()

    def _update_room(self) -> None:
        if self._gathered_bytes < GROUP_BYTES and len(self._frames) < GROUP_FRAMES and not self.at_limit:
            self._room.set()
        else:
            self._room.clear()

    def _write(self, frames: list[Frame]) -> int:
        """Runs in the writer's thread: one row, one fsync; a new file when the old one is large or old enough."""
        packed = segments.pack(frames, self._codes)
        group = Group(frames[0].frame_no, frames[-1].frame_no, len(frames), packed)
        now_s = time.monotonic()
        if self._connection is not None and (
            self._renewed
            or self._segments[-1].size_bytes >= self._segment_bytes
            or now_s - self._opened_at_s >= SEGMENT_AGE_S
        ):
            self._close_segment()
        if self._connection is None:
            known = self._segments and not (self._end_lost and group.first_no == self.start_no)
            previous = self._segments[-1].last_no if known else group.first_no - 1
            if not self._segments:
                previous = self.found_no
            segment = segments.create(self._folder, self.spool_id, group.first_no, previous, self._feeds)
            self._connection = segments.connect(segment.path)
            self._segments.append(segment)
            self._opened_at_s, self._renewed = now_s, False
        try:
            segments.insert(self._connection, group)
        except sqlite3.IntegrityError:
            # An attempt that failed as far as SQLite could tell had reached the file: it is durable after all.
            log.warning("spool.group_was_durable", first_no=group.first_no)
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                # After a failed fsync nothing that this handle says can be trusted: begin another file.
                self._abandon_segment()
            raise
        self._segments[-1].last_no = group.last_no
        self._segments[-1].closed_at_s = self._now_ns() / 1e9
        self._segments[-1].size_bytes += len(packed)
        return len(packed)

    def _close_segment(self) -> None:
        assert self._connection is not None
        connection, self._connection = self._connection, None
        connection.close()
        self._segments[-1].size_bytes = segments.size_bytes(self._segments[-1].path)

    def _abandon_segment(self) -> None:
        segment = self._segments[-1]
        try:
            self._close_segment()
        except sqlite3.Error as exc:
            log.warning("spool.close_failed", error=str(exc))
        if segment.last_no < segment.first_no:
            # Nothing in it was ever confirmed; the group is written again under the same name.
            self._segments.pop()
            segments.remove(segment)
