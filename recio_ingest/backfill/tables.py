"""What the predecessor's SQLite tables are, and where each of their columns goes.

A table is recognised by its name. Columns that a file lacks are NULL; columns that this page does not know are named
in the report and not loaded.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The type of a target column, and with it the rule that converts a value."""

    INTEGER = "bigint"
    NUMERIC = "numeric"
    TEXT = "text"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamptz"
    BOOLEAN = "boolean"
    JSON = "json"


class BadValue(ValueError):  # noqa: N818  # what is bad is the value; the program goes on
    """A value that no rule covers. `reason` is one of a fixed set of words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class BadText(bytes):
    """Text of a file that is not UTF-8: its bytes."""

    __slots__ = ()


NEW_YORK = "America/New_York"
UTC = "UTC"


class Column(NamedTuple):
    """One column of the target.

    `source` is the column's name in the file. `zone` says what a time without an offset means there. `side` is for a
    source column that goes to one of two targets: it is taken where the row's `side` is this word, else it is NULL.
    `refers`: a table of this schema whose `id` the value must be.
    """

    name: str
    kind: Kind
    required: bool = False
    source: str = ""
    zone: str = NEW_YORK
    side: str = ""
    refers: str = ""

    @property
    def source_name(self) -> str:
        """The column's name in the file: its own, unless another is given."""
        return self.source or self.name


class Table(NamedTuple):
    """One SQLite table and its target.

    `key` are the target columns whose values must not come twice. `fixed` are target columns that the file does not
    have, with the value that every row gets. `per_user`: the target is the leaf `target_<user>`. `companion`: a second
    target that gets a row too, where the file has any of its columns `wants`. `passed_over`: columns that are known
    and of no use.
    """

    name: str
    schema: str
    target: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    fixed: tuple[tuple[str, str], ...] = ()
    per_user: bool = True
    companion: Table | None = None
    wants: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    def leaf(self, user: str) -> str:
        """Return the name of the table in PostgreSQL that takes the rows of this user."""
        return f"{self.target}_{user}" if self.per_user else self.target


def _columns(text: str) -> tuple[Column, ...]:
    """Read `name kind [!] [utc] [from:source] [side:word] [refers:table]`, one column a line; `!` is NOT NULL."""
    found = []
    for line in text.strip().splitlines():
        name, kind, *marks = line.split()
        named = dict(mark.split(":") for mark in marks if ":" in mark)
        found.append(
            Column(
                name,
                Kind[kind.upper()],
                required="!" in marks,
                source=named.get("from", ""),
                zone=UTC if "utc" in marks else NEW_YORK,
                side=named.get("side", ""),
                refers=named.get("refers", ""),
            )
        )
    return tuple(found)


