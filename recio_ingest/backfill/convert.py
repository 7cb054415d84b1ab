"""Rows of SQLite to the fields of binary COPY, column by column.

The values of a column repeat, and a column remembers the fields of its values: what `rules` says is asked once of each.
A row that stumbles is looked at value by value, and all its reasons are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from recio_ingest.backfill import local_time
from recio_ingest.backfill.rules import BLANKS, NULL, Rule, moment, numeric_field, rule_of, together
from recio_ingest.backfill.tables import NEW_YORK, BadValue, Column, Kind, Table

# Of each column, some 5 MB at most: what repeats comes early. A day has 86,400 seconds.
REMEMBERED, REMEMBERED_TIMES = 20_000, 86_400
LONGEST_REMEMBERED = 40
# Up to here an int and a float that compare equal also read the same.
_SAME = 2**53
_SHORTEST_STAMP = len("YYYY-MM-DDTHH:MM:SS")


class Memo(dict[Any, bytes]):
    """The fields of one column's values, up to a number of them."""

    def __init__(self, column: Column, rule: Rule, *, numbers: bool) -> None:
        super().__init__()
        self._rule = rule
        self._numbers = numbers
        self._limit = REMEMBERED_TIMES if column.kind is Kind.TIME else REMEMBERED
        self._missed = 0
        self._all = None if column.side else together(column.kind)

    def __missing__(self, value: Any) -> bytes:  # noqa: ANN401  # whatever SQLite holds
        field = self._rule(value)
        self._missed += 1
        if len(self) < self._limit:
            if type(value) is str:
                if len(value) <= LONGEST_REMEMBERED:
                    self[value] = field
            elif value is None or (self._numbers and -_SAME < value < _SAME):
                self[value] = field
        return field

    def fields(self, values: Sequence[Any]) -> list[bytes]:
        """Return the fields of a block's values. Raises BadValue if one has none."""
        # What has been missed so often does not repeat, and is made of all values at once.
        if self._all is not None and self._missed > REMEMBERED and (made := self._all(values)) is not None:
            return made
        return list(map(self.__getitem__, values))


class Bad(NamedTuple):
    """A row that cannot be loaded: its values, and each reason as (word, column, detail)."""

    row: tuple[Any, ...]
    reasons: tuple[tuple[str, str, str], ...]


class Block(NamedTuple):
    """Rows that were converted, and those that could not be.

    Beside each of the source's rows lie its key, its fields, and, where the table refers to another, the id of that.
    """

    rows: list[tuple[Any, ...]]
    keys: list[bytes]
    fields: list[bytes]
    refers: list[bytes]
    bad: list[Bad]

    def add(self, other: Block) -> None:
        """Take another block's rows behind these."""
        self.rows.extend(other.rows)
        self.keys.extend(other.keys)
        self.fields.extend(other.fields)
        self.refers.extend(other.refers)
        self.bad.extend(other.bad)


