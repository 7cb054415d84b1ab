"""Fingerprints of rows by blocks: what a file has to have left in the database, in numbers that are cheap to compare.

A row's text is its fields' texts with `|` between them, and stands for it by the first 64 bits of its MD5; a row falls
into one of 1024 blocks by its number, or by the MD5 of another key. Of each block we keep how many rows it has and the
sum of their fingerprints, which does not depend on their order. MD5 is what PostgreSQL computes fastest; nobody attacks
here, and what differs is compared in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact
from hashlib import md5
from struct import unpack
from typing import Any, NamedTuple

from recio_ingest.backfill import expect
from recio_ingest.backfill.expect import NULL, QUOTED_NULL, TimeOfDay, Twice
from recio_ingest.backfill.tables import Kind, Table

BLOCKS = 1024
NUMBERS = frozenset({Kind.INTEGER, Kind.NUMERIC})
BOUNDED = frozenset({Kind.DATE, Kind.TIMESTAMP})
# Values that are counted before they are added up; more of them than this are rare, and memory stays flat.
COUNTED = 50_000
# No sum of finite numerics needs more digits, and one that did would be an error, not a rounding.
_EXACT = Context(prec=147_500, traps=[Inexact])


class Expected:
    """The texts of whole blocks of rows, column by column, in the order of the table's columns."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._memos = [expect.memo(column) for column in table.columns]
        self._places = {column.name: place for place, column in enumerate(table.columns)}

    def columns(self, values: Mapping[str, Sequence[Any]], folds: Sequence[int | None]) -> list[Sequence[str | None]]:
        """Return the fields' texts of a block; None where a row cannot be loaded because of that field.

        `values` has the block's values by their names in the file; `folds` says of each row whether a time that comes
        twice is the first (0), the second (1), or nobody knows (None): the neighbours' rowids tell.
        """
        shown: list[Sequence[Any]] = []
        for column, known in zip(self._table.columns, self._memos, strict=True):
            source = values[column.source_name]
            texts: Sequence[Any] | None = None if known.repeats else expect.quickly(column.kind, source)
            texts = texts or list(map(known.__getitem__, source))
            if column.side:
                sides = values.get("side", [None] * len(texts))
                texts = [_of_side(text, side, column.side) for text, side in zip(texts, sides, strict=True)]
            shown.append(texts)
        for place, column in enumerate(self._table.columns):
            if column.kind is Kind.TIMESTAMP and set(map(type, shown[place])) != {str}:
                shown[place] = self._settled(shown, place, folds)
        return shown

    def _settled(self, shown: Sequence[Sequence[Any]], place: int, folds: Sequence[int | None]) -> list[str | None]:
        """Give times of day their day, and doubled times their instant."""
        zone = self._table.columns[place].zone
        nothing = [None] * len(shown[place])
        days = shown[self._places["date"]] if "date" in self._places else nothing
        times = shown[self._places["time"]] if "time" in self._places else nothing
        settled: list[str | None] = []
        for text, day, began, fold in zip(shown[place], days, times, folds, strict=True):
            kind = type(text)
            if kind is TimeOfDay:
                known = expect.on_its_day(text, day, began, zone)
                settled.append(None if isinstance(known, Twice) else known)
            elif kind is Twice:
                settled.append(None if fold is None else text[fold])
            else:
                settled.append(text)
        return settled


def _of_side(text: str | None, side: object, wanted: str) -> str | None:
    """Return a price where it is of the wanted side; a price of no side is of no use."""
    if side == wanted or text is None:
        return text
    return NULL if text == NULL or side in ("yes", "no") else None


class Figures(NamedTuple):
    """What one column holds, all rows together; `total` of numbers, `first` and `last` of times."""

    filled: int
    total: Decimal | None = None
    first: str | None = None
    last: str | None = None


