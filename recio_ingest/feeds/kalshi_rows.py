"""Kalshi's messages as rows: everything that one message says, and nothing that it does not.

Source: the venue's AsyncAPI document (`ticker`, `trade`, `market_lifecycle_v2`, `cfbenchmarks_value`) and its OpenAPI
document (`GET /markets`). Prices are decimal strings in dollars (`*_dollars`), counts decimal strings (`*_fp`), strikes
JSON numbers; null fields are left out, and text that is not known yet is "". A message has quotes of YES only: buying
NO is selling YES, so `no_bid` is 1 - `yes_ask`, and `no_ask` is 1 - `yes_bid`.

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

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.records import BtcPrice, Frame, MarketEvent, MarketState, Micros, make, micros

VENUE = "kalshi"
INDEX_VENUE = "cfbenchmarks"
FUTURE_LIMIT_US = 3_600_000_000

_Object = Mapping[str, Any]
_ONE = Decimal(1)
_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_SIGNED = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_UP_TO_ONE = re.compile(r"0{1,20}(?:\.[0-9]{1,20})?|0{0,19}1(?:\.0{1,20})?").fullmatch
_NAME = re.compile(r"[!-~]{1,100}").fullmatch
_WORD = re.compile(r"[a-z_]{1,40}").fullmatch
_LAST_S = 253_402_300_799  # the end of the year 9999
LAST_US = _LAST_S * 1_000_000
_MAX_NUMBER = 2**63 - 1
_MAX_DIGITS = 20
_HAPPENED = {"determined": "determination_ts", "settled": "settled_ts"}
"""The field that says when it happened; the other times in a lifecycle message are plans."""


def ticker(frame: Frame, message: _Object) -> MarketEvent:
    """Return the row of a `ticker`."""
    body = _body(message)
    moment = _millis(body, "ts_ms", frame)
    bid, ask, last = (_price(body, f"{name}_dollars") for name in ("yes_bid", "yes_ask", "price"))
    if bid is ask is last is None:
        raise BadMessageError("schema", "a ticker without any price in dollars")
    bid_size, ask_size = _decimal(body, "yes_bid_size_fp"), _decimal(body, "yes_ask_size_fp")
    bid, ask = _bid(bid, bid_size), _ask(ask, ask_size)
    return make(
        MarketEvent,
        (
            moment,
            frame.recv_ns // 1000,
            VENUE,
            name(body, "market_ticker"),
            "ticker",
            frame.frame_no,
            0,
            None,
            _text(body, "market_id"),
            bid,
            bid_size,
            ask,
            ask_size,
            _mirror(ask),
            _mirror(bid),
            last,
            _decimal(body, "last_trade_size_fp"),
            None,
            _decimal(body, "volume_fp"),
            _decimal(body, "open_interest_fp"),
            None,
            number(message, "sid"),
            message.get("seq"),
            frame.data.decode(),
        ),
    )


def trade(frame: Frame, message: _Object) -> MarketEvent:
    """Return the row of a `trade`; its price is that of YES, its side the outcome that the taker took."""
    body = _body(message)
    price, size = _price(body, "yes_price_dollars"), _decimal(body, "count_fp")
    if price is None or size is None or _is_zero(size):
        raise BadMessageError("schema", "a trade without yes_price_dollars, or without a count_fp above zero")
    side = body.get("taker_outcome_side", body.get("taker_side"))  # the latter is the former's deprecated name
    if type(side) is not str or side not in {"yes", "no"}:
        raise BadMessageError("schema", "taker_outcome_side is neither yes nor no")
    return _event(
        frame,
        message,
        _millis(body, "ts_ms", frame),
        ticker=name(body, "market_ticker"),
        event_type="trade",
        market_id=_text(body, "market_id"),
        last_price=price,
        last_size=size,
        side=side,
        trade_id=name(body, "trade_id"),
    )


def lifecycle(frame: Frame, message: _Object) -> tuple[MarketEvent | MarketState, ...]:
    """Return the row of a `market_lifecycle_v2`, and what it says of the market where it says anything."""
    body = _body(message)
    word = body.get("event_type")
    if type(word) is not str or not _WORD(word):
        raise BadMessageError("schema", "event_type is not a word")
    about = {} if body.get("additional_metadata") is None else body["additional_metadata"]
    if not isinstance(about, dict):
        raise BadMessageError("schema", "additional_metadata is not an object")
    happened = _seconds(body, _HAPPENED[word]) if word in _HAPPENED else None
    moment = _not_future(frame.recv_ns // 1000 if happened is None else happened, frame)
    event = _event(
        frame,
        message,
        moment,
        ticker=name(body, "market_ticker"),
        event_ticker=_text(about, "event_ticker"),
        event_type=word,
    )
    exact = exactly(frame.data)["msg"].get("additional_metadata") or {}
    facts = {
        **_description(exact),
        "open_time": _seconds(body, "open_ts"),
        "close_time": _seconds(body, "close_ts"),
        "expected_expiration_time": _seconds(about, "expected_expiration_ts"),
        "settlement_time": _seconds(body, "settled_ts"),
        "result": _text(body, "result"),
    }
    if all(fact is None for fact in facts.values()):
        return (event,)
    shared = (moment, event.received_at, VENUE, str(event.ticker), frame.frame_no, 1)
    return event, MarketState(*shared, **facts, raw_json=event.raw_json)


def event_step(frame: Frame, message: _Object) -> MarketEvent:
    """Return the row of an `event_lifecycle` or `event_fee_update`, which is about an event and not a market."""
    body = _body(message)
    moment = frame.recv_ns // 1000
    return _event(
        frame, message, moment, ticker=None, event_ticker=name(body, "event_ticker"), event_type=message["type"]
    )


def index_print(frame: Frame, message: _Object) -> BtcPrice:
    """Return the row of a `cfbenchmarks_value`: the index as the market settles on it, once a second.

    `data` is what CF Benchmarks sent, as text: its time and value count, not the average that stands beside it.
    """
    body = _body(message)
    index = name(body, "index_id")
    try:
        inner = orjson.loads(body["data"])
        fits = inner["type"] == "value" and inner["id"] == index
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise BadMessageError("schema", "data is not the JSON text of a value of that index")
    price = _decimal(inner, "value")
    if price is None or _is_zero(price):
        raise BadMessageError("bounds", "the value is not a positive decimal string")
    times = (_millis(inner, "time", frame), frame.recv_ns // 1000)
    return BtcPrice(*times, INDEX_VENUE, index, price, None, None, None, None, None, frame.frame_no)


def markets(frame: Frame) -> tuple[MarketState, ...]:
    """Return a row for each market of an answer to `GET /markets`."""
    found = exactly(frame.data)["markets"]
    if not isinstance(found, list) or not all(isinstance(market, dict) for market in found):
        raise BadMessageError("schema", "markets is not a list of objects")
    return tuple(_market(frame, row_no, market) for row_no, market in enumerate(found))


def exactly(data: bytes) -> Any:  # noqa: ANN401  # any JSON value
    """Read JSON again with its numbers digit by digit."""
    try:
        return json.loads(data, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as exc:
        raise BadMessageError("json", repr(exc)[:200]) from None


def name(body: _Object, field: str) -> str:
    """Return a field that must be there: a name, in printable ASCII."""
    text = body.get(field)
    if type(text) is not str or not _NAME(text):
        raise BadMessageError("schema", f"{field} is not a name")
    return text


def number(message: _Object, field: str) -> int:
    """Return a field that must be there: a positive whole number."""
    value = message.get(field)
    if type(value) is not int or not 0 < value <= _MAX_NUMBER:
        raise BadMessageError("schema", f"{field} is not a positive 64-bit integer")
    return value


def _market(frame: Frame, row_no: int, market: _Object) -> MarketState:
    bid_size, ask_size = _decimal(market, "yes_bid_size_fp"), _decimal(market, "yes_ask_size_fp")
    bid, ask, no_bid, no_ask, last = (
        _price(market, f"{side}_dollars") for side in ("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price")
    )
    changed = _time(market, "updated_time")
    try:
        raw = orjson.dumps(market, default=lambda value: orjson.Fragment(str(value))).decode()
    except TypeError as exc:
        raise BadMessageError("schema", f"a market that cannot be written as JSON: {exc}") from None
    return MarketState(
        _not_future(frame.recv_ns // 1000 if changed is None else changed, frame),
        frame.recv_ns // 1000,
        VENUE,
        name(market, "ticker"),
        frame.frame_no,
        row_no,
        **_description(market),
        status=_text(market, "status"),
        open_time=_time(market, "open_time"),
        close_time=_time(market, "close_time"),
        expected_expiration_time=_time(market, "expected_expiration_time"),
        settlement_time=_time(market, "settlement_ts"),
        yes_bid=_bid(bid, bid_size),
        yes_ask=_ask(ask, ask_size),
        no_bid=_bid(no_bid, ask_size),
        no_ask=_ask(no_ask, bid_size),
        last_price=last,
        volume=_decimal(market, "volume_fp"),
        volume_24h=_decimal(market, "volume_24h_fp"),
        open_interest=_decimal(market, "open_interest_fp"),
        result=_text(market, "result"),
        expiration_value=_expiration_value(market),
        raw_json=raw,
    )


def _description(market: _Object) -> dict[str, Any]:
    """Return the columns that a REST answer and a lifecycle message name alike. A series is how its events begin."""
    event = _text(market, "event_ticker")
    return {
        "event_ticker": event,
        "series_ticker": event.partition("-")[0] if event else None,
        "title": _text(market, "title"),
        "subtitle": _text(market, "subtitle") or _text(market, "yes_sub_title"),
        "strike_type": _text(market, "strike_type"),
        "floor_strike": _strike(market, "floor_strike"),
        "cap_strike": _strike(market, "cap_strike"),
    }


def _event(frame: Frame, message: _Object, moment: Micros, **columns: Any) -> MarketEvent:  # noqa: ANN401  # as they are
    columns |= {"sid": number(message, "sid"), "seq": number(message, "seq"), "frame_no": frame.frame_no}
    return MarketEvent(moment, frame.recv_ns // 1000, VENUE, **columns, raw_json=frame.data.decode())


def _body(message: _Object) -> dict[str, Any]:
    body = message.get("msg")
    if not isinstance(body, dict):
        raise BadMessageError("schema", "msg is not an object")
    return body


def _text(body: _Object, field: str) -> str | None:
    text = body.get(field)
    if text is None or type(text) is str:
        return text or None
    raise BadMessageError("schema", f"{field} is not text")


def _decimal(body: _Object, field: str) -> str | None:
    text = body.get(field)
    if text is None or (type(text) is str and _DECIMAL(text)):
        return text
    raise BadMessageError("schema", f"{field} is not a decimal string")


def _price(body: _Object, field: str) -> str | None:
    text = _decimal(body, field)
    if text is None or _UP_TO_ONE(text):
        return text
    raise BadMessageError("bounds", f"{field} is not between 0 and 1 dollar")


def _strike(body: _Object, field: str) -> str | None:
    """Return a strike as plain digits, with as many decimals as it was sent with."""
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, Decimal):
        raise BadMessageError("schema", f"{field} is not a number")
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or abs(exponent) > _MAX_DIGITS or len(digits) > _MAX_DIGITS:
        raise BadMessageError("bounds", f"{field} has more than {_MAX_DIGITS} digits")
    return format(value, "f")


def _expiration_value(market: _Object) -> str | None:
    """Return what a market was settled on. Some come with thousands commas, and some markets' are words: no number."""
    plain = (_text(market, "expiration_value") or "").replace(",", "")
    return plain if _SIGNED(plain) else None


