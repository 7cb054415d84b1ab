"""A SQLite file as it was at one moment: copied, checked, and read in blocks. It is treated as hostile.

The file is read once, byte for byte with its write-ahead log, under a shared lock, into a private folder; its SHA-256
is the file's identity. All else happens on the copy: the predecessor's programs can go on writing, nothing is made or
changed beside their file, and both the load and its verification read the same state.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from recio_ingest.backfill import local_time, tables
from recio_ingest.backfill.local_time import Tick
from recio_ingest.backfill.snapshot import Snapshot
from recio_ingest.backfill.tables import TABLES, BadText, Table
from recio_ingest.errors import BadInputError

# No row of the predecessor has a hundredth of it; with it a block has an end, whatever somebody put into the file.
MAX_ROW_BYTES = 1 << 20
BLOCK_ROWS = 250
# A block of rows with larger values is read row by row, and ends early: 250 rows of 1 MiB would be in memory else.
SMALL_BYTES, BLOCK_BYTES = 4 << 10, 1 << 20
# The most rows of one doubled hour that are held in memory: it has 3600 seconds.
MAX_DOUBLED = 50_000
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_ROW_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_ALLOWED = frozenset({
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_FUNCTION,
})  # fmt: skip
_PRAGMAS = frozenset({
    "table_xinfo", "table_list", "index_list", "index_xinfo", "integrity_check", "trusted_schema", "cell_size_check",
    "query_only",
})  # fmt: skip
# SQLite checks hundreds of MB a second. Asked each 100 steps: one step of a hostile schema can take half a minute.
CHECK_S, CHECK_S_PER_MB, _ASKED_STEPS = 60.0, 1.0, 100
# What stands for the number of the column in an index on an expression.
_EXPRESSION = -2
_TOO_BIG = "string or blob too big"
# Complaints about values, which is the conversion's business; every other complaint is about the file.
_ABOUT_VALUES = ("NULL value in ", "CHECK constraint failed in ", "TEXT value in ", "NUMERIC value in ")


class Found(NamedTuple):
    """A table that is loaded: `names` and `declared` are of the source's columns as the rows have them.

    `unknown` columns go nowhere. `folds` says of the rows of an hour that came twice which one they are in, by rowid.
    """

    table: Table
    names: tuple[str, ...]
    declared: tuple[str, ...]
    unknown: tuple[str, ...]
    rows: int
    folds: Mapping[int, int]


class Source:
    """The copy of one file, opened read-only. Used by one thread at a time."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._connection = _open(snapshot.path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def check(self) -> None:
        """Have SQLite check every page and index.

        Raises BadInputError for a structurally corrupt file, and for one whose schema has expressions to be computed.
        """
        with self._named(), self._in_time():
            self._refuse_computed()
            for (complaint,) in self._connection.execute(f"PRAGMA integrity_check({2**31 - 1})"):
                if complaint != "ok" and not complaint.startswith(_ABOUT_VALUES):
                    raise BadInputError(
                        f"{self.snapshot.name} is corrupt: {complaint[:200]}",
                        hint="sqlite3's .recover makes a new file of what can still be read",
                    )

    def _refuse_computed(self) -> None:
        """Refuse expressions that the check would compute for every row; a read-only one computes no constraints."""
        for schema, table, kind, *_ in self._connection.execute("PRAGMA table_list").fetchall():
            if schema != "main" or kind not in {"table", "shadow"}:
                continue
            hidden = [column[1] for column in self._pragma("table_xinfo", table) if column[6]]
            odd = [f"the generated or hidden column {name}" for name in hidden]
            for _, index, _, _, partial in self._pragma("index_list", table):
                if partial:
                    odd.append(f"the partial index {index}")
                if any(column[1] == _EXPRESSION for column in self._pragma("index_xinfo", index)):
                    odd.append(f"the index {index} on an expression")
            if odd:
                raise BadInputError(
                    f"{self.snapshot.name}: {table[:60]} has {odd[0][:100]}",
                    hint="copy its rows into an ordinary table of this name, in a new file",
                )

    def _pragma(self, pragma: str, name: str) -> list[tuple[Any, ...]]:
        quoted = name.replace('"', '""')
        return self._connection.execute(f'PRAGMA {pragma}("{quoted}")').fetchall()

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """End what takes longer than a file of this size can."""
        allowed_s = CHECK_S + CHECK_S_PER_MB * self.snapshot.size_bytes / 1e6
        end_s = time.monotonic() + allowed_s
        self._connection.set_progress_handler(lambda: time.monotonic() > end_s, _ASKED_STEPS)
        try:
            yield
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            raise BadInputError(
                f"{self.snapshot.name}: SQLite's check of it takes longer than {allowed_s:.0f} s",
                hint="copy its rows into ordinary tables, in a new file",
            ) from exc
        finally:
            self._connection.set_progress_handler(None, 0)

    def find(self) -> list[Found]:
        """Return the predecessor's tables in this file. Raises BadInputError where there is none, or one is odd."""
        with self._named():
            kinds = {
                _folded(name): (name, kind, bool(without_rowid))
                for schema, name, kind, _, without_rowid, _ in self._connection.execute("PRAGMA table_list")
                if schema == "main"
            }
            triggers = {
                _folded(of): name
                for name, of in self._connection.execute(
                    "SELECT name, tbl_name FROM sqlite_schema WHERE type='trigger'"
                )
            }
            found = [self._look(name, *kinds[name], triggers.get(name)) for name in TABLES if name in kinds]
        if not found:
            raise BadInputError(
                f"{self.snapshot.name} holds none of the predecessor's tables",
                hint=f"looked for: {', '.join(TABLES)}",
            )
        return found

    def blocks(self, found: Found, after_rowid: int | None = None) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows `(rowid, *values)` in the order of their rowids, in blocks; text that is no UTF-8 as BadText.

        A block of fewer than BLOCK_ROWS is the last one, or has BLOCK_BYTES. Raises BadInputError at a row larger than
        MAX_ROW_BYTES.
        """
        cursor = None
        with self._named(found.table.name):
            while True:
                try:
                    with self._values_up_to(SMALL_BYTES):
                        cursor = cursor or self._rows_behind(found, after_rowid)
                        rows = cursor.fetchmany(BLOCK_ROWS)
                except sqlite3.Error as exc:
                    if "UTF-8" not in str(exc) and _TOO_BIG not in str(exc):
                        raise
                    cursor, rows = None, self._carefully(found, after_rowid)
                if not rows:
                    return
                after_rowid = rows[-1][0]
                yield rows

    def _rows_behind(self, found: Found, after_rowid: int | None) -> sqlite3.Cursor:
        # With the table before it: a quoted name alone is a text to SQLite where there is no such column.
        columns = ", ".join(f't."{name}"' for name in found.names)
        query = f'SELECT rowid, {columns} FROM "{found.table.name}" AS t'  # noqa: S608  # names of our own page
        if after_rowid is not None:
            query += f" WHERE rowid > {after_rowid:d}"
        return self._connection.execute(query + " ORDER BY rowid")

    def _carefully(self, found: Found, after_rowid: int | None) -> list[tuple[Any, ...]]:
        """Return one block row by row, decoded text by text, whatever the size of its values."""
        rows: list[tuple[Any, ...]] = []
        block_bytes = 0
        self._connection.text_factory = _decode
        try:
            for row in self._rows_behind(found, after_rowid):
                size_bytes = row_bytes(row)
                if size_bytes > MAX_ROW_BYTES:
                    raise sqlite3.DataError(_TOO_BIG)
                rows.append(row)
                block_bytes += size_bytes
                if len(rows) >= BLOCK_ROWS or block_bytes >= BLOCK_BYTES:
                    break
        finally:
            self._connection.text_factory = str
        return rows

    @contextmanager
    def _values_up_to(self, size_bytes: int) -> Iterator[None]:
        """Have SQLite refuse larger values, at no cost for the others."""
        usual = self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size_bytes)
        try:
            yield
        finally:
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)

    def _look(self, name: str, spelled: str, kind: str, without_rowid: bool, trigger: str | None) -> Found:  # noqa: FBT001
        odd = self._odd(name, spelled, kind, without_rowid=without_rowid, trigger=trigger)
        columns = [] if odd else self._pragma("table_xinfo", spelled)
        declared = {_folded(column[1]): column[2] for column in columns}
        if not odd and {"rowid", "_rowid_", "oid"} & declared.keys():
            odd = "has a column that is named as the rowid is"
        if odd:
            raise BadInputError(
                f"{self.snapshot.name}: {name} {odd}",
                hint="copy its rows into an ordinary table of this name, in a new file",
            )
        table = tables.shape(name, declared.keys())
        if missing := tables.missing(name, table):
            raise BadInputError(
                f"{self.snapshot.name}: {name} has no column {', '.join(missing)}, and no row can do without"
            )
        everything = [*table.columns, *(table.companion.columns if table.companion else ())]
        names = tuple(dict.fromkeys(column.source_name for column in everything))
        (rows,) = self._connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608  # our own name
        unknown = tuple(tables.unknown(table, list(declared)))
        return Found(table, names, tuple(declared[each] for each in names), unknown, rows, self._folds(table))

    @staticmethod
    def _odd(name: str, spelled: str, kind: str, *, without_rowid: bool, trigger: str | None) -> str:
        if kind != "table":
            return f"is a {kind} and not a table"
        if without_rowid:
            return "is a table without rowids"
        if trigger is not None:
            return f"has the trigger {trigger[:60]}"
        return "" if _folded(spelled) == name else "is not spelled so"

    def _folds(self, table: Table) -> Mapping[int, int]:
        """Find, once, which of two hours the rows are in whose hour came twice."""
        stamp = next((column for column in table.columns if column.name == "timestamp"), None)
        if table.name != "price_log" or stamp is None:
            return {}
        first, last = self._connection.execute(
            "SELECT min(timestamp), max(timestamp) FROM price_log WHERE timestamp BETWEEN '1970' AND '2101'"
        ).fetchone()
        days = [_day(text) for text in (first, last)]
        if days[0] is None or days[1] is None:
            return {}
        folds: dict[int, int] = {}
        for hour in local_time.doubled_hours(days[0], days[1], stamp.zone):
            folds |= self._folds_of(hour)
        return folds

    def _folds_of(self, hour: datetime) -> Mapping[int, int]:
        query = "SELECT rowid, timestamp FROM price_log WHERE timestamp >= ? AND timestamp < ? ORDER BY rowid LIMIT ?"
        day = hour.date().isoformat()
        ticks: list[Tick] = []
        for separator in "T ":
            begin = f"{day}{separator}{hour:%H}:"
            found = self._connection.execute(query, (begin, f"{day}{separator}{hour:%H};", MAX_DOUBLED + 1))
            ticks += [tick for row in found if (tick := _tick(row)) is not None]
        if not ticks or len(ticks) > MAX_DOUBLED:
            return {}
        ticks.sort()
        before = self._neighbour("<", ticks[0].rowid, "DESC")
        after = self._neighbour(">", ticks[-1].rowid, "ASC")
        return local_time.decide(ticks, before, after, hour)

    def _neighbour(self, side: str, rowid: int, order: str) -> Tick | None:
        query = f"SELECT rowid, timestamp FROM price_log WHERE rowid {side} ? ORDER BY rowid {order} LIMIT 1"  # noqa: S608
        row = self._connection.execute(query, (rowid,)).fetchone()
        return _tick(row) if row else None

    @contextmanager
    def _named(self, table: str = "") -> Iterator[None]:
        """Name the file in what SQLite says."""
        try:
            yield
        except sqlite3.Error as exc:
            where = f"{self.snapshot.name}{f', {table}' if table else ''}"
            if _TOO_BIG in str(exc):
                raise BadInputError(
                    f"{where}: a row is larger than {MAX_ROW_BYTES >> 10} KiB", hint="none of the predecessor's is"
                ) from exc
            raise BadInputError(f"{where} cannot be read: {exc}") from exc


def _folded(name: str) -> str:
    """Return a name as SQLite compares it: of ASCII only, where Python makes a k of the Kelvin sign too."""
    return name.lower() if name.isascii() else name


def row_bytes(row: Sequence[Any]) -> int:
    """Return how long the texts and blobs of a row are; what else it has is small."""
    return sum(len(value) for value in row if isinstance(value, str | bytes))


def _open(path: Path) -> sqlite3.Connection:
    # The copy is ours: opened for writing, a rollback journal that a crash left behind is rolled back.
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as recovering:
        recovering.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    try:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as exc:
        raise BadInputError(f"{path.name} cannot be opened: {exc}") from exc
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(_authorize)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _authorize(action: int, first: str | None, *_: str | None) -> int:
    """Allow reading and a few questions; what a schema might bring along stays outside."""
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first in _PRAGMAS else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _decode(data: bytes) -> str | BadText:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return BadText(data)


def _day(text: object) -> date | None:
    try:
        return date.fromisoformat(str(text)[:10])
    except ValueError:
        return None


def _tick(row: Sequence[Any]) -> Tick | None:
    try:
        return Tick(row[0], datetime.fromisoformat(row[1]))
    except (TypeError, ValueError):
        return None