_TRADES = Table(
    "trades",
    "users",
    "trades",
    _columns("""
        id integer !
        status text !
        date date !
        time time !
        symbol text
        market text
        trade_strategy text
        contract text
        strike numeric !
        side text !
        prob numeric
        diff numeric
        buy_price numeric !
        position integer !
        sell_price numeric
        closed_at timestamp
        fees numeric
        pnl numeric
        symbol_open numeric
        symbol_close numeric
        momentum numeric
        volatility numeric
        win_loss text
        ticker text
        ticket_id text
        market_id text
        momentum_delta numeric
        entry_method text
        close_method text
    """),
    key=("id",),
)
_ACTIVE_TRADES = Table(
    "active_trades",
    "users",
    "active_trades",
    _columns("""
        id integer !
        trade_id integer ! refers:trades
        ticket_id text
        date date
        time time
        strike numeric
        side text
        buy_price numeric
        position integer
        contract text
        ticker text
        symbol text
        market text
        trade_strategy text
        symbol_open numeric
        momentum numeric
        prob numeric
        fees numeric
        diff numeric
        current_symbol_price numeric
        current_probability numeric
        buffer_from_entry numeric
        time_since_entry integer
        current_close_price numeric
        current_pnl numeric
        last_updated timestamp utc
        status text
        notes text
    """),
    key=("id",),
)
_FILLS = Table(
    "fills",
    "users",
    "fills",
    _columns("""
        trade_id text !
        ticker text
        order_id text
        side text
        action text
        count integer
        yes_price numeric
        no_price numeric
        is_taker boolean
        created_time timestamp utc
        raw_json json
    """),
    key=("trade_id",),
    passed_over=("id",),
)
_OLDER_FILLS = _FILLS._replace(
    columns=_columns("""
        trade_id text ! from:id
        ticker text from:market_id
        order_id text
        side text
        count integer
        yes_price numeric from:price side:yes
        no_price numeric from:price side:no
        created_time timestamp utc
    """),
    passed_over=("user_id",),
)
_SETTLEMENTS = Table(
    "settlements",
    "users",
    "settlements",
    _columns("""
        ticker text !
        market_result text
        yes_count integer
        yes_total_cost numeric
        no_count integer
        no_total_cost numeric
        revenue numeric
        settled_time timestamp utc
        raw_json json
    """),
    key=("ticker", "settled_time"),
    passed_over=("id",),
)
_POSITIONS = Table(
    "positions",
    "users",
    "positions",
    _columns("""
        ticker text !
        total_traded numeric
        position integer
        market_exposure numeric
        realized_pnl numeric
        fees_paid numeric
        last_updated_ts timestamp utc
        raw_json json
    """),
    key=("ticker",),
    passed_over=("id",),
)
_PRICE_FIXED = (("symbol", "BTC-USD"), ("source", "sqlite"))
_DERIVED = ("one_minute_avg", "momentum", "delta_1m", "delta_2m", "delta_3m", "delta_4m", "delta_15m", "delta_30m")
_MOMENTUM_LOG = Table(
    "price_log",
    "historical_data",
    "momentum_history",
    _columns("timestamp timestamp !\n" + "\n".join(f"{name} numeric" for name in _DERIVED)),
    key=("symbol", "source", "timestamp"),
    fixed=_PRICE_FIXED,
    per_user=False,
    wants=_DERIVED,
)
_PRICE_LOG = Table(
    "price_log",
    "historical_data",
    "price_history",
    _columns("timestamp timestamp !\nprice numeric !"),
    key=("symbol", "source", "timestamp"),
    fixed=_PRICE_FIXED,
    per_user=False,
    companion=_MOMENTUM_LOG,
)

# In the order they are loaded in: active_trades refers to trades.
TABLES: dict[str, Table] = {
    table.name: table for table in (_TRADES, _ACTIVE_TRADES, _FILLS, _SETTLEMENTS, _POSITIONS, _PRICE_LOG)
}
"""The predecessor's tables by their names in SQLite."""


def shape(name: str, present: Collection[str]) -> Table:
    """Return the table with those of its columns that this file has, and no companion that would be empty.

    Raises KeyError for a name that is not the predecessor's.
    """
    table = TABLES[name]
    if name == "fills" and "trade_id" not in present and "id" in present:
        table = _OLDER_FILLS
    companion = table.companion
    if companion is not None:
        companion = _present(companion, present) if any(want in present for want in companion.wants) else None
    return _present(table, present)._replace(companion=companion)


def _present(table: Table, present: Collection[str]) -> Table:
    return table._replace(columns=tuple(column for column in table.columns if column.source_name in present))


def missing(name: str, table: Table) -> list[str]:
    """Return the columns that the target must have and the file does not, by their names in the file."""
    whole = _OLDER_FILLS if any(column.source for column in table.columns) else TABLES[name]
    have = {column.name for column in table.columns}
    return [column.source_name for column in whole.columns if column.required and column.name not in have]


def unknown(table: Table, present: Collection[str]) -> list[str]:
    """Return the columns of the file that go nowhere, in their order."""
    known = {column.source_name for column in table.columns} | set(table.passed_over)
    if table.companion is not None:
        known |= {column.source_name for column in table.companion.columns}
    return [name for name in present if name not in known]
