"""What PostgreSQL has to show for a value of the file: the second opinion on `convert`.

Written from the rules and not from the converter: decimals by `decimal`, times by `zoneinfo`, JSON by `json`. The text
of a field is what the server's `concat` makes of it: numerics without zeros at their end, text and JSON through
`quote_nullable`, times in UTC, and nothing for a NULL. Each column remembers its values: prices, sides and days repeat,
and a remembered value costs 40 ns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import lru_cache, partial
from math import isfinite
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from recio_ingest.backfill.tables import Column, Kind

NULL = ""
QUOTED_NULL = "NULL"
QUOTED = frozenset({Kind.TEXT, Kind.JSON})
# All seconds of a day; more values push each other out, and memory stays flat.
REMEMBERED = 100_000
LONGEST_REMEMBERED = 64
# What has been missed so often does not repeat.
ENOUGH = 5000
# Up to here an int and a float that compare equal also read the same.
_SAME = 2**53
_BIGINT = 2**63
# A REAL has at most 324 of them; PostgreSQL would take more.
_MOST_DIGITS = 1000
_EXACT = Context(prec=2 * _MOST_DIGITS, traps=[Inexact, InvalidOperation])

_NUMBER = re.compile(r"[+-]?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_EXPONENT = re.compile("[eE]")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?")
_MOMENT = re.compile(rf"{_DATE.pattern}[T ]{_TIME.pattern}(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?")
_BLANKS = " \t\r\n"
_TRUTH = {"0": "f", "1": "t", "false": "f", "true": "t"}


class Twice(NamedTuple):
    """A New York time that comes twice in a year, as both instants: which one it is, the row's neighbours say."""

    summer: str
    winter: str


class TimeOfDay(NamedTuple):
    """A time whose day is the row's own: on or after the row's `date` and `time`; as the server shows it."""

    text: str


Shown = str | Twice | TimeOfDay | None
"""A field's text, or what is still open about it; None where no rule covers the value: the row is not loaded."""


class Memo(dict[Any, Shown]):
    """The texts of one column's values. Memory is bounded; a value that another type could pass for is not kept."""

    def __init__(self, rule: Callable[[Any], Shown], *, numbers: bool) -> None:
        super().__init__()
        self._rule = rule
        self._numbers = numbers
        self._missed = 0

    @property
    def repeats(self) -> bool:
        """Whether the column's values repeat, as far as has been seen."""
        return self._missed < ENOUGH

    def __missing__(self, value: Any) -> Shown:  # noqa: ANN401  # whatever SQLite holds
        text = self._rule(value)
        self._missed += 1
        kind = type(value)
        if (
            value is None
            or (kind is str and len(value) <= LONGEST_REMEMBERED)
            or (self._numbers and (kind is int or kind is float) and -_SAME < value < _SAME)
        ):
            if len(self) >= REMEMBERED:
                self.clear()
            self[value] = text
        return text


def plain(value: Decimal) -> str:
    """Return all digits of a finite number without an exponent and without zeros at its end."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "0") else text


def quoted(text: str) -> str:
    """Return what the server's `quote_literal` makes of a text."""
    body = text.replace("'", "''")
    return f"E'{body.replace(chr(92), chr(92) * 2)}'" if "\\" in body else f"'{body}'"


def _decimal(value: Any) -> Decimal | str | None:  # noqa: ANN401
    """Return the number that a value is, NULL for an empty one, None for anything else."""
    if type(value) is int:
        return Decimal(value)
    if type(value) is float:
        return Decimal(repr(value)) if isfinite(value) else None
    if type(value) is not str:
        return None
    text = value.strip(_BLANKS)
    if not text:
        return NULL
    return Decimal(text.replace("$", "").replace(",", "")) if _NUMBER.fullmatch(text) else None


def _numeric(value: Any) -> str | None:  # noqa: ANN401
    number = _decimal(value)
    if not isinstance(number, Decimal):
        return number
    written = value if type(value) is str and not _EXPONENT.search(value) else format(number, "f")
    return plain(number) if sum(map(str.isdigit, written)) <= _MOST_DIGITS else None


def _integer(value: Any) -> str | None:  # noqa: ANN401
    if type(value) is int:
        return str(value)  # SQLite's are as long as PostgreSQL's
    number = _decimal(value)
    if not isinstance(number, Decimal):
        return number
    whole = number == number.to_integral_value(context=_EXACT)
    return plain(number) if whole and -_BIGINT <= number < _BIGINT else None


def _text(value: Any) -> str | None:  # noqa: ANN401
    if type(value) is str:
        return None if "\0" in value else quoted(value)
    if type(value) is int:
        return f"'{value}'"
    return f"'{value!r}'" if type(value) is float and isfinite(value) else None


def _boolean(value: Any) -> str | None:  # noqa: ANN401
    if isinstance(value, str):
        return _TRUTH.get(value.strip(_BLANKS).lower()) if value.strip(_BLANKS) else NULL
    return _TRUTH.get(f"{abs(value):.0f}") if type(value) in (int, float) and value in (0, 1) else None


