"""SQLite values to the binary COPY fields of their target columns, by explicit rules.

SQLite's types are of the value and not of the column: `pnl INTEGER` holds 0.14, `strike TEXT` holds `$114,250`. So each
target column has one rule for every type a value may have; a value that no rule covers is never guessed. A REAL keeps
every digit of its shortest form (`repr`), and a column remembers the fields of its values, which repeat: a row of 29
columns is made in one pass over 29 dictionaries, and only a row that stumbles is looked at value by value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, Inexact
from functools import partial
from math import isfinite
from operator import itemgetter
from struct import Struct
from typing import Any, NamedTuple

import orjson

from recio_ingest import numeric
from recio_ingest.backfill import local_time
from recio_ingest.backfill.tables import NEW_YORK, BadText, BadValue, Column, Kind, Table

NULL = b"\xff\xff\xff\xff"
_LENGTH = Struct("!i").pack
_BIGINT = Struct("!iq").pack
_INT = Struct("!ii").pack
_COUNT = Struct("!h").pack
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"
# PostgreSQL counts days and microseconds from 2000.
_EPOCH_DAYS, _EPOCH_US = 730_120, 946_684_800_000_000
# Of each column, some 5 MB at most: what repeats comes early. A day has 86,400 seconds.
REMEMBERED, REMEMBERED_TIMES = 20_000, 86_400
LONGEST_REMEMBERED = 40
# Up to here an int and a float that compare equal also read the same.
_SAME = 2**53
_SHORTEST_STAMP = len("YYYY-MM-DDTHH:MM:SS")
_LOW, _HIGH = -(2**63), 2**63 - 1
_BLANKS = " \t\r\n"
_NUMBER = re.compile(r"([+-]?)\$?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"0": _FALSE, "false": _FALSE, "1": _TRUE, "true": _TRUE}
_GROUP = 4
_SHIFT = (10_000, 1_000, 100, 10, 1)
_NUMERICS = [Struct(f"!ihhHh{count}H").pack for count in range(4)]
_EXACT = Context(prec=2000, traps=[Inexact])

Rule = Callable[[Any], bytes]


class NeedsRowError(BadValue):
    """The value alone is not enough: the row has to be looked at."""


class Memo(dict[Any, bytes]):
    """The fields of one column's values, up to a number of them."""

    def __init__(self, column: Column, rule: Rule, *, numbers: bool) -> None:
        super().__init__()
        self._rule = rule
        self._numbers = numbers
        self._limit = REMEMBERED_TIMES if column.kind is Kind.TIME else REMEMBERED

    def __missing__(self, value: Any) -> bytes:  # noqa: ANN401  # whatever SQLite holds
        field = self._rule(value)
        if len(self) < self._limit:
            if type(value) is str:
                if len(value) <= LONGEST_REMEMBERED:
                    self[value] = field
            elif value is None or (self._numbers and -_SAME < value < _SAME):
                self[value] = field
        return field


