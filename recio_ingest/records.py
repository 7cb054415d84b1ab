"""The words of the program: a frame, the rows that it gives, and the batch that carries them to the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_2000_US = 946_684_800_000_000
"""Where PostgreSQL begins to count."""

Micros = int
"""A time: microseconds since 1970, UTC, as PostgreSQL keeps them.

An aware `datetime` in its place costs 2.5 us a row (making it, and asyncpg's way of encoding it), a sixth of all that
the program does with a frame.
"""

Packed = bytes
"""A number in PostgreSQL's binary form (`numeric.pack`), for what is computed and only stored.

Text in its place costs 2 us a number, and a price has eight of them, whose texts hardly repeat.
"""

make = tuple.__new__
"""Makes a named tuple out of a tuple: what its own constructor does, at half the price. For the path of every frame."""

LIVE_STREAM = "live"
COMPLETE, STATE = "complete", "state"
"""How the answers to a gap end, where the venue has told all that it has of it."""
DAEMON_FEED = "daemon"
"""The feed name of frames that belong to no venue: ticks, and what the spool has to say about itself."""


class Kind(IntEnum):
    """What a frame is; the number is stored in the spool and never changes its meaning."""

    DATA = 0
    """One websocket message, as it came."""
    CONNECTED = 1
    """JSON: the products or series of the connection that begins."""
    DISCONNECTED = 2
    """JSON: `cause`, why the connection ended."""
    TICK = 3
    """One a second, so that what depends on time depends on frames alone."""
    PAUSED = 4
    """JSON: `cause`, why the socket is not read for now."""
    RESUMED = 5
    """The socket is read again."""
    LOST = 6
    """JSON: `from_no`, `to_no`, `cause`: frames that the spool no longer has. Made on reading, never stored."""


class Frame(NamedTuple):
    """One websocket message with its arrival time, or a control mark in the same stream.

    `frame_no` only grows over the life of an installation; `recv_ns` is UTC, in nanoseconds since 1970.
    """

    frame_no: int
    recv_ns: int
    feed: str
    kind: int
    data: bytes


class Outcome(StrEnum):
    """What became of a frame: exactly one of these, for every frame."""

    SHIPPED = "shipped"
    STATE = "state"
    DUPLICATE = "duplicate"
    CONTROL = "control"
    QUARANTINED = "quarantined"


class BtcPrice(NamedTuple):
    """One trade as its venue reported it; prices and sizes keep the venue's decimals (text, exact).

    `side` is the taker's. `best_bid` and `best_ask` are those that held when the trade arrived. What follows `row_no`
    is derived from the rows that arrived earlier (`momentum`); a parser leaves it None.
    """

    timestamp: Micros
    received_at: Micros
    venue: str
    symbol: str
    price: str
    size: str | None
    side: str | None
    trade_id: int | None
    best_bid: str | None
    best_ask: str | None
    frame_no: int
    row_no: int = 0
    one_minute_avg: Packed | None = None
    momentum: Packed | None = None
    delta_1m: Packed | None = None
    delta_2m: Packed | None = None
    delta_3m: Packed | None = None
    delta_4m: Packed | None = None
    delta_15m: Packed | None = None
    delta_30m: Packed | None = None


class MarketEvent(NamedTuple):
    """One message about a prediction market: a quote, a trade, or a step of its life. Numbers are the venue's text.

    `side` is the outcome that the taker took; `sid` and `seq` are the subscription and the message's number in it.
    """

    timestamp: Micros
    received_at: Micros
    venue: str
    ticker: str | None
    event_type: str
    frame_no: int
    row_no: int = 0
    event_ticker: str | None = None
    market_id: str | None = None
    yes_bid: str | None = None
    yes_bid_size: str | None = None
    yes_ask: str | None = None
    yes_ask_size: str | None = None
    no_bid: str | None = None
    no_ask: str | None = None
    last_price: str | None = None
    last_size: str | None = None
    side: str | None = None
    volume: str | None = None
    open_interest: str | None = None
    trade_id: str | None = None
    sid: int | None = None
    seq: int | None = None
    raw_json: str | None = None


class MarketState(NamedTuple):
    """What a prediction market is and how it stands, as far as one message says so."""

    timestamp: Micros
    received_at: Micros
    venue: str
    ticker: str
    frame_no: int
    row_no: int = 0
    event_ticker: str | None = None
    series_ticker: str | None = None
    title: str | None = None
    subtitle: str | None = None
    status: str | None = None
    strike_type: str | None = None
    floor_strike: str | None = None
    cap_strike: str | None = None
    open_time: Micros | None = None
    close_time: Micros | None = None
    expected_expiration_time: Micros | None = None
    settlement_time: Micros | None = None
    yes_bid: str | None = None
    yes_ask: str | None = None
    no_bid: str | None = None
    no_ask: str | None = None
    last_price: str | None = None
    volume: str | None = None
    volume_24h: str | None = None
    open_interest: str | None = None
    result: str | None = None
    expiration_value: str | None = None
    raw_json: str | None = None


class LiveStrike(NamedTuple):
    """One open strike at a second's mark: its newest quote, and how far it is from where the price stands.

    `timestamp` and `received_at` are the mark's arrival. `strike_price` is the floor, and of `less` and
    `less_or_equal` the cap; `distance` is `spot_price` - `strike_price`. All numbers are text, exact.
    """

    timestamp: Micros
    received_at: Micros
    event_ticker: str
    ticker: str
    strike_price: str
    strike_type: str
    yes_bid: str | None
    yes_ask: str | None
    no_bid: str | None
    no_ask: str | None
    last_price: str | None
    volume: str | None
    open_interest: str | None
    spot_price: str | None
    spot_source: str | None
    distance: str | None
    seconds_to_close: str
    frame_no: int
    row_no: int = 0


class SpotSource(NamedTuple):
    """Prices that say where Bitcoin stands; of those that flow, the one with the lowest rank is believed."""

    venue: str
    symbol: str
    name: str
    rank: int
    within_us: int | None = None
    """A price that arrived longer ago than this no longer counts; None: it does until another comes."""


class Gap(NamedTuple):
    """A period or range that was not received. `(frame_no, gap_no)` names it: the frame that revealed it.

    `from_seq` and `to_seq` are the first and the last number missing, both included. `to_time` is None while
    the gap is open. A later Gap of the same name replaces an earlier one.
    """

    frame_no: int
    gap_no: int
    feed: str
    channel: str
    scope: str
    cause: str
    from_time: Micros | None
    to_time: Micros | None = None
    from_seq: int | None = None
    to_seq: int | None = None
    expected: int | None = None
    recovered: int = 0
    repaired_at: Micros | None = None


class Repaired(NamedTuple):
    """What one answer of REST did for a gap, whose name is `(frame_no, gap_no)`.

    The rows of the answer that are committed count for the gap, unless the parser has `counted` them in a Gap of its
    own. `end` is empty while more is to come, `COMPLETE` where the venue has told all that it has, `STATE` where it has
    told how things stand and not what happened, else why no more is asked.
    """

    frame_no: int
    gap_no: int
    by_no: int
    """The frame of the answer."""
    feed: str
    moment: Micros
    counted: bool
    end: str


class Quarantined(NamedTuple):
    """A frame, or one row of it, that could not be used, with why and with every byte it had."""

    frame_no: int
    row_no: int
    feed: str
    received_at: Micros
    reason: str
    detail: str
    frame: bytes


Row = BtcPrice | MarketEvent | MarketState | LiveStrike
"""One row of a live table. Within a frame, no two rows have the same `row_no`, whatever their tables."""

TABLES: dict[type[Row], str] = {
    BtcPrice: "btc_price_log",
    MarketEvent: "websocket_market_data",
    MarketState: "market_data",
    LiveStrike: "btc_live_strikes",
}
"""The live table of each type of row; its columns are the type's fields, the others stay NULL."""


Rows = tuple[Row | Gap | Quarantined | Repaired, ...]
"""All that one frame gives."""


class Decoded(NamedTuple):
    """What one frame gave: its outcome, its rows, and the venue's own time where the frame has one.

    A frame with many objects, of which one is of no use, gives rows and entries of the quarantine; its outcome is the
    latter's.
    """

    outcome: Outcome
    rows: Rows = ()
    venue_time: Micros | None = None


class Newest(NamedTuple):
    """The newest frame of one feed in a batch that had a venue's time: its arrival (ns), and that time."""

    recv_ns: int
    venue_time: Micros


@dataclass(slots=True)
class Batch:
    """The rows of one transaction, and everything that the offset row has to say about them."""

    first_no: int
    last_no: int
    frames: list[Frame]
    state: dict[str, Any]
    counts: dict[Outcome, int]
    tables: dict[type[Row], list[Row]] = field(default_factory=dict)
    quarantine: list[Quarantined] = field(default_factory=list)
    outcomes: dict[tuple[str, Outcome], int] = field(default_factory=dict)
    newest: dict[str, Newest] = field(default_factory=dict)
    ledger: list[Gap | Repaired] = field(default_factory=list)
    """What it does to gaps, in the order of the frames: a gap's newest state before each answer, and after the last."""

    @property
    def gaps(self) -> dict[tuple[int, int], Gap]:
        """The newest state of each gap, by its name."""
        return {(entry.frame_no, entry.gap_no): entry for entry in self.ledger if isinstance(entry, Gap)}

    @property
    def repairs(self) -> list[Repaired]:
        """What each answer did."""
        return [entry for entry in self.ledger if isinstance(entry, Repaired)]

    def repaired(self) -> Counter[int]:
        """Return how many rows each answer to a gap gives."""
        answers = {repair.by_no for repair in self.repairs}
        rows = (row for table in self.tables.values() for row in table) if answers else ()
        return Counter(row.frame_no for row in rows if row.frame_no in answers)

    def moved(self, frame_nos: AbstractSet[int], outcome: Outcome) -> Batch:
        """Return the batch with these frames, which gave rows, counted under another outcome."""
        counts, outcomes = Counter(self.counts), Counter(self.outcomes)
        for frame in self.frames:
            if frame.frame_no in frame_nos:
                former = Outcome.SHIPPED if frame.kind == Kind.DATA else Outcome.CONTROL
                counts.update({former: -1, outcome: 1})
                outcomes.update({(frame.feed, former): -1, (frame.feed, outcome): 1})
        return replace(self, counts=counts, outcomes=outcomes)


REPAIR = b'{"repair":'


def is_repair(frame: Frame) -> bool:
    """Tell whether a frame answers for a gap: its rows are late, and no part of what was happening when they came."""
    return frame.data.startswith(REPAIR) and frame.kind == Kind.DATA


def trade_name(row: Row) -> tuple[str, str | None, int | str] | None:
    """Return what names a trade among all (venue, symbol or market, its id), or None where the row is none."""
    if isinstance(row, MarketState | LiveStrike) or row.trade_id is None:
        return None
    return row.venue, row.symbol if isinstance(row, BtcPrice) else row.ticker, row.trade_id


def aware(moment: Micros) -> datetime:
    """Return a time as Python has it, in UTC."""
    return EPOCH + timedelta(microseconds=moment)


def micros(moment: datetime) -> Micros:
    """Return an aware time as microseconds since 1970."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