def _json(value: Any) -> str | None:  # noqa: ANN401
    if type(value) is not str or "\0" in value:
        return None
    if not value.strip(_BLANKS):
        return QUOTED_NULL
    try:
        json.loads(value, parse_constant=_no_constant, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return quoted(value)


def _no_constant(word: str) -> None:
    raise ValueError(f"JSON has no {word}")


def _date(value: Any) -> str | None:  # noqa: ANN401
    if type(value) is not str:
        return None
    text = value.strip(_BLANKS)
    if not text:
        return NULL
    try:
        return str(date.fromisoformat(text)) if _DATE.fullmatch(text) else None
    except ValueError:
        return None


def _time(value: Any) -> str | None:  # noqa: ANN401
    if type(value) is not str:
        return None
    text = value.strip(_BLANKS)
    if not text:
        return NULL
    try:
        return _fraction(str(time.fromisoformat(text))) if _TIME.fullmatch(text) else None
    except ValueError:
        return None


def _fraction(text: str) -> str:
    return text.rstrip("0") if "." in text else text


def _moment(value: Any, zone: str) -> Shown:  # noqa: ANN401
    if type(value) is not str:
        return None
    text = value.strip(_BLANKS)
    if not text:
        return NULL
    try:
        if _TIME.fullmatch(text):
            return TimeOfDay(_fraction(str(time.fromisoformat(text))))
        return instant(datetime.fromisoformat(text), zone) if _MOMENT.fullmatch(text) else None
    except (ValueError, OverflowError):
        return None


def instant(moment: datetime, zone: str) -> str | Twice | None:
    """Return the instant of a time, in UTC; None for one that the clocks of its zone pass over."""
    if moment.tzinfo is not None:
        return _utc(moment.astimezone(UTC).replace(tzinfo=None))
    offset = _offset_of_day(moment.date(), zone)
    if offset is not None:
        return _utc(moment - offset)
    there = ZoneInfo(zone)
    found = {moment.replace(tzinfo=there, fold=fold).astimezone(UTC) for fold in (0, 1)}
    # A time that does not exist comes back as another one.
    real = sorted(each for each in found if each.astimezone(there).replace(tzinfo=None) == moment)
    texts = [_utc(each.replace(tzinfo=None)) for each in real]
    return Twice(*texts) if len(texts) == 2 else (texts[0] if texts else None)  # noqa: PLR2004  # summer and winter


def _utc(naive: datetime) -> str:
    return _fraction(str(naive)) + "+00"


@lru_cache(maxsize=4096)
def _offset_of_day(day: date, zone: str) -> timedelta | None:
    """Return the zone's offset on a day, None on a day on which it changes."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    first, last = midnight.utcoffset(), midnight.replace(hour=23, minute=59, second=59).utcoffset()
    return first if first == last else None


_RULES: Mapping[Kind, Callable[[Any], Shown]] = {
    Kind.INTEGER: _integer,
    Kind.NUMERIC: _numeric,
    Kind.TEXT: _text,
    Kind.JSON: _json,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.BOOLEAN: _boolean,
}


def rule(column: Column) -> Callable[[Any], Shown]:
    """Return how a column's values are shown, NULLs and what must not be NULL included."""
    null = QUOTED_NULL if column.kind in QUOTED else NULL
    convert = partial(_moment, zone=column.zone) if column.kind is Kind.TIMESTAMP else _RULES[column.kind]

    def shown(value: Any) -> Shown:  # noqa: ANN401
        text = null if value is None else convert(value)
        return None if column.required and text == null else text

    return shown


def memo(column: Column) -> Memo:
    """Return the memory of one column."""
    return Memo(rule(column), numbers=column.kind is not Kind.TEXT)


def quickly(kind: Kind, values: Sequence[Any]) -> list[str] | None:
    """Return the texts of a column of plain values: whole numbers all, or texts without a quote; None for others.

    Columns of identifiers do not repeat: made so they cost a tenth of what each costs alone.
    """
    types = set(map(type, values))
    if kind is Kind.INTEGER and types == {int}:
        return list(map(str, values))
    if kind is Kind.TEXT and types == {str}:
        together = "".join(values)
        if "'" not in together and "\\" not in together and "\0" not in together:
            return [f"'{value}'" for value in values]
    return None


def on_its_day(text: TimeOfDay, day: str | None, began: str | None, zone: str) -> str | Twice | None:
    """Return the first instant with this time of day on or after the row's own date and time."""
    if not day or not began:
        return None
    (clock,) = text
    # In this form the order of the texts is the order of the times.
    next_day = clock < began
    hour = _hour(day, clock[:2], zone, next_day)
    if hour is not None:
        return f"{hour}{clock[2:]}+00"
    try:
        moment = datetime.combine(date.fromisoformat(day), time.fromisoformat(clock))
        return instant(moment + timedelta(days=next_day), zone)
    except OverflowError:
        return None


@lru_cache(maxsize=65_536)
def _hour(day: str, hour: str, zone: str, next_day: bool) -> str | None:  # noqa: FBT001  # a name costs a sixth of the call
    """Return the UTC day and hour of an hour of a day; None where it takes more than that to tell."""
    try:
        start = datetime.fromisoformat(f"{day}T{hour}:00:00") + timedelta(days=next_day)
        offset = _offset_of_day(start.date(), zone)
        return None if offset is None or offset % timedelta(hours=1) else str(start - offset)[:13]
    except OverflowError:
        return None