class Open(dict[Any, bytes]):
    """Stands for a column whose fields take the whole row: filled in afterwards."""

    def __missing__(self, value: Any) -> bytes:  # noqa: ANN401  # whatever SQLite holds
        return b""


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
        self._pick = itemgetter(*self._places)
        self._by_name = places
        self._rules = [_rule(column) for column in table.columns]
        # Closing times are of nearly every trade and, as times of day, of no use without the row's date.
        by_row = {"date", "time"} <= places.keys()
        self._timed = [
            place
            for place, column in enumerate(table.columns)
            if by_row and column.kind is Kind.TIMESTAMP and column.zone == NEW_YORK
        ]
        self._memos: list[dict[Any, bytes]] = [
            Memo(column, rule, numbers=column.kind is not Kind.TEXT and bool(declared[place - 1].strip()))
            for column, rule, place in zip(table.columns, self._rules, self._places, strict=True)
        ]
        for place in self._timed:
            self._memos[place] = Open()
        in_key = [place for place, column in enumerate(table.columns) if column.name in table.key]
        one = itemgetter(*in_key)
        self._key: Callable[[list[bytes]], bytes] = one if len(in_key) == 1 else lambda fields: b"".join(one(fields))
        self._refers = next((place for place, column in enumerate(table.columns) if column.refers), None)

    def convert(self, rows: Sequence[tuple[Any, ...]]) -> Block:
        """Convert a block of rows `(rowid, *values)`; some hundreds of them stay in the processor's cache."""
        block = Block([], [], [], [], [])
        pick, memos, key, joined = self._pick, self._memos, self._key, b"".join
        timed, columns, rules, places = self._timed, self._columns, self._rules, self._places
        for row in rows:
            try:
                # Not strict: that costs 0.4 us a row, and both are as long as the table's columns.
                fields = [memo[value] for memo, value in zip(memos, pick(row))]  # noqa: B905
                for place in timed:
                    fields[place] = self._field(columns[place], rules[place], row[places[place]], row)
            except BadValue:
                fields, reasons = self._look_closely(row)
                if reasons:
                    block.bad.append(Bad(row, tuple(reasons)))
                    continue
            block.rows.append(row)
            block.keys.append(key(fields))
            block.fields.append(joined(fields))
            if self._refers is not None:
                block.refers.append(fields[self._refers])
        return block

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
            text = value.strip(_BLANKS)
            if len(text) < _SHORTEST_STAMP and local_time.is_time_of_day(text):
                return _moment(local_time.on_its_day(text, *self._entry(row), column.zone))
            if text:
                return _moment(local_time.instant(text, column.zone, self._folds.get(row[0])))
        return rule(value)

    def _by_side(self, column: Column, value: Any, row: tuple[Any, ...]) -> bytes:  # noqa: ANN401
        field = _numeric(value)
        side = row[self._by_name["side"]] if "side" in self._by_name else None
        if side not in {"yes", "no"} and field != NULL:
            raise BadValue("no_side", "a price, and the row does not say of which side")
        return field if side == column.side else NULL

    def _entry(self, row: tuple[Any, ...]) -> tuple[str, str]:
        day, began = (row[self._by_name[name]] if name in self._by_name else None for name in ("date", "time"))
        if not isinstance(day, str) or not isinstance(began, str):
            raise BadValue("not_a_time", "a time of day, and the row has no day")
        return day.strip(_BLANKS), began.strip(_BLANKS)


def copy_head(columns: int) -> bytes:
    """Return what begins each row of a binary COPY with so many fields."""
    return _COUNT(columns)


def text(value: str) -> bytes:
    """Return the field of a text."""
    data = value.encode()
    return _LENGTH(len(data)) + data


def bigint(value: int) -> bytes:
    """Return the field of an integer of 64 bits."""
    return _BIGINT(8, value)


def _rule(column: Column) -> Rule:
    if column.side:
        return partial(_needs_row, required=column.required)
    convert = partial(_timestamp, zone=column.zone) if column.kind is Kind.TIMESTAMP else _RULES[column.kind]
    return partial(_required if column.required else _nullable, convert)


def _needs_row(value: Any, *, required: bool) -> bytes:  # noqa: ANN401
    if value is None and not required:
        return NULL
    raise NeedsRowError("needs_row", "")


def _required(convert: Rule, value: Any) -> bytes:  # noqa: ANN401
    field = NULL if value is None else convert(value)
    if field == NULL:
        raise BadValue("missing", "no value, and no row can do without")
    return field


def _nullable(convert: Rule, value: Any) -> bytes:  # noqa: ANN401
    return NULL if value is None else convert(value)


def _refuse(value: Any, wanted: str) -> BadValue:  # noqa: ANN401
    if isinstance(value, BadText):
        return BadValue("not_utf8", "text that is not UTF-8")
    if isinstance(value, bytes):
        return BadValue("blob", f"a blob of {len(value)} bytes")
    if isinstance(value, float) and not isfinite(value):
        return BadValue("not_finite", repr(value))
    return BadValue(wanted, repr(value)[:100])


def _plain(value: Any) -> str:  # noqa: ANN401
    """Return the digits of a number, an empty text for a blank one. Raises BadValue."""
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float and isfinite(value):
        shown = repr(value)
        return format(Decimal(shown), "f") if "e" in shown else shown
    if kind is not str:
        raise _refuse(value, "not_a_number")
    stripped = value.strip(_BLANKS)
    if not stripped:
        return ""
    match = _NUMBER.fullmatch(stripped)
    if match is None:
        raise _refuse(value, "not_a_number")
    sign, whole, fraction, exponent = match.groups("")
    digits = f"{'-' if sign == '-' else ''}{whole.replace(',', '')}{fraction}"
    return format(Decimal(digits + exponent), "f") if exponent else digits


