"""What of a live table goes where when it is old, as one statement, and what the counts of that statement mean."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from recio_ingest.sql import statement

CANDLES = "historical_data.price_candles_1m"
_DERIVED = ("one_minute_avg", "momentum", "delta_1m", "delta_2m", "delta_3m", "delta_4m", "delta_15m", "delta_30m")
_PRICE_KEY = ("symbol", "timestamp", "trade_id", "source")
_MARKET_EVENT = (
    "timestamp", "received_at", "frame_no", "sid", "seq", "row_no", "venue", "ticker", "event_ticker", "market_id",
    "event_type", "yes_bid", "yes_bid_size", "yes_ask", "yes_ask_size", "no_bid", "no_ask", "last_price", "last_size",
    "side", "volume", "open_interest", "trade_id", "raw_json",
)  # fmt: skip
_MARKET_STATE = (
    "timestamp", "received_at", "open_time", "close_time", "expected_expiration_time", "settlement_time", "frame_no",
    "row_no", "venue", "ticker", "event_ticker", "series_ticker", "title", "subtitle", "status", "strike_type",
    "floor_strike", "cap_strike", "yes_bid", "yes_ask", "no_bid", "no_ask", "last_price", "volume", "volume_24h",
    "open_interest", "result", "expiration_value", "raw_json",
)  # fmt: skip
_STRIKE = (
    "timestamp", "received_at", "frame_no", "row_no", "event_ticker", "ticker", "strike_type", "spot_source",
    "strike_price", "yes_bid", "yes_ask", "no_bid", "no_ask", "last_price", "volume", "open_interest", "spot_price",
    "distance", "seconds_to_close",
)  # fmt: skip


class Arrival(NamedTuple):
    """A table of the past, and what it takes of a live row."""

    target: str
    columns: Mapping[str, str]
    """Its columns, and what of the live row they hold."""
    key: tuple[str, ...] = ()
    """What makes one of its rows the same as another; empty: nothing does."""
    keyed: str = "true"
    """Which of its rows have that key, where there is one."""
    which: str = "true"


class Move(NamedTuple):
    """A live table, and where its rows go."""

    table: str
    arrivals: tuple[Arrival, ...]
    candles: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """Every table that a slice writes to."""
        return (*(arrival.target for arrival in self.arrivals), *((CANDLES,) if self.candles else ()))


class Verdict(NamedTuple):
    """What left for one table, and what of it came."""

    target: str
    deleted: int
    inserted: int
    left_sum: Decimal | None
    came_sum: Decimal | None
    lost: int
    differing: int
    strange: int

    @property
    def trouble(self) -> str:
        """What is wrong; empty where all that left is there."""
        if self.inserted > self.deleted:
            return "more came than left"
        if self.inserted == self.deleted and self.left_sum != self.came_sum:
            return "checksums differ"
        if self.lost:
            return f"{self.lost} rows neither came nor were there"
        return f"{self.strange} rows came that never left" if self.strange else ""


def _same(*names: str) -> dict[str, str]:
    return {name: f'"{name}"' for name in names}


# A row looks the same before and after it moved: when it came is when it was made.
_BASE = _same("timestamp", "received_at", "trade_id", "frame_no", "row_no", "symbol")
_BASE |= {"source": "venue", "created_at": "received_at"}

MOVES = (
    Move(
        "live_data.btc_price_log",
        (
            Arrival(
                "historical_data.price_history",
                _BASE | _same("side", "price", "best_bid", "best_ask") | {"volume": "size"},
                _PRICE_KEY,
            ),
            Arrival(
                "historical_data.momentum_history",
                _BASE | _same(*_DERIVED),
                _PRICE_KEY,
                which=f"num_nonnulls({', '.join(_DERIVED)}) > 0",
            ),
        ),
        candles=True,
    ),
    Move(
        "live_data.websocket_market_data",
        (
            Arrival(
                "historical_data.market_history",
                _same(*_MARKET_EVENT),
                ("ticker", "timestamp", "trade_id", "venue"),
                "trade_id IS NOT NULL",
            ),
        ),
    ),
    Move("live_data.market_data", (Arrival("historical_data.market_data_history", _same(*_MARKET_STATE)),)),
    Move("live_data.btc_live_strikes", (Arrival("historical_data.strike_history", _same(*_STRIKE)),)),
)
"""Every live table. Candles follow the prices, whatever moved them."""


def targets_of(table: str) -> tuple[str, ...]:
    """Return where the rows of a live table go; its candles are not among it."""
    return tuple(arrival.target for move in MOVES if move.table == table for arrival in move.arrivals)


def slice_statement(move: Move, leaf: str, *, keep_raw: bool, new: bool) -> str:
    """Return the statement that moves a slice of a partition ($1, $2: places, $3: older than what).

    `new`: it fails with a unique violation where one of the rows is there already. Its rows are a `Verdict` each, and
    which candles are touched.
    """
    came = statement("roll_arrival_new") if new else statement("roll_arrival")
    judged = statement("roll_verdict_new") if new else statement("roll_verdict")
    parts = f",\n{statement('roll_left')}, {came}"
    arrivals = "".join(_fill(parts, arrival, keep_raw) for arrival in move.arrivals)
    verdicts = "\nUNION ALL\n".join(_fill(judged, arrival, keep_raw) for arrival in move.arrivals)
    touched = statement("touched_minutes") if move.candles else statement("touched_nothing")
    pieces = {"{leaf}": leaf, "{touched}": touched, "{arrivals}": arrivals, "{verdicts}": verdicts}
    return _replace(statement("roll_slice"), pieces)


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """Return one row of such a statement's answer as what it says."""
    return Verdict(*(row[name] for name in Verdict._fields))


def _fill(text: str, arrival: Arrival, keep_raw: bool) -> str:  # noqa: FBT001  # one of two private callers above
    values = dict(arrival.columns)
    if "raw_json" in values and not keep_raw:
        values["raw_json"] = "NULL::jsonb"
    same = [f'h."{name}" IS NOT DISTINCT FROM a."{name}"' for name in arrival.key[2:]]
    same += [f'h."{name}" = a."{name}"' for name in arrival.key[:2]]  # an index reads by these
    quoted = ", ".join(f'"{name}"' for name in values)
    return _replace(
        text,
        {
            "{part}": arrival.target.partition(".")[2],
            "{target}": arrival.target,
            "{columns}": quoted,
            "{values}": ", ".join(f'{value} AS "{name}"' for name, value in values.items()),
            "{which}": arrival.which,
            "{key}": ", ".join(f'"{name}"' for name in arrival.key) or quoted,
            "{keyed}": arrival.keyed if arrival.key else "false",
            "{same}": " AND ".join(same) or "false",
        },
    )


def _replace(text: str, pieces: Mapping[str, str]) -> str:
    for mark, piece in pieces.items():
        text = text.replace(mark, piece)
    return text
