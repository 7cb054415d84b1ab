"""The spool's folder: one daemon at a time, and the segments that are in it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import structlog

from recio_ingest import segments
from recio_ingest.errors import SpoolError, SpoolLockedError
from recio_ingest.segments import Segment

log = structlog.get_logger()


def lock(folder: Path) -> int:
    """Make and lock the folder; return the lock's descriptor. Raises SpoolError, SpoolLockedError."""
    try:
        # The mode is only the last folder's, and the state folder holds more than the spool: PostgreSQL's log, for one.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SpoolError(
            f"the spool folder {folder} cannot be used: {exc.strerror}",
            hint="give the daemon's account a state_dir that it owns",
        ) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise SpoolLockedError(
            f"another recio-ingest has the spool {folder} open",
            hint="stop the other one, or give this one a state_dir of its own",
        ) from exc
    return descriptor


def name(folder: Path, first_no: int) -> tuple[str, int]:
    """Return the name of a spool without a segment, and the first number that it may ever have given out.

    The name is on disk before the database hears of it: a daemon that is killed before its first frame is durable is
    the same daemon when it starts again, and not another one that must wait.
    """
    path = folder / "NAME"
    with suppress(OSError, ValueError):
        spool_id, written_no = path.read_text(encoding="ascii").split()
        return str(uuid.UUID(spool_id)), int(written_no)
    spool_id = str(uuid.uuid4())
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as file:
        file.write(f"{spool_id} {first_no}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return spool_id, first_no


def scan(folder: Path) -> Iterator[Segment]:
    """Yield the segments that can be opened, oldest first; move damaged ones aside, never delete them.

    Raises SpoolError where the trouble is not in the file: it may well be whole.
    """
    for path in sorted(folder.glob(segments.PATTERN)):
        try:
            yield segments.describe(path)
        except (sqlite3.Error, KeyError, ValueError, TypeError) as exc:
            if isinstance(exc, sqlite3.Error) and segments.is_passing(exc):
                raise SpoolError(
                    f"the spool segment {path.name} cannot be opened: {exc}",
                    hint="let the daemon's account, and nobody else, own the files of the spool",
                ) from exc
            aside = segments.move_aside(path)
            log.error("spool.segment_damaged", segment=path.name, moved_to=aside.name, error=str(exc))


def moved_after(folder: Path, newest: Segment) -> bool:
    """Tell whether a segment that was moved aside, now or at an earlier start, came after the newest one left."""
    return any(path.stem > newest.path.stem for path in folder.glob(f"*{segments.ASIDE}"))
