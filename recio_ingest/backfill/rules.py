"""Single values of SQLite to the binary COPY fields of a column's type: one rule for every type a value may have.

SQLite's types are of the value and not of the column: `pnl INTEGER` holds 0.14, `strike TEXT` holds `$114,250`. A value
that no rule covers is never guessed. A REAL keeps every digit of its shortest form (`repr`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, Inexact
from functools import partial
from itertools import repeat
from math import isfinite
from operator import add
from struct import Struct
from typing import Any

import orjson

from recio_ingest import numeric
from recio_ingest.backfill import local_time
from recio_ingest.backfill.tables import BadText, BadValue, Column, Kind
from recio_ingest.records import EPOCH_2000_US, Micros

NULL = b"\xff\xff\xff\xff"
BLANKS = " \t\r\n"
_LENGTH = Struct("!i").pack
_BIGINT = Struct("!iq").pack
_INT = Struct("!ii").pack
_COUNT = Struct("!h").pack
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"
# PostgreSQL counts days from 2000 too.
_EPOCH_DAYS = 730_120
_LOW, _HIGH = -(2**63), 2**63 - 1
_NUMBER = re.compile(r"([+-]?)\$?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"0": _FALSE, "false": _FALSE, "1": _TRUE, "true": _TRUE}
_SHORT = 1e8
_NUMERICS = [Struct(f"!ihhHh{count}H").pack for count in range(4)]
_EXACT = Context(prec=2000, traps=[Inexact])

Rule = Callable[[Any], bytes]
Together = Callable[[Sequence[Any]], list[bytes] | None]
"""Makes the fields of a whole column of plain values, at a fraction of what each costs alone; None for others."""


class NeedsRowError(BadValue):
    """The value alone is not enough: the row has to be looked at."""


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


def rule_of(column: Column) -> Rule:
    """Return what makes a column's field of a value. It raises BadValue, NeedsRowError where the row has to be seen."""
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
    stripped = value.strip(BLANKS)
    if not stripped:
        return ""
    match = _NUMBER.fullmatch(stripped)
    if match is None:
        raise _refuse(value, "not_a_number")
    sign, whole, fraction, exponent = match.groups("")
    digits = f"{'-' if sign == '-' else ''}{whole.replace(',', '')}{fraction}"
    return format(Decimal(digits + exponent), "f") if exponent else digits


def numeric_field(value: Any) -> bytes:  # noqa: ANN401
    """Return the field of a numeric. Raises BadValue."""
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
    """Return the field of a REAL below 10^8 that is shown with at most four digits behind the point: most prices.

    The same as `numeric.encode` of its `repr`, in a quarter of the time. Decimals of at most 15 digits are all
    different as floats, so that the one which is this float is the shortest that is, and `repr` would show it.
    """
    if not -_SHORT < value < _SHORT:
        return None
    left = round(value * 10_000)
    if left / 10_000 != value:
        return None
    sign = 0
    if left < 0:
        sign, left = 0x4000, -left
    # At least one, as `repr` has it.
    scale = 4 if left % 10 else 3 if left % 100 else 2 if left % 1000 else 1
    rest, last = divmod(left, 10_000)
    high, low = divmod(rest, 10_000)
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
    if not value.strip(BLANKS):
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
    if kind is str and not value.strip(BLANKS):
        return NULL
    # 1 and 1.0 are one key to a column's memory, so they have to be one value here.
    shown = value.strip(BLANKS).lower() if kind is str else str(int(value)) if value in {0, 1} else ""
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
    return moment(local_time.instant(stripped, zone)) if stripped else NULL


def moment(instant: Micros) -> bytes:
    """Return the field of an instant."""
    return _BIGINT(8, instant - EPOCH_2000_US)


def _stripped(value: Any, wanted: str) -> str:  # noqa: ANN401
    if type(value) is not str:
        raise _refuse(value, wanted)
    stripped: str = value.strip(BLANKS)
    return stripped


_RULES: Mapping[Kind, Rule] = {
    Kind.INTEGER: _integer,
    Kind.NUMERIC: numeric_field,
    Kind.TEXT: _text,
    Kind.JSON: _json,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.BOOLEAN: _boolean,
}


def together(kind: Kind) -> Together | None:
    """Return what makes all fields of a column of this type at once, if anything does."""
    return _TOGETHER.get(kind)


def _integers(values: Sequence[Any]) -> list[bytes] | None:
    return list(map(_BIGINT, repeat(8), values)) if set(map(type, values)) == {int} else None


def _numerics(values: Sequence[Any]) -> list[bytes] | None:
    return list(map(numeric_field, values)) if set(map(type, values)) == {float} else None


def _texts(values: Sequence[Any]) -> list[bytes] | None:
    if set(map(type, values)) != {str} or "\0" in "".join(values):
        return None
    encoded = list(map(str.encode, values))
    return list(map(add, map(_LENGTH, map(len, encoded)), encoded))


_TOGETHER: Mapping[Kind, Together] = {Kind.INTEGER: _integers, Kind.NUMERIC: _numerics, Kind.TEXT: _texts}
