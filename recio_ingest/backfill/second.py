"""The second, independent read of a file: which rows have to be in the database, and with what fields."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from recio_ingest.backfill.fingerprint import Expected, Fingerprints, key_places, keys, row_texts
from recio_ingest.backfill.report import NAMED, Difference
from recio_ingest.backfill.tables import Table

# What only the database can tell: nothing in the row alone shows it.
SERVER_REASONS = frozenset({"refused", "duplicate_key", "no_such_trade"})
DUPLICATE = "duplicate_key"
# So many of them are looked up; a file has a handful.
LOOKED_UP = 10_000


class Block(NamedTuple):
    """Rows of the file in the order of their rowids, column by column (by the file's names).

    `folds`: which of two instants a New York time that comes twice means (0 or 1), None where nobody knows.
    """

    rowids: Sequence[int]
    values: Mapping[str, Sequence[Any]]
    folds: Sequence[int | None]


class Quarantine:
    """The rowids in the quarantine with their reasons, in nine bytes each."""

    def __init__(self, records: Iterable[tuple[int, str]]) -> None:
        """Take the records in the order of their rowids."""
        self._rowids = array("q")
        self._codes = array("H")
        self._reasons: list[str] = []
        codes: dict[str, int] = {}
        for rowid, reason in records:
            if reason not in codes:
                codes[reason] = len(codes)
                self._reasons.append(reason)
            self._rowids.append(rowid)
            self._codes.append(codes[reason])

    def __len__(self) -> int:
        return len(self._rowids)

    def between(self, first: int, last: int) -> dict[int, str]:
        """Return the entries from one rowid to another, both included."""
        start, end = bisect_left(self._rowids, first), bisect_right(self._rowids, last)
        return {self._rowids[at]: self._reasons[self._codes[at]] for at in range(start, end)}


class Kept(NamedTuple):
    """The rows of a block that have to be in one target: rowids, and the fields' texts column by column."""

    rowids: Sequence[int]
    shown: Sequence[Sequence[str]]
    rows: Sequence[str]


class SecondRead:
    """Reads block by block what each target has to hold, and notes rows on the wrong side of the quarantine."""

    def __init__(self, table: Table, user: str, quarantine: Quarantine) -> None:
        self.targets = [table] if table.companion is None else [table, table.companion]
        self.prints = [Fingerprints(target) for target in self.targets]
        self.rows = 0
        self.found_in_quarantine = 0
        self.misplaced: list[Difference] = []
        self.misplaced_count = 0
        self.duplicates: list[tuple[int, Sequence[str]]] = []
        """Rows that are in the quarantine because an earlier one has their key: rowid and fields."""
        self._names = [target.leaf(user) for target in self.targets]
        self._expected = [Expected(target) for target in self.targets]
        self._places = [key_places(target) for target in self.targets]
        self._quarantine = quarantine

    def take(self, block: Block) -> None:
        """Take the next block into the fingerprints."""
        self.rows += len(block.rowids)
        for prints, kept in zip(self.prints, self.kept(block, note=True), strict=True):
            if kept.rowids:
                prints.add(kept.shown, kept.rows)

    def kept(self, block: Block, *, note: bool = False) -> list[Kept]:
        """Return the rows of a block that have to be in the database, for each target."""
        shown = [expected.columns(block.values, block.folds) for expected in self._expected]
        held = self._quarantine.between(block.rowids[0], block.rowids[-1])
        rows = [row_texts(fields) for fields in shown]
        if not held and None not in rows:
            return [Kept(block.rowids, *both) for both in zip(shown, rows, strict=True)]  # type: ignore[arg-type]
        refused: dict[int, str] = {}
        for target, fields in zip(self.targets, shown, strict=True):
            for column, texts in zip(target.columns, fields, strict=True):
                if None in texts:
                    refused |= {place: column.name for place, text in enumerate(texts) if text is None}
        if note:
            self._note(block, shown[0], refused, held)
        places = [place for place, rowid in enumerate(block.rowids) if place not in refused and rowid not in held]
        rowids = [block.rowids[place] for place in places]
        left = [[[str(texts[place]) for place in places] for texts in fields] for fields in shown]
        return [Kept(rowids, fields, row_texts(fields) or []) for fields in left]

    def _note(
        self,
        block: Block,
        shown: Sequence[Sequence[str | None]],
        refused: Mapping[int, str],
        held: Mapping[int, str],
    ) -> None:
        for place, rowid in enumerate(block.rowids):
            reason = held.get(rowid)
            if reason is not None:
                self.found_in_quarantine += 1
            if reason == DUPLICATE and place not in refused and len(self.duplicates) < LOOKED_UP:
                self.duplicates.append((rowid, [str(texts[place]) for texts in shown]))
            if place in refused and reason is None:
                column = refused[place]
                value = repr(block.values[self._source_name(column)][place])
            elif place not in refused and reason is not None and reason not in SERVER_REASONS:
                column, value = "", "a row that can be loaded"
            else:
                continue
            key = "|".join(str(shown[at][place]) for at in self._places[0])
            database = "not in the quarantine" if reason is None else f"in the quarantine: {reason}"
            self._misplace(Difference(self._names[0], rowid, key, column, value, database))

    def _source_name(self, name: str) -> str:
        names = (column.source_name for target in self.targets for column in target.columns if column.name == name)
        return next(names)

    def _misplace(self, difference: Difference) -> None:
        self.misplaced_count += 1
        if len(self.misplaced) < NAMED:
            self.misplaced.append(difference)


def compare(target: str, table: Table, kept: Kept, found: Mapping[str, Sequence[str]]) -> list[Difference]:
    """Return what differs between rows of the file and the database's rows of the same keys."""
    differences = []
    for rowid, key, fields in zip(
        kept.rowids, keys(key_places(table), kept.shown), zip(*kept.shown, strict=True), strict=True
    ):
        theirs = found.get(key)
        if theirs is None:
            differences.append(Difference(target, rowid, key, "", "a row", "no row"))
            continue
        for column, ours, other in zip(table.columns, fields, theirs, strict=True):
            if ours != other:
                differences.append(Difference(target, rowid, key, column.name, ours or "NULL", other or "NULL"))
    return differences
