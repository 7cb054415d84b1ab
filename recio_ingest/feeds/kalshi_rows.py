"""Kalshi's messages as rows: everything that one message says, and nothing that it does not.

Source: the venue's AsyncAPI document (`ticker`, `trade`, `market_lifecycle_v2`, `cfbenchmarks_value`) and its OpenAPI
document (`GET /markets`). A message has quotes of YES only: buying NO is selling YES, so `no_bid` is 1 - `yes_ask`, and
`no_ask` is 1 - `yes_bid`.

Every function raises BadMessageError for what has another shape.
"""

from __future__ import annotations

from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.feeds import kalshi_quotes as quotes
from recio_ingest.feeds.kalshi_answers import description
from recio_ingest.feeds.kalshi_fields import Object
from recio_ingest.records import BtcPrice, Frame, MarketEvent, MarketState, Micros, SpotSource, make
from recio_ingest.settlement import Rule

INDEX_VENUE = "cfbenchmarks"
# The price that the markets settle on. It comes once a second; five without one are an outage of it.
SPOT = SpotSource(INDEX_VENUE, "BRTI", "BRTI", rank=0, within_us=5_000_000)
# Other series are settled on other indexes, or on a trimmed mean.
RULE = Rule(
    fields.VENUE, ("KXBTCD", "KXBTC", "KXBTC15M"), INDEX_VENUE, "BRTI", feed=fields.VENUE, channel="cfbenchmarks_value"
)

_HAPPENED = {"determined": "determination_ts", "settled": "settled_ts"}
"""The field that says when it happened; the other times in a lifecycle message are plans."""


def ticker(frame: Frame, message: Object) -> MarketEvent:
    """Return the row of a `ticker`."""
    body = fields.body(message)
    moment = fields.millis(body, "ts_ms", frame)
    bid, ask = fields.price(body, "yes_bid_dollars"), fields.price(body, "yes_ask_dollars")
    last = fields.price(body, "price_dollars")
    if bid is ask is last is None:
        raise BadMessageError("schema", "a ticker without any price in dollars")
    bid_size, ask_size = fields.decimal(body, "yes_bid_size_fp"), fields.decimal(body, "yes_ask_size_fp")
    bid, ask = quotes.bid(bid, bid_size), quotes.ask(ask, ask_size)
    return make(
        MarketEvent,
        (
            moment,
            frame.recv_ns // 1000,
            fields.VENUE,
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
            quotes.mirror(ask),
            quotes.mirror(bid),
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
        **description(exact),
        "open_time": fields.seconds(body, "open_ts"),
        "close_time": fields.seconds(body, "close_ts"),
        "expected_expiration_time": fields.seconds(about, "expected_expiration_ts"),
        "settlement_time": fields.seconds(body, "settled_ts"),
        "result": fields.text(body, "result"),
    }
    if all(fact is None for fact in facts.values()):
        return (event,)
    shared = (moment, event.received_at, fields.VENUE, str(event.ticker), frame.frame_no, 1)
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


def _event(frame: Frame, message: Object, moment: Micros, **columns: Any) -> MarketEvent:  # noqa: ANN401  # as they are
    columns |= {"sid": fields.number(message, "sid"), "seq": fields.number(message, "seq"), "frame_no": frame.frame_no}
    return MarketEvent(moment, frame.recv_ns // 1000, fields.VENUE, **columns, raw_json=frame.data.decode())