class Converter:
    """Converts the rows of one table; pure but for what it remembers."""

    def __init__(self, table: Table, names: Sequence[str], declared: Sequence[str], folds: Mapping[int, int]) -> None:
        """Take the names and declared types of the source's columns, in the order of its rows behind the rowid.

        `folds` says of which hour a row is whose time came twice, by rowid.
        """
        self._columns = table.columns
        self._folds = folds
        places = {name: place for place, name in enumerate(names, 1)}
        self._places = [places[column.source_name] for column in table.columns]
        self._by_name = places
        self._rules = [rule_of(column) for column in table.columns]
        # Closing times are of nearly every trade and, as times of day, of no use without the row's date.
        by_row = {"date", "time"} <= places.keys()
        self._timed = [
            place
            for place, column in enumerate(table.columns)
            if by_row and column.kind is Kind.TIMESTAMP and column.zone == NEW_YORK
        ]
        self._memos = [
            Memo(column, rule, numbers=column.kind is not Kind.TEXT and bool(declared[place - 1].strip()))
            for column, rule, place in zip(table.columns, self._rules, self._places, strict=True)
        ]
        self._in_key = [place for place, column in enumerate(table.columns) if column.name in table.key]
        self._refers = next((place for place, column in enumerate(table.columns) if column.refers), None)
        self._midnights = local_time.Midnights(NEW_YORK)

    def convert(self, rows: Sequence[tuple[Any, ...]]) -> Block:
        """Convert a block of rows `(rowid, *values)`; some hundreds of them stay in the processor's cache."""
        if not rows:
            return Block([], [], [], [], [])
        try:
            return self._block(list(rows), self._all_fields(rows), [])
        except BadValue:
            pass
        made: list[list[bytes]] = []
        good, bad = [], []
        for row in rows:
            fields, reasons = self._look_closely(row)
            if reasons:
                bad.append(Bad(row, tuple(reasons)))
            else:
                good.append(row)
                made.append(fields)
        return self._block(good, list(zip(*made, strict=True)), bad)

    def _block(self, rows: list[tuple[Any, ...]], fields: Sequence[Sequence[bytes]], bad: list[Bad]) -> Block:
        if not rows:
            return Block([], [], [], [], bad)
        join = b"".join
        keys = [fields[place] for place in self._in_key]
        return Block(
            rows,
            list(keys[0] if len(keys) == 1 else map(join, zip(*keys, strict=True))),
            # The lengths are all the same; to look costs as much as to join.
            list(map(join, zip(*fields))),  # noqa: B905
            [] if self._refers is None else list(fields[self._refers]),
            bad,
        )

    def _all_fields(self, rows: Sequence[tuple[Any, ...]]) -> list[list[bytes]]:
        """Return the fields of a block, column by column. Raises BadValue if a value has none."""
        values = list(zip(*rows, strict=True))
        fields: list[list[bytes]] = []
        for at, (memo, place) in enumerate(zip(self._memos, self._places, strict=True)):
            fields.append([] if at in self._timed else memo.fields(values[place]))
        for at in self._timed:
            fields[at] = self._moments(at, rows, values)
        return fields

    def _moments(self, at: int, rows: Sequence[tuple[Any, ...]], values: Sequence[Sequence[Any]]) -> list[bytes]:
        """Return the fields of a column of times of day; any other value is looked at with its row."""
        column, rule, texts = self._columns[at], self._rules[at], values[self._places[at]]
        days, times = (values[self._by_name[name]] for name in ("date", "time"))
        midnights, on_plain_day = self._midnights, local_time.on_plain_day
        fields: list[bytes] = []
        for row, text, day, began in zip(rows, texts, days, times, strict=True):
            midnight = midnights[day]
            found = None if midnight is None else on_plain_day(text, midnight, began)
            fields.append(self._field(column, rule, text, row) if found is None else moment(found))
        return fields

    def _look_closely(self, row: tuple[Any, ...]) -> tuple[list[bytes], list[tuple[str, str, str]]]:
        fields: list[bytes] = []
        reasons: list[tuple[str, str, str]] = []
        for column, place, rule in zip(self._columns, self._places, self._rules, strict=True):
            try:
                fields.append(self._field(column, rule, row[place], row))
            except BadValue as exc:
                reasons.append((exc.reason, column.source_name, str(exc)[:200]))
        return fields, reasons

    def _field(self, column: Column, rule: Rule, value: Any, row: tuple[Any, ...]) -> bytes:  # noqa: ANN401
        if value is None:
            return rule(None)
        if column.side:
            return self._by_side(column, value, row)
        if column.kind is Kind.TIMESTAMP and type(value) is str:
            text = value.strip(BLANKS)
            if len(text) < _SHORTEST_STAMP and local_time.is_time_of_day(text):
                return moment(local_time.on_its_day(text, *self._entry(row), column.zone))
            if text:
                return moment(local_time.instant(text, column.zone, self._folds.get(row[0])))
        return rule(value)

    def _by_side(self, column: Column, value: Any, row: tuple[Any, ...]) -> bytes:  # noqa: ANN401
        field = numeric_field(value)
        side = row[self._by_name["side"]] if "side" in self._by_name else None
        if side not in {"yes", "no"} and field != NULL:
            raise BadValue("no_side", "a price, and the row does not say of which side")
        return field if side == column.side else NULL

    def _entry(self, row: tuple[Any, ...]) -> tuple[str, str]:
        day, began = (row[self._by_name[name]] if name in self._by_name else None for name in ("date", "time"))
        if not isinstance(day, str) or not isinstance(began, str):
            raise BadValue("not_a_time", "a time of day, and the row has no day")
        return day.strip(BLANKS), began.strip(BLANKS)