def _bid(price: str | None, size: str | None) -> str | None:
    """Return a bid; 0 for nothing is the venue's word for an empty side."""
    return None if price is None or (_is_zero(price) and (size is None or _is_zero(size))) else price


def _ask(price: str | None, size: str | None) -> str | None:
    """Return an ask; 1 for nothing is the venue's word for an empty side."""
    return None if price is None or (_mirrors_zero(price) and (size is None or _is_zero(size))) else price


@lru_cache(maxsize=4096)  # there are a hundred prices, or a thousand
def _mirror(price: str | None) -> str | None:
    """Return the same quote on the other outcome's scale, with as many decimals."""
    return None if price is None else format(_ONE - Decimal(price), "f")


def _mirrors_zero(price: str) -> bool:
    return _is_zero(_mirror(price) or "")


def _is_zero(text: str) -> bool:
    return not text.strip("0.")


def _millis(body: _Object, field: str, frame: Frame) -> Micros:
    value = number(body, field)
    if value > _LAST_S * 1000:
        raise BadMessageError("schema", f"{field} is not a time in milliseconds")
    return _not_future(value * 1000, frame)


def _seconds(body: _Object, field: str) -> Micros | None:
    value = body.get(field)
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= _LAST_S:
        raise BadMessageError("schema", f"{field} is not a time in seconds")
    return value * 1_000_000


def _time(body: _Object, field: str) -> Micros | None:
    text = _text(body, field)
    try:
        return None if text is None else micros(datetime.fromisoformat(text))
    except (TypeError, ValueError, OverflowError):
        raise BadMessageError("schema", f"{field} is not an RFC 3339 time with an offset") from None


def _not_future(moment: Micros, frame: Frame) -> Micros:
    if moment - frame.recv_ns // 1000 > FUTURE_LIMIT_US:
        raise BadMessageError("future", "the venue's time is more than an hour after the arrival")
    return moment