class Column:
    """The running figures of one column of the file."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._null = QUOTED_NULL if kind in expect.QUOTED else NULL
        self._texts: Counter[str] = Counter()
        self._filled = 0
        self._total = Decimal(0)
        self._bounds: tuple[str, str] | None = None

    def add(self, texts: Sequence[str]) -> None:
        """Count a block's texts."""
        if self._kind is Kind.NUMERIC:
            self._texts.update(texts)
            if len(self._texts) > COUNTED:
                self._gather()
            return
        nulls = texts.count(self._null)
        self._filled += len(texts) - nulls
        if nulls == len(texts):
            return
        if self._kind is Kind.INTEGER:
            self._total = _EXACT.add(self._total, Decimal(sum(map(int, filter(None, texts) if nulls else texts))))
        elif self._kind in BOUNDED:
            # In this form the order of the texts is the order of the times.
            edges = [min(filter(None, texts)), max(texts), *(self._bounds or ())]
            self._bounds = (min(edges), max(edges))

    def _gather(self) -> None:
        self._texts.pop(self._null, None)
        self._filled += self._texts.total()
        for text, count in self._texts.items():
            self._total = _EXACT.add(self._total, _EXACT.multiply(Decimal(text), Decimal(count)))
        self._texts.clear()

    @property
    def figures(self) -> Figures:
        """What was seen so far."""
        self._gather()
        first, last = self._bounds or (None, None)
        return Figures(self._filled, self._total if self._kind in NUMBERS else None, first, last)


class Fingerprints:
    """The blocks and the columns' figures of one side."""

    def __init__(self, table: Table) -> None:
        self.rows = 0
        self.counts = [0] * BLOCKS
        self.sums = [0] * BLOCKS
        self._table = table
        self._columns = [Column(column.kind) for column in table.columns]

    def add(self, shown: Sequence[Sequence[str]], rows: Sequence[str]) -> None:
        """Take a block of rows, column by column, every field with a text; and each row's text."""
        counts, sums = self.counts, self.sums
        digests = [md5(text.encode(), usedforsecurity=False).digest() for text in rows]
        prints = unpack(f">{2 * len(digests)}q", b"".join(digests))[::2]
        for block, fingerprint in zip(blocks(self._table, shown), prints, strict=True):
            counts[block] += 1
            sums[block] += fingerprint
        self.rows += len(digests)
        for column, each in zip(self._columns, shown, strict=True):
            column.add(each)

    @property
    def figures(self) -> list[Figures]:
        """The figures of every column, in order."""
        return [column.figures for column in self._columns]


def row_texts(shown: Sequence[Sequence[str | None]]) -> list[str] | None:
    """Return the text of each row; None if any field of any row has none."""
    try:
        return list(map("|".join, zip(*shown, strict=True)))
    except TypeError:
        return None


def key_places(table: Table) -> list[int]:
    """Return where in a row the columns of the key are; those with a fixed value make no difference."""
    names = [column.name for column in table.columns]
    return [names.index(name) for name in table.key if name in names]


def keys(places: Sequence[int], shown: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return the text of each row's key."""
    if len(places) == 1:
        return shown[places[0]]
    return list(map("|".join, zip(*(shown[place] for place in places), strict=True)))


def numbered(table: Table) -> bool:
    """Whether a whole number is the key."""
    return [table.columns[place].kind for place in key_places(table)] == [Kind.INTEGER]


def blocks(table: Table, shown: Sequence[Sequence[str]]) -> list[int]:
    """Return each row's block: the last ten bits of its number, the first ten of the MD5 of any other key."""
    places = key_places(table)
    if numbered(table):
        return [int(text) & BLOCKS - 1 for text in shown[places[0]]]
    digests = [md5(key.encode(), usedforsecurity=False).digest() for key in keys(places, shown)]
    return [digest[0] << 2 | digest[1] >> 6 for digest in digests]


def merged(parts: Sequence[Sequence[Figures]], width: int) -> list[Figures]:
    """Return the figures of all rows together from those of parts, column by column."""
    if not parts:
        return [Figures(0)] * width
    return [_merged(column) for column in zip(*parts, strict=True)]


def _merged(parts: Sequence[Figures]) -> Figures:
    total = None
    for part in parts:
        if part.total is not None:
            total = part.total if total is None else _EXACT.add(total, part.total)
    bounds = [bound for part in parts for bound in (part.first, part.last) if bound is not None]
    first, last = (min(bounds), max(bounds)) if bounds else (None, None)
    return Figures(sum(part.filled for part in parts), total, first, last)
