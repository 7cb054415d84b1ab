"""Kalshi's answers to `GET /markets` as rows: what each market is, how it stands, and its quote.

Source: the venue's OpenAPI document. Every function raises BadMessageError for what has another shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.feeds import kalshi_quotes as quotes
from recio_ingest.feeds.kalshi_fields import Object
from recio_ingest.feeds.ledger import Latest
from recio_ingest.records import Frame, Kind, MarketEvent, MarketState, Micros, Outcome, Quarantined, Row

# A market gives two rows at most, its description and its quote, which must differ in their `row_no`.
ROWS = 2


# How many rows are looked back on, of descriptions and of quotes: a day of hourly events has some 5,000 markets, with
# four descriptions each. The statements give back exactly as many.
MAX_ROWS = 20_000
# How many answers with an odd market in them. They lie in the quarantine, and may be of a megabyte each.
MAX_REFUSED = 20
_NAME_AT_MOST = 100


class Listed(NamedTuple):
    """One market of an answer, and its place in it."""

    place: int
    market: Any


class Refused(NamedTuple):
    """One that is of no use, and why."""

    listed: Listed
    why: BadMessageError


class Answers:
    """Remembers of each market how it was last described and quoted: only what changes is a row."""

    def __init__(
        self,
        states: Iterable[Sequence[Any]] = (),
        quoted: Iterable[Sequence[Any]] = (),
        refused: Iterable[Sequence[Any]] = (),
    ) -> None:
        """Begin with what the tables hold: rows' ages, names, and the columns of `_described` or `_quoted`.

        Of those put aside, the oldest first: frame number, arrival, and the quarantine's bytes.
        """
        self._states = Latest(MAX_ROWS, ((age, name, tuple(kept)) for age, name, *kept in states))
        self._quotes = Latest(MAX_ROWS, ((age, name, tuple(kept)) for age, name, *kept in quoted))
        self._refused = {frame_no: _refused_in(frame_no, *kept) for frame_no, *kept in refused}

    def refused(self) -> list[int]:
        """Return which frames were put aside for an odd market, as far as they are remembered."""
        return list(self._refused)

    def take(self, frame: Frame, *, quoted: bool) -> tuple[Outcome, tuple[Row | Quarantined, ...]]:
        """Take an answer in; its quotes are of use where no subscription brings them (`quoted`)."""
        found: list[Row | Quarantined] = []
        bad: list[Refused] = []
        for entry in listed(frame):
            try:
                row, offer = _rows(frame, entry)
            except BadMessageError as exc:
                bad.append(Refused(entry, exc))
                continue
            if self._states.changes(row.ticker, _described(row)):
                found.append(row)
            if not quoted and row.status == "active" and self._quotes.changes(row.ticker, _quoted(offer)):
                found.append(offer)
        # The same odd market comes with every answer: it is put aside once, and again when it changes.
        if bad := [entry for entry in bad if self._is_news(frame, entry.listed)]:
            return Outcome.QUARANTINED, (*found, refused(frame, bad))
        return Outcome.SHIPPED if found else Outcome.STATE, tuple(found)

    def _is_news(self, frame: Frame, entry: Listed) -> bool:
        name, told = _odd(entry)
        known = next((names[name] for names in reversed(self._refused.values()) if name in names), None)
        if known == told:
            return False
        self._refused.setdefault(frame.frame_no, {})[name] = told
        if len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        return True


def _rows(frame: Frame, entry: Listed) -> tuple[MarketState, MarketEvent]:
    row = state(frame, entry)
    return row, quote(row, entry)


def _refused_in(frame_no: int, received_at: Micros, data: bytes) -> dict[str, str]:
    """Return the odd markets of an answer, out of what the quarantine has of it."""
    frame = Frame(frame_no, received_at * 1000, fields.VENUE, Kind.DATA, data)
    odd: dict[str, str] = {}
    with suppress(BadMessageError):  # of a file of messages that has the same number
        for entry in listed(frame):
            try:
                _rows(frame, entry)
            except BadMessageError:
                name, told = _odd(entry)
                odd[name] = told
    return odd


def listed(frame: Frame) -> Iterator[Listed]:
    """Yield the markets of an answer; those out of the quarantine remember their places in the one they came with."""
    answer = fields.exactly(frame.data)
    answer = answer.get("answer", answer)  # one for a gap is wrapped
    markets, places = (answer.get(key) if isinstance(answer, dict) else None for key in ("markets", "places"))
    if not isinstance(markets, list):
        raise BadMessageError("schema", "markets is not a list")
    if places is None:
        places = range(len(markets))
    elif not (isinstance(places, list) and len(places) == len(markets) and all(map(_is_place, places))):
        raise BadMessageError("schema", "places is not a list of one small number a market")
    return (Listed(int(place), market) for place, market in zip(places, markets, strict=True))


def state(frame: Frame, entry: Listed) -> MarketState:
    """Return the row of one market."""
    place, market = entry
    if not isinstance(market, dict):
        raise BadMessageError("schema", "a market is not an object")
    bid_size, ask_size = fields.decimal(market, "yes_bid_size_fp"), fields.decimal(market, "yes_ask_size_fp")
    bid, ask, no_bid, no_ask, last = (
        fields.price(market, f"{side}_dollars") for side in ("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price")
    )
    changed = fields.time(market, "updated_time")
    return MarketState(
        fields.not_future(frame.recv_ns // 1000 if changed is None else changed, frame),
        frame.recv_ns // 1000,
        fields.VENUE,
        fields.name(market, "ticker"),
        frame.frame_no,
        place * ROWS,
        **description(market),
        status=fields.word(market, "status"),
        open_time=fields.time(market, "open_time"),
        close_time=fields.time(market, "close_time"),
        expected_expiration_time=fields.time(market, "expected_expiration_time"),
        settlement_time=fields.time(market, "settlement_ts"),
        yes_bid=quotes.bid(bid, bid_size),
        yes_ask=quotes.ask(ask, ask_size),
        no_bid=quotes.bid(no_bid, ask_size),
        no_ask=quotes.ask(no_ask, bid_size),
        last_price=last,
        volume=fields.decimal(market, "volume_fp"),
        volume_24h=fields.decimal(market, "volume_24h_fp"),
        open_interest=fields.decimal(market, "open_interest_fp"),
        result=fields.text(market, "result"),
        expiration_value=fields.expiration_value(market),
        raw_json=_raw(market),
    )


def quote(row: MarketState, entry: Listed) -> MarketEvent:
    """Return the quote of one market, of which the venue does not say when it was made: the arrival stands in."""
    return MarketEvent(
        row.received_at,
        row.received_at,
        row.venue,
        row.ticker,
        "rest_quote",
        row.frame_no,
        row.row_no + 1,
        event_ticker=row.event_ticker,
        yes_bid=row.yes_bid,
        yes_bid_size=fields.decimal(entry.market, "yes_bid_size_fp"),
        yes_ask=row.yes_ask,
        yes_ask_size=fields.decimal(entry.market, "yes_ask_size_fp"),
        no_bid=row.no_bid,
        no_ask=row.no_ask,
        last_price=row.last_price,
        volume=row.volume,
        open_interest=row.open_interest,
    )


def refused(frame: Frame, bad: Sequence[Refused]) -> Quarantined:
    """Return one entry of the quarantine for all markets of an answer that are of no use."""
    try:
        text = ",".join(_raw(entry.listed.market) for entry in bad)
        data = f'{{"places":{[entry.listed.place for entry in bad]},"markets":[{text}]}}'.encode()
    except BadMessageError:
        data = frame.data
    first = bad[0].why
    detail = f"{len(bad)} of the markets; the first: {first}"
    return Quarantined(frame.frame_no, 0, frame.feed, frame.recv_ns // 1000, first.reason, detail, data)


def description(market: Object) -> dict[str, Any]:
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


def _is_place(value: Any) -> bool:  # noqa: ANN401  # any JSON value
    return isinstance(value, Decimal) and value in range(10_000)


def _raw(market: Any) -> str:  # noqa: ANN401  # any JSON value
    """Write a market as it was sent, its numbers digit by digit."""
    try:
        return orjson.dumps(market, default=lambda value: orjson.Fragment(str(value))).decode()
    except TypeError as exc:
        raise BadMessageError("schema", f"a market that cannot be written as JSON: {exc}") from None


def _described(row: MarketState) -> tuple[Any, ...]:
    """Return what makes a new row of `market_data`, in the order of columns of `kalshi_states`."""
    return (
        row.event_ticker,
        row.title,
        row.subtitle,
        row.status,
        row.strike_type,
        row.floor_strike,
        row.cap_strike,
        row.open_time,
        row.close_time,
        row.expected_expiration_time,
        row.settlement_time,
        row.result,
        row.expiration_value,
    )


def _quoted(row: MarketEvent) -> tuple[Any, ...]:
    """Return what makes a new `rest_quote`, in the order of columns of `kalshi_quotes`."""
    return (
        row.yes_bid,
        row.yes_bid_size,
        row.yes_ask,
        row.yes_ask_size,
        row.last_price,
        row.volume,
        row.open_interest,
    )


def _odd(entry: Listed) -> tuple[str, str]:
    """Return what an odd market is known by (its place, where it has no name) and what tells all that it says apart.

    Not what it says itself: it may be of any length, and thousands of them are remembered.
    """
    place, market = entry
    name = str(market.get("ticker", place)) if isinstance(market, dict) else str(place)
    return name[:_NAME_AT_MOST], blake2b(repr(market).encode(), digest_size=16).hexdigest()
