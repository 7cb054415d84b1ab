"""A private copy of a SQLite file and its logs, as they were at one moment."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from tempfile import mkdtemp
from typing import NamedTuple

from recio_ingest.errors import BadInputError, ConfigError, TryLaterError

# The predecessor's programs hold their locks for milliseconds.
BUSY_S = 3.0
# A reader's lock keeps writers of a file without a write-ahead log waiting: the copy is all that happens under it.
_CHUNK_BYTES = 4 << 20
_LOGS = ("-wal", "-journal")
_MAGIC = b"SQLite format 3\x00"
# The end of a journal that names another file, which SQLite deletes when it rolls the journal back.
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Snapshot(NamedTuple):
    """The copy. `sha256` is of the file's bytes and, if it had one, its log's; `size_bytes` is of both."""

    name: str
    path: Path
    sha256: str
    size_bytes: int


@contextmanager
def taken(source: Path, folder: Path) -> Iterator[Snapshot]:
    """Copy the file into a new folder under `folder`, lend it, and remove it; what killed runs left goes first.

    Raises TryLaterError for a file that is locked, changes under the copy, or has no room; BadInputError for anything
    that is no SQLite file or cannot be read; ConfigError where nothing can be written under `folder`.
    """
    private, lock = _private(folder)
    try:
        yield _copy(source, private / "copy.db")
    finally:
        shutil.rmtree(private, ignore_errors=True)
        os.close(lock)


def _private(folder: Path) -> tuple[Path, int]:
    """Make a new folder; return it and the file descriptor that says that a living process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(folder)
        private = Path(mkdtemp(dir=folder))
        lock = os.open(private, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as exc:
        if exc.errno in _FULL:
            raise _no_room(folder, exc) from exc
        raise ConfigError(
            f"nothing can be written in {folder}: {exc.strerror}", hint="state_dir says where the copy goes"
        ) from exc
    return private, lock


def _no_room(folder: Path, exc: OSError) -> TryLaterError:
    return TryLaterError(f"no room for a copy in {folder}: {exc.strerror}", hint="state_dir says where the copy goes")


def _sweep(folder: Path) -> None:
    """Remove the folders that no living process holds."""
    for left in folder.iterdir():
        with suppress(OSError):
            held = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(held)


def _copy(source: Path, target: Path) -> Snapshot:
    try:
        if not S_ISREG(source.stat().st_mode):
            raise BadInputError(f"{source} is not a file")
        needed = sum(path.stat().st_size for path in _parts(source))
        free = shutil.disk_usage(target.parent).free
        if needed + (64 << 20) > free:
            raise TryLaterError(
                f"{source.name} needs {needed >> 20} MiB for a copy, and {target.parent.parent} has {free >> 20} MiB",
                hint="state_dir says where the copy goes",
            )
        with source.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise BadInputError(f"{source.name} is no SQLite file")
        with _held(source) as held:
            before = _state(source)
            digest, size = _copy_parts(source, target, held=held)
            if not held and _state(source) != before:
                raise TryLaterError(f"{source.name} changed while it was copied", hint="try again")
    except OSError as exc:
        # Only the copy is written.
        if exc.errno in _FULL:
            raise _no_room(target.parent.parent, exc) from exc
        raise BadInputError(f"{source} cannot be read: {exc.strerror}") from exc
    return Snapshot(source.name, target, digest, size)


@contextmanager
def _held(source: Path) -> Iterator[bool]:
    """Hold SQLite's shared lock: in the file itself nothing is overwritten then that the log does not have too.

    Where a reader cannot have it (a read-only folder, a journal that a crash left), the answer is False, and whether
    anybody wrote meanwhile has to be seen from the files.
    """
    with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        try:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as exc:
            if exc.sqlite_errorcode & 0xFF in _BUSY:
                raise TryLaterError(f"{source.name} is locked: {exc}", hint="another program writes to it") from exc
            if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
                raise BadInputError(f"{source.name} is corrupt: {exc}") from exc
            held = False
        else:
            held = True
        yield held


def _parts(source: Path) -> list[Path]:
    """Return the file and those of its logs that hold something; the file first: what leaves the log is in it later."""
    logs = (source.with_name(source.name + suffix) for suffix in _LOGS)
    return [source, *(path for path in logs if path.is_file() and path.stat().st_size)]


def _state(source: Path) -> list[tuple[str, int, int]]:
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _parts(source)]


def _copy_parts(source: Path, target: Path, *, held: bool) -> tuple[str, int]:
    """Copy all parts; under the lock no journal: if there is one, its transaction has changed nothing yet.

    Raises BadInputError for a journal that names another file: rolling it back would delete that one, whichever it is.
    """
    digest, size = sha256(), 0
    for path in _parts(source):
        suffix = path.name[len(source.name) :]
        if held and suffix == "-journal":
            continue
        end = b""
        with path.open("rb") as reader, target.with_name(target.name + suffix).open("xb") as out:
            while data := reader.read(_CHUNK_BYTES):
                digest.update(data)
                out.write(data)
                size += len(data)
                end = (end + data)[-len(_JOURNAL_MAGIC) :]
        if suffix == "-journal" and end == _JOURNAL_MAGIC:
            raise BadInputError(
                f"{path.name} belongs to a transaction over several files",
                hint="open the file once with the program that wrote it",
            )
    return digest.hexdigest(), size