def _numeric(value: Any) -> bytes:  # noqa: ANN401
    if type(value) is float and (short := _short(value)) is not None:
        return short
    plain = _plain(value)
    if not plain:
        return NULL
    try:
        data = numeric.encode(plain)
    except ValueError:
        raise BadValue("out_of_range", f"a number of {len(plain)} digits") from None
    return _LENGTH(len(data)) + data


def _short(value: float) -> bytes | None:
    """Return the field of a REAL that is shown with at most eight digits before the point and four behind it.

    The same as `numeric.encode`, in a third of its time: nearly every price is one of these.
    """
    whole, _, fraction = repr(abs(value)).partition(".")
    scale = len(fraction)
    if not 0 < scale <= _GROUP or len(whole) > 2 * _GROUP or not fraction.isdigit():
        return None
    last = int(fraction) * _SHIFT[scale]
    high, low = divmod(int(whole), 10_000)
    sign = 0x4000 if value < 0 else 0
    if high:
        groups = (high, low, last) if last else (high, low) if low else (high,)
        weight = 1
    elif low:
        groups, weight = (low, last) if last else (low,), 0
    elif last:
        groups, weight = (last,), -1
    else:
        return _NUMERICS[0](8, 0, 0, 0, scale)
    return _NUMERICS[len(groups)](8 + 2 * len(groups), len(groups), weight, sign, scale, *groups)


def _integer(value: Any) -> bytes:  # noqa: ANN401
    if type(value) is int:
        return _BIGINT(8, value)
    plain = _plain(value)
    if not plain:
        return NULL
    number = Decimal(plain)
    if number != number.to_integral_value(context=_EXACT):
        raise BadValue("not_whole", repr(value)[:100])
    if not _LOW <= number <= _HIGH:
        raise BadValue("out_of_range", repr(value)[:100])
    return _BIGINT(8, int(number))


def _text(value: Any) -> bytes:  # noqa: ANN401
    kind = type(value)
    if kind is str:
        if "\0" in value:
            raise BadValue("nul_character", "PostgreSQL has no NUL in text")
        data: bytes = value.encode()
    elif kind is int or (kind is float and isfinite(value)):
        data = repr(value).encode()
    else:
        raise _refuse(value, "not_text")
    return _LENGTH(len(data)) + data


def _json(value: Any) -> bytes:  # noqa: ANN401
    if type(value) is not str:
        raise _refuse(value, "not_json")
    if not value.strip(_BLANKS):
        return NULL
    data: bytes = value.encode()
    try:
        orjson.loads(data)
    except ValueError:
        # What orjson is too strict for: numbers of any size, single surrogates.
        try:
            json.loads(value, parse_constant=_no_constant, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            raise BadValue("not_json", repr(value)[:100]) from None
    return _LENGTH(len(data)) + data


def _no_constant(word: str) -> None:
    raise ValueError(word)


def _boolean(value: Any) -> bytes:  # noqa: ANN401
    kind = type(value)
    if kind is str and not value.strip(_BLANKS):
        return NULL
    # 1 and 1.0 are one key to a column's memory, so they have to be one value here.
    shown = value.strip(_BLANKS).lower() if kind is str else str(int(value)) if value in {0, 1} else ""
    field = _BOOLEANS.get(shown)
    if field is None:
        raise _refuse(value, "not_boolean")
    return field


def _date(value: Any) -> bytes:  # noqa: ANN401
    stripped = _stripped(value, "not_a_date")
    if not stripped:
        return NULL
    return _INT(4, local_time.a_date(stripped).toordinal() - _EPOCH_DAYS)


def _time(value: Any) -> bytes:  # noqa: ANN401
    stripped = _stripped(value, "not_a_time")
    return _BIGINT(8, local_time.time_of_day(stripped)) if stripped else NULL


def _timestamp(value: Any, zone: str) -> bytes:  # noqa: ANN401
    stripped = _stripped(value, "not_a_time")
    return _moment(local_time.instant(stripped, zone)) if stripped else NULL


def _moment(instant: int) -> bytes:
    return _BIGINT(8, instant - _EPOCH_US)


def _stripped(value: Any, wanted: str) -> str:  # noqa: ANN401
    if type(value) is not str:
        raise _refuse(value, wanted)
    stripped: str = value.strip(_BLANKS)
    return stripped


_RULES: Mapping[Kind, Rule] = {
    Kind.INTEGER: _integer,
    Kind.NUMERIC: _numeric,
    Kind.TEXT: _text,
    Kind.JSON: _json,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.BOOLEAN: _boolean,
}
