"""Live rows of every table as they would be after hours, and what of live and past together must never change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.databases import execute
from test_store import rows

from recio_ingest.rollover import Rollover

if TYPE_CHECKING:
    from collections.abc import Sequence

LIVE = ("btc_price_log", "websocket_market_data", "market_data", "btc_live_strikes")
PAST = ("price_history", "momentum_history", "market_history", "market_data_history", "strike_history")

# n rows, one a second; the last came `age` ago. Some of everything: NULLs, decimals with zeros at their end, prints
# without a trade, rows without anything derived.
FILL = """
INSERT INTO live_data.btc_price_log ("timestamp", received_at, trade_id, frame_no, row_no, venue, symbol, side, price,
                                     size, best_bid, best_ask, one_minute_avg, momentum, delta_1m)
SELECT at - interval '30 ms', at, CASE WHEN n % 7 > 0 THEN n END, n, 0,
       CASE WHEN n % 7 > 0 THEN 'coinbase' ELSE 'cfbenchmarks' END, CASE WHEN n % 7 > 0 THEN 'BTC-USD' ELSE 'BRTI' END,
       CASE WHEN n % 7 > 0 THEN 'buy' END, 60000 + n % 97 + 0.10, CASE WHEN n % 7 > 0 THEN 0.01000000 END,
       59999.9, 60000.1, CASE WHEN n % 5 > 0 THEN 60000.0 END, CASE WHEN n % 5 > 1 THEN 0.001000 END,
       CASE WHEN n % 5 > 2 THEN -0.5 END
  FROM (SELECT n, now() - interval '{age}' - n * interval '1 s' AS at FROM generate_series({rows}, 1, -1) AS n) AS t;
INSERT INTO live_data.websocket_market_data ("timestamp", received_at, frame_no, row_no, venue, ticker, event_type,
                                             yes_bid, last_price, trade_id, sid, seq, raw_json)
SELECT at - interval '30 ms', at, n, 0, 'kalshi', 'M-' || n % 3, CASE WHEN n % 4 > 0 THEN 'ticker' ELSE 'trade' END,
       0.4500, CASE WHEN n % 4 = 0 THEN 0.4600 END, CASE WHEN n % 4 = 0 THEN 't-' || n END, 1, n,
       jsonb_build_object('n', n)
  FROM (SELECT n, now() - interval '{age}' - n * interval '1 s' AS at FROM generate_series({rows}, 1, -1) AS n) AS t;
INSERT INTO live_data.market_data ("timestamp", received_at, close_time, frame_no, row_no, venue, ticker, status,
                                   floor_strike, raw_json)
SELECT at, at, at + interval '1 hour', n, 0, 'kalshi', 'M-' || n % 3, 'active', 60000.00, '{{}}'
  FROM (SELECT n, now() - interval '{age}' - n * interval '10 s' AS at
          FROM generate_series({rows} / 10, 1, -1) AS n) AS t;
INSERT INTO live_data.btc_live_strikes ("timestamp", received_at, frame_no, row_no, event_ticker, ticker, strike_price,
                                        yes_bid, distance, seconds_to_close)
SELECT at, at, n, 1, 'E', 'M-' || n % 3, 60000, 0.45, -12.34, 60
  FROM (SELECT n, now() - interval '{age}' - n * interval '1 s' AS at FROM generate_series({rows}, 1, -1) AS n) AS t
"""

# Of each kind of row what the contract names, as text, so that a lost zero at the end of a price shows.
_PRICE = '"timestamp", symbol, {source}, price::text, {volume}::text, side, trade_id, best_bid::text, best_ask::text'
_DERIVED = (
    '"timestamp", symbol, {source}, one_minute_avg::text, momentum::text, delta_1m::text, delta_2m, delta_3m, delta_4m,'
    " delta_15m, delta_30m"
)
_EVENT = (
    '"timestamp", received_at, venue, ticker, event_ticker, market_id, event_type, yes_bid::text, yes_ask, no_bid,'
    " no_ask, last_price::text, last_size, side, volume, open_interest, trade_id, sid, seq, frame_no, row_no"
)
_STATE = '"timestamp", received_at, ticker, close_time, status, floor_strike::text, result, frame_no, row_no'
_STRIKE = '"timestamp", received_at, ticker, strike_price, yes_bid::text, distance::text, frame_no, row_no'
_TOGETHER = (
    (_PRICE.format(source="source", volume="volume"), "price_history", "",
     _PRICE.format(source="venue", volume="size"), "btc_price_log", ""),
    (_DERIVED.format(source="source"), "momentum_history", "",
     _DERIVED.format(source="venue"), "btc_price_log",
     "WHERE num_nonnulls(one_minute_avg, momentum, delta_1m, delta_2m, delta_3m, delta_4m, delta_15m, delta_30m) > 0"),
    (_EVENT, "market_history", "", _EVENT, "websocket_market_data", ""),
    (_STATE, "market_data_history", "", _STATE, "market_data", ""),
    (_STRIKE, "strike_history", "", _STRIKE, "btc_live_strikes", ""),
)  # fmt: skip
TOTALS = " UNION ALL ".join(
    f"SELECT '{past}', count(*)::bigint, sum(hashtextextended(t::text, 0))"
    f" FROM (SELECT {theirs} FROM historical_data.{past} {_}"
    f" UNION ALL SELECT {ours} FROM live_data.{live} {where}) AS t"
    for theirs, past, _, ours, live, where in _TOGETHER
)
"""Per kind of row: how many there are live and past together, and a sum of their hashes. One statement: one view."""


async def fill(dsn: str, count: int = 1000, age: str = "25 hours") -> None:
    """Put rows into every live table (a tenth of `count` into `market_data`); the newest came `age` ago."""
    await execute(dsn, "SET timezone = 'UTC'; " + FILL.format(rows=count, age=age))


async def roll_all(dsn: str) -> None:
    """Move every row that is there, however young."""
    done = await Rollover(dsn, -1e9, keep_raw=False).run_once()
    assert done.troubles == []
    assert sum((await count(dsn, "live_data")).values()) == 0


async def totals(dsn: str) -> Sequence[tuple[Any, ...]]:
    """Return what no rollover may change."""
    return await rows(dsn, TOTALS)


async def count(dsn: str, schema: str) -> dict[str, int]:
    """Return how many rows each table of `live_data` or `historical_data` has."""
    names = LIVE if schema == "live_data" else PAST
    query = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {schema}.{name}" for name in names)
    return {str(name): int(str(found)) for name, found in await rows(dsn, query)}
