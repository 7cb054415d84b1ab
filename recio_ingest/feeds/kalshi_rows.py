"""Kalshi's messages as rows: everything that one message says, and nothing that it does not.

Source: the venue's AsyncAPI document (`ticker`, `trade`, `market_lifecycle_v2`, `cfbenchmarks_value`) and its OpenAPI
document (`GET /markets`). A message has quotes of YES only: buying NO is selling YES, so `no_bid` is 1 - `yes_ask`, and
`no_ask` is 1 - `yes_bid`.

Every function raises BadMessageError for what has another shape.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.feeds.kalshi_fields import Object
from recio_ingest.records import BtcPrice, Frame, MarketEvent, MarketState, Micros, make

VENUE = "kalshi"
INDEX_VENUE = "cfbenchmarks"

_ONE = Decimal(1)
_HAPPENED = {"determined": "determination_ts", "settled": "settled_ts"}
"""The field that says when it happened; the other times in a lifecycle message are plans."""


def ticker(frame: Frame, message: Object) -> MarketEvent:
    """Return the row of a `ticker`."""
    body = fields.body(message)
    moment = fields.millis(body, "ts_ms", frame)
    bid, ask, last = (fields.price(body, f"{name}_dollars") for name in ("yes_bid", "yes_ask", "price"))
    if bid is ask is last is None:
        raise BadMessageError("schema", "a ticker without any price in dollars")
    bid_size, ask_size = fields.decimal(body, "yes_bid_size_fp"), fields.decimal(body, "yes_ask_size_fp")
    bid, ask = _bid(bid, bid_size), _ask(ask, ask_size)
    return make(
        MarketEvent,
        (
            moment,
            frame.recv_ns // 1000,
            VENUE,
            fields.name(body, "market_ticker"),
            "ticker",
            frame.frame_no,
            0,
            None,
            fields.text(body, "market_id"),
            bid,
            bid_size,
            ask,
            ask_size,
            _mirror(ask),
            _mirror(bid),
            last,
            fields.decimal(body, "last_trade_size_fp"),
            None,
            fields.decimal(body, "volume_fp"),
            fields.decimal(body, "open_interest_fp"),
            None,
            fields.number(message, "sid"),
            message.get("seq"),
            frame.data.decode(),
        ),
    )


def trade(frame: Frame, message: Object) -> MarketEvent:
    """Return the row of a `trade`; its price is that of YES, its side the outcome that the taker took."""
    body = fields.body(message)
    price, size = fields.price(body, "yes_price_dollars"), fields.decimal(body, "count_fp")
    if price is None or size is None or fields.is_zero(size):
        raise BadMessageError("schema", "a trade without yes_price_dollars, or without a count_fp above zero")
    side = body.get("taker_outcome_side", body.get("taker_side"))  # the latter is the former's deprecated name
    if type(side) is not str or side not in {"yes", "no"}:
        raise BadMessageError("schema", "taker_outcome_side is neither yes nor no")
    return _event(
        frame,
        message,
        fields.millis(body, "ts_ms", frame),
        ticker=fields.name(body, "market_ticker"),
        event_type="trade",
        market_id=fields.text(body, "market_id"),
        last_price=price,
        last_size=size,
        side=side,
        trade_id=fields.name(body, "trade_id"),
    )


def lifecycle(frame: Frame, message: Object) -> tuple[MarketEvent | MarketState, ...]:
    """Return the row of a `market_lifecycle_v2`, and what it says of the market where it says anything."""
    body = fields.body(message)
    word = fields.word(body, "event_type")
    about = {} if body.get("additional_metadata") is None else body["additional_metadata"]
    if not isinstance(about, dict):
        raise BadMessageError("schema", "additional_metadata is not an object")
    happened = fields.seconds(body, _HAPPENED[word]) if word in _HAPPENED else None
    moment = fields.not_future(frame.recv_ns // 1000 if happened is None else happened, frame)
    event = _event(
        frame,
        message,
        moment,
        ticker=fields.name(body, "market_ticker"),
        event_ticker=fields.text(about, "event_ticker"),
        event_type=word,
    )
    exact = fields.exactly(frame.data)["msg"].get("additional_metadata") or {}
    facts = {
        **_description(exact),
        "open_time": fields.seconds(body, "open_ts"),
        "close_time": fields.seconds(body, "close_ts"),
        "expected_expiration_time": fields.seconds(about, "expected_expiration_ts"),
        "settlement_time": fields.seconds(body, "settled_ts"),
        "result": fields.text(body, "result"),
    }
    if all(fact is None for fact in facts.values()):
        return (event,)
    shared = (moment, event.received_at, VENUE, str(event.ticker), frame.frame_no, 1)
    return event, MarketState(*shared, **facts, raw_json=event.raw_json)


def event_step(frame: Frame, message: Object) -> MarketEvent:
    """Return the row of an `event_lifecycle` or `event_fee_update`, which is about an event and not a market."""
    body = fields.body(message)
    moment = frame.recv_ns // 1000
    return _event(
        frame, message, moment, ticker=None, event_ticker=fields.name(body, "event_ticker"), event_type=message["type"]
    )


def index_print(frame: Frame, message: Object) -> BtcPrice:
    """Return the row of a `cfbenchmarks_value`: the index as the market settles on it, once a second.

    `data` is what CF Benchmarks sent, as text: its time and value count, not the average that stands beside it.
    """
    body = fields.body(message)
    index = fields.name(body, "index_id")
    try:
        inner = orjson.loads(body["data"])
        fits = inner["type"] == "value" and inner["id"] == index
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise BadMessageError("schema", "data is not the JSON text of a value of that index")
    price = fields.decimal(inner, "value")
    if price is None or fields.is_zero(price):
        raise BadMessageError("bounds", "the value is not a positive decimal string")
    times = (fields.millis(inner, "time", frame), frame.recv_ns // 1000)
    return BtcPrice(*times, INDEX_VENUE, index, price, None, None, None, None, None, frame.frame_no)


def markets(frame: Frame) -> tuple[MarketState, ...]:
    """Return a row for each market of an answer to `GET /markets`."""
    found = fields.exactly(frame.data)["markets"]
    if not isinstance(found, list) or not all(isinstance(market, dict) for market in found):
        raise BadMessageError("schema", "markets is not a list of objects")
    return tuple(_market(frame, row_no, market) for row_no, market in enumerate(found))


def _market(frame: Frame, row_no: int, market: Object) -> MarketState:
    bid_size, ask_size = fields.decimal(market, "yes_bid_size_fp"), fields.decimal(market, "yes_ask_size_fp")
    bid, ask, no_bid, no_ask, last = (
        fields.price(market, f"{side}_dollars") for side in ("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price")
    )
    changed = fields.time(market, "updated_time")
    try:
        raw = orjson.dumps(market, default=lambda value: orjson.Fragment(str(value))).decode()
    except TypeError as exc:
        raise BadMessageError("schema", f"a market that cannot be written as JSON: {exc}") from None
    return MarketState(
        fields.not_future(frame.recv_ns // 1000 if changed is None else changed, frame),
        frame.recv_ns // 1000,
        VENUE,
        fields.name(market, "ticker"),
        frame.frame_no,
        row_no,
        **_description(market),
        status=fields.text(market, "status"),
        open_time=fields.time(market, "open_time"),
        close_time=fields.time(market, "close_time"),
        expected_expiration_time=fields.time(market, "expected_expiration_time"),
        settlement_time=fields.time(market, "settlement_ts"),
        yes_bid=_bid(bid, bid_size),
        yes_ask=_ask(ask, ask_size),
        no_bid=_bid(no_bid, ask_size),
        no_ask=_ask(no_ask, bid_size),
        last_price=last,
        volume=fields.decimal(market, "volume_fp"),
        volume_24h=fields.decimal(market, "volume_24h_fp"),
        open_interest=fields.decimal(market, "open_interest_fp"),
        result=fields.text(market, "result"),
        expiration_value=fields.expiration_value(market),
        raw_json=raw,
    )


def _description(market: Object) -> dict[str, Any]:
    """Return the columns that a REST answer and a lifecycle message name alike. A series is how its events begin."""
    event = fields.text(market, "event_ticker")
    return {
        "event_ticker": event,
        "series_ticker": event.partition("-")[0] if event else None,
        "title": fields.text(market, "title"),
        "subtitle": fields.text(market, "subtitle") or fields.text(market, "yes_sub_title"),
        "strike_type": fields.text(market, "strike_type"),
        "floor_strike": fields.strike(market, "floor_strike"),
        "cap_strike": fields.strike(market, "cap_strike"),
    }


def _event(frame: Frame, message: Object, moment: Micros, **columns: Any) -> MarketEvent:  # noqa: ANN401  # as they are
    columns |= {"sid": fields.number(message, "sid"), "seq": fields.number(message, "seq"), "frame_no": frame.frame_no}
    return MarketEvent(moment, frame.recv_ns // 1000, VENUE, **columns, raw_json=frame.data.decode())


def _bid(price: str | None, size: str | None) -> str | None:
    """Return a bid; 0 for nothing is the venue's word for an empty side."""
    return None if price is None or (fields.is_zero(price) and (size is None or fields.is_zero(size))) else price


def _ask(price: str | None, size: str | None) -> str | None:
    """Return an ask; 1 for nothing is the venue's word for an empty side."""
    return None if price is None or (_mirrors_zero(price) and (size is None or fields.is_zero(size))) else price


@lru_cache(maxsize=4096)  # there are a hundred prices, or a thousand
def _mirror(price: str | None) -> str | None:
    """Return the same quote on the other outcome's scale, with as many decimals."""
    return None if price is None else format(_ONE - Decimal(price), "f")


def _mirrors_zero(price: str) -> bool:
    return fields.is_zero(_mirror(price) or "")
