"""Coinbase Exchange: `matches`, `ticker` and `heartbeat` of any list of products.

Source: the venue's pages "Exchange WebSocket overview", "channels" and "rate limits". What they say, in short:
subscribe within 5 s; `subscriptions` lists everything held; `side` of a match is the MAKER's; `trade_id` rises by one
per product; `sequence` rises but is not contiguous; messages may be dropped; more types may come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Feed, Recalled, repair
from recio_ingest.feeds.coinbase_repair import CoinbaseRepair
from recio_ingest.feeds.coinbase_session import CHANNELS, CoinbaseSession
from recio_ingest.feeds.ledger import TradeIds
from recio_ingest.feeds.outage import WHOLE, Outage
from recio_ingest.records import (
    BtcPrice,
    Decoded,
    Frame,
    Gap,
    Kind,
    Micros,
    Outcome,
    SpotSource,
    is_repair,
    make,
    micros,
)
from recio_ingest.settings import Coinbase

NAME = "coinbase"
RECALL = ()
# Bitcoin trades every second: after a minute without a trade it is the line that is gone, and the price with it.
SPOTS = (SpotSource(NAME, "BTC-USD", NAME, rank=1, within_us=60_000_000),)
RULES = ()

# The heartbeat comes every second, so ten seconds of nothing at all are ten missed ones.
IDLE_TIMEOUT_S = 10.0
# A hostile or broken venue must not grow the state without end; the real one trades some 500 products.
MAX_PRODUCTS = 1000
FUTURE_LIMIT_US = 3_600_000_000

_TAKER = {"buy": "sell", "sell": "buy"}
_POSITIVE = re.compile(r"(?=[0-9.]*[1-9])[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_PRODUCT = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}")
_NO_TIME = "0001-01-01T00:00:00.000000Z"
_MAX_TRADE_ID = 2**63 - 1
_NO_BOOK = (None, None)
_UNDERIVED = (None,) * 8
# To find a member in its class takes 0.1 us in Python 3.11, and every frame would do so two or three times.
_DATA, _SHIPPED, _STATE = Kind.DATA, Outcome.SHIPPED, Outcome.STATE


def feed(settings: Coinbase) -> Feed:
    """Return the live stream of the configured products."""
    products = list(settings.products)
    return Feed(
        name=NAME,
        url=settings.url,
        idle_timeout_s=IDLE_TIMEOUT_S,
        describe={"products": products, "channels": list(CHANNELS)},
        converse=lambda: CoinbaseSession(products),
        rest_url=settings.rest_url,
        repair=CoinbaseRepair(),
        proxy=settings.proxy,
    )


class CoinbaseParser:
    """Remembers, per product, the trade ids seen and the best bid and ask; and whether the line is up."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._outage = Outage(NAME, state.get("line", {}))
        products: Mapping[str, Any] = state.get("products", {})
        self._ids = {name: TradeIds(NAME, "matches", name, kept["ids"]) for name, kept in products.items()}
        self._book: dict[str, tuple[str | None, str | None]] = {n: tuple(kept["book"]) for n, kept in products.items()}
        self._types = {
            "match": self._match,
            "last_match": self._match,
            "ticker": self._ticker,
            "heartbeat": self._heartbeat,
            "subscriptions": self._subscriptions,
            "error": self._error,
        }

    def state(self) -> dict[str, Any]:
        """Return the ids, books and line as plain JSON."""
        products = {
            name: {"ids": ids.state(), "book": list(self._book.get(name, _NO_BOOK))} for name, ids in self._ids.items()
        }
        return {"line": self._outage.state(), "products": products}

    def decode(self, frame: Frame) -> Decoded:
        """Return what the frame gives."""
        if frame.kind != _DATA:
            return Decoded(Outcome.CONTROL, self._mark(frame))
        try:
            message = orjson.loads(frame.data)
        except orjson.JSONDecodeError as exc:
            raise BadMessageError("json", str(exc)) from None
        try:
            handler = self._types[message["type"]]
        except (KeyError, TypeError):
            if is_repair(frame):
                return self._repair(frame)
            raise BadMessageError("unknown_type", "no table for a message of this type") from None
        decoded = handler(frame, message)
        ended = self._outage.seen(frame, WHOLE, decoded[2])
        return decoded._replace(rows=decoded.rows + ended) if ended else decoded

    def _mark(self, frame: Frame) -> tuple[Gap, ...]:
        if frame.kind in (Kind.CONNECTED, Kind.DISCONNECTED, Kind.LOST):
            self._book.clear()  # an outage may be of hours: what the next tickers say is not known yet
        # The numbers of the trades say what was in the frames that are lost.
        return () if frame.kind == Kind.LOST else self._outage.mark(frame)

    def _match(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        moment, trade_id, price, size, side = _trade(message, frame)
        symbol, ids = self._product(message)
        new, gaps = ids.see(trade_id, frame)
        if not new:
            return Decoded(Outcome.DUPLICATE, (), moment)
        quote = self._book.get(symbol, _NO_BOOK)
        columns = (moment, frame.recv_ns // 1000, NAME, symbol, price, size, side, trade_id, *quote, frame.frame_no, 0)
        row = make(BtcPrice, (*columns, *_UNDERIVED))
        return make(Decoded, (_SHIPPED, (row, *gaps), moment))

    def _repair(self, frame: Frame) -> Decoded:
        """Make rows of trades that were asked for again: what held when they were made, nobody knows."""
        answer = repair.read(frame)
        ids = self._ids.get(answer.part)
        if not _PRODUCT.fullmatch(answer.part) or answer.numbers is None:
            raise BadMessageError("schema", "an answer for a gap without a product or numbers")
        first, last = answer.numbers

        def take(place: int, message: Any) -> tuple[BtcPrice | Gap, ...]:  # noqa: ANN401  # any JSON value
            if not isinstance(message, dict):
                raise BadMessageError("schema", "a trade is not an object")
            moment, trade_id, price, size, side = _trade(message, frame)
            if not first <= trade_id <= last:
                return ()  # a page may go on past what was asked for
            new, gaps = (True, ()) if ids is None else ids.fill(trade_id, frame)
            columns = (NAME, answer.part, price, size, side, trade_id, *_NO_BOOK, frame.frame_no, place)
            return (BtcPrice(moment, frame.recv_ns // 1000, *columns), *gaps) if new else ()

        return repair.decode(frame, answer, take, counted=ids is not None and ids.counts(answer.gap[0]))

    def _ticker(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        try:
            book = (_quote(message["best_bid"]), _quote(message["best_ask"]))
        except (KeyError, TypeError, ValueError):
            raise BadMessageError("schema", "best_bid or best_ask is not a decimal string") from None
        # The first ticker after a subscription may lack its time; the venue also sends the year 1 for "none".
        late = message.get("time") in (None, _NO_TIME)
        moment = frame.recv_ns // 1000 if late else _time(message, frame)
        symbol, _ = self._product(message)
        self._book[symbol] = book
        return make(Decoded, (_STATE, (), moment))

    def _heartbeat(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        moment = _time(message, frame)
        _, ids = self._product(message)
        last = message.get("last_trade_id")
        # For long spells some products' heartbeats have said 0: that is no id.
        gaps = ids.claim(last, frame) if type(last) is int and 0 < last <= _MAX_TRADE_ID else ()
        return Decoded(Outcome.STATE, gaps, moment)

    def _subscriptions(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        """Take in all that is held: without its tickers a product's book would stand still."""
        del frame
        try:
            held = {name for each in message["channels"] if each["name"] == "ticker" for name in each["product_ids"]}
        except (KeyError, TypeError):
            return Decoded(Outcome.STATE)  # an answer of another shape says nothing about the books
        self._book = {name: book for name, book in self._book.items() if name in held}
        return Decoded(Outcome.STATE)

    def _error(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        del frame, message
        return Decoded(Outcome.STATE)

    def _product(self, message: dict[str, Any]) -> tuple[str, TradeIds]:
        symbol = message.get("product_id")
        ids = self._ids.get(symbol) if isinstance(symbol, str) else None
        if ids is not None:
            return symbol, ids  # type: ignore[return-value]  # found, so it is a str
        if not isinstance(symbol, str) or not _PRODUCT.fullmatch(symbol):
            raise BadMessageError("schema", "product_id is not a product's name")
        if len(self._ids) >= MAX_PRODUCTS:
            raise BadMessageError("bounds", f"more than {MAX_PRODUCTS} products")
        ids = self._ids[symbol] = TradeIds(NAME, "matches", symbol, {})
        return symbol, ids


def _trade(message: dict[str, Any], frame: Frame) -> tuple[Micros, int, str, str, str]:
    """Return time, id, price, size and the taker's side of a trade, by socket or by REST."""
    moment = _time(message, frame)
    trade_id = message.get("trade_id")
    if type(trade_id) is not int or not 0 < trade_id <= _MAX_TRADE_ID:
        raise BadMessageError("schema", "trade_id is not a positive 64-bit integer")
    price, size = message.get("price"), message.get("size")
    if not (type(price) is str and type(size) is str and _is_price(price) and _POSITIVE(size)):
        raise BadMessageError("bounds", "price or size is not a positive decimal string")
    side = message.get("side")
    if type(side) is not str or side not in _TAKER:
        raise BadMessageError("schema", "side is neither buy nor sell")
    return moment, trade_id, price, size, _TAKER[side]


@lru_cache(maxsize=4096)  # prices repeat, sizes do not
def _is_price(text: str) -> bool:
    return _POSITIVE(text) is not None


@lru_cache(maxsize=4096)  # quotes repeat: most tickers move one side, by a cent
def _quote(text: str) -> str | None:
    """Return a side of the book; a zero is the venue's word for an empty one: no quote, not a price."""
    if not _DECIMAL(text):
        raise ValueError(text)
    return text if _POSITIVE(text) else None


def _time(message: dict[str, Any], frame: Frame) -> Micros:
    moment = venue_time(message)
    if moment is None:
        raise BadMessageError("schema", "time is missing, or not an RFC 3339 time with an offset")
    if moment - frame.recv_ns // 1000 > FUTURE_LIMIT_US:
        raise BadMessageError("future", "time is more than an hour after the arrival")
    return moment


def venue_time(message: Any) -> Micros | None:  # noqa: ANN401  # any JSON value
    """Return the venue's own time of a message, where it has one."""
    try:
        return micros(datetime.fromisoformat(message["time"]))
    except (KeyError, TypeError, ValueError):  # no dict, no such key, no text, no time, or one without an offset
        return None


def recognises(message: Any) -> bool:  # noqa: ANN401  # any JSON value
    """Tell whether a message has this venue's shape: a `type`, and no `msg` or `sid` beside it.

    An answer for a gap is this venue's where numbers were asked for.
    """
    if (answered := repair.head(message)) is not None:
        return answered["numbers"] is not None
    return isinstance(message, dict) and "type" in message and not message.keys() & {"msg", "sid", "channel"}


def parser(state: Mapping[str, Any], recalled: Recalled) -> CoinbaseParser:
    """Return a parser that goes on from a committed state, which is all that it needs."""
    del recalled
    return CoinbaseParser(state)
