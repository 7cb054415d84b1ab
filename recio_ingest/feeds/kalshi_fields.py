"""The fields of Kalshi's messages, read strictly: what has another shape is refused, never guessed.

Source: the venue's AsyncAPI and OpenAPI documents. Prices are decimal strings in dollars (`*_dollars`), counts decimal
strings (`*_fp`), strikes JSON numbers; null fields are left out, and text that is not known yet is "".

Every function raises BadMessageError for what has another shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from recio_ingest.errors import BadMessageError
from recio_ingest.records import Frame, Micros, micros

VENUE = "kalshi"
FUTURE_LIMIT_US = 3_600_000_000
LAST_S = 253_402_300_799  # the end of the year 9999

Object = Mapping[str, Any]
_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_SIGNED = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_UP_TO_ONE = re.compile(r"0{1,20}(?:\.[0-9]{1,20})?|0{0,19}1(?:\.0{1,20})?").fullmatch
_NAME = re.compile(r"[!-~]{1,100}").fullmatch
_WORD = re.compile(r"[a-z_]{1,40}").fullmatch
_MAX_NUMBER = 2**63 - 1
_MAX_DIGITS = 20


def exactly(data: bytes) -> Any:  # noqa: ANN401  # any JSON value
    """Read JSON again with its numbers digit by digit."""
    try:
        return json.loads(data, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as exc:
        raise BadMessageError("json", repr(exc)[:200]) from None


def body(message: Object) -> dict[str, Any]:
    """Return what a message is about."""
    about = message.get("msg")
    if not isinstance(about, dict):
        raise BadMessageError("schema", "msg is not an object")
    return about


def name(about: Object, field: str) -> str:
    """Return a field that must be there: a name, in printable ASCII."""
    value = about.get(field)
    if type(value) is not str or not _NAME(value):
        raise BadMessageError("schema", f"{field} is not a name")
    return value


def word(about: Object, field: str) -> str:
    """Return a field that must be there: one of the venue's own words."""
    value = about.get(field)
    if type(value) is not str or not _WORD(value):
        raise BadMessageError("schema", f"{field} is not a word")
    return value


def number(message: Object, field: str) -> int:
    """Return a field that must be there: a positive whole number."""
    value = message.get(field)
    if type(value) is not int or not 0 < value <= _MAX_NUMBER:
        raise BadMessageError("schema", f"{field} is not a positive 64-bit integer")
    return value


def text(about: Object, field: str) -> str | None:
    """Return a text; "" is the venue's word for one that is not known yet."""
    value = about.get(field)
    if value is None or type(value) is str:
        return value or None
    raise BadMessageError("schema", f"{field} is not text")


def decimal(about: Object, field: str) -> str | None:
    """Return a number that was sent as text, as it was sent."""
    value = about.get(field)
    if value is None or (type(value) is str and _is_decimal(value)):
        return value
    raise BadMessageError("schema", f"{field} is not a decimal string")


def price(about: Object, field: str) -> str | None:
    """Return the price of a contract, which pays a dollar or nothing."""
    value = about.get(field)
    if value is None or (type(value) is str and _is_price(value)):
        return value
    decimal(about, field)
    raise BadMessageError("bounds", f"{field} is not between 0 and 1 dollar")


def strike(about: Object, field: str) -> str | None:
    """Return a strike as plain digits, with as many decimals as it was sent with."""
    value = about.get(field)
    if value is None:
        return None
    if not isinstance(value, Decimal):
        raise BadMessageError("schema", f"{field} is not a number")
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or abs(exponent) > _MAX_DIGITS or len(digits) > _MAX_DIGITS:
        raise BadMessageError("bounds", f"{field} has more than {_MAX_DIGITS} digits")
    return format(value, "f")


def expiration_value(market: Object) -> str | None:
    """Return what a market was settled on. Some come with thousands commas, and some markets' are words: no number."""
    plain = (text(market, "expiration_value") or "").replace(",", "")
    return plain if _SIGNED(plain) else None


@lru_cache(maxsize=16_384)  # prices and most sizes repeat: a ticker has eight; 6.8 us instead of 8.9
def _is_decimal(value: str) -> bool:
    return _DECIMAL(value) is not None


@lru_cache(maxsize=4096)  # there are a hundred prices, or a thousand
def _is_price(value: str) -> bool:
    return _UP_TO_ONE(value) is not None


def is_zero(value: str) -> bool:
    """Tell whether a decimal string is nothing but zeros."""
    return not value.strip("0.")


def millis(about: Object, field: str, frame: Frame) -> Micros:
    """Return a time that must be there, in milliseconds since 1970."""
    value = number(about, field)
    if value > LAST_S * 1000:
        raise BadMessageError("schema", f"{field} is not a time in milliseconds")
    return not_future(value * 1000, frame)


def seconds(about: Object, field: str) -> Micros | None:
    """Return a time in seconds since 1970."""
    value = about.get(field)
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= LAST_S:
        raise BadMessageError("schema", f"{field} is not a time in seconds")
    return value * 1_000_000


def time(about: Object, field: str) -> Micros | None:
    """Return a time in RFC 3339; the fraction has 0 to 6 digits."""
    value = text(about, field)
    try:
        return None if value is None else micros(datetime.fromisoformat(value))
    except (TypeError, ValueError, OverflowError):
        raise BadMessageError("schema", f"{field} is not an RFC 3339 time with an offset") from None


def not_future(moment: Micros, frame: Frame) -> Micros:
    """Return the time, unless it lies more than an hour after the arrival."""
    if moment - frame.recv_ns // 1000 > FUTURE_LIMIT_US:
        raise BadMessageError("future", "the venue's time is more than an hour after the arrival")
    return moment
