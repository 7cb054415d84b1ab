"""Which partitions a table should have: names and bounds, in UTC only.

Bounds made from local dates gave a partition of 25 hours when summer time ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

DAY = timedelta(days=1)
LIVE_TABLES = (
    "live_data.btc_price_log",
    "live_data.websocket_market_data",
    "live_data.market_data",
    "live_data.btc_live_strikes",
)
LIVE_DAYS_AHEAD = 3
HISTORY_TABLES = (
    "historical_data.price_history",
    "historical_data.momentum_history",
    "historical_data.market_history",
    "historical_data.market_data_history",
    "historical_data.strike_history",
    "historical_data.price_candles_1m",
)
HISTORY_MONTHS_AHEAD = 2
# Thirty-one days a month, so that two are never less.
HISTORY_AHEAD = HISTORY_MONTHS_AHEAD * timedelta(days=31)
# No bitcoin price is older. What says so stays in the DEFAULT partition: a wrong clock would make a month for each row.
OLDEST = datetime(2009, 1, 1, tzinfo=UTC)


class Partition(NamedTuple):
    """One partition: rows with `lower <= key < upper` (aware UTC)."""

    table: str
    name: str
    lower: datetime
    upper: datetime


def daily(table: str, now: datetime, days_ahead: int) -> Iterator[Partition]:
    """Yield the partitions of one UTC day each, from today's to that of `days_ahead` days from now."""
    lower = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(days_ahead + 1):
        yield Partition(table, f"{table}_{lower:%Y%m%d}", lower, lower + DAY)
        lower += DAY


def monthly(table: str, first: datetime, last: datetime) -> Iterator[Partition]:
    """Yield the partitions of one UTC month each, from that of `first` to that of `last`."""
    lower = first.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while lower <= last:
        upper = (lower + 31 * DAY).replace(day=1)
        yield Partition(table, f"{table}_{lower:%Y%m}", lower, upper)
        lower = upper
