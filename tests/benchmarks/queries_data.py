"""The same rows in PostgreSQL, as the daemon and its rollover leave them, and in SQLite, as the predecessor kept them.

Three in five are prices, three in ten quotes and trades of markets, one in ten rows of the ladder, over 36 days that
end now. The last day lies in the live tables. Its prices are one a second (half of all, where they are too few for it).
One event a day with 27 strikes, as Kalshi's daily one has; one of them, at the money, has a quarter of the messages;
one in five is a trade. Below 100,000 rows an hour of it can be empty.

SQLite's layout is the predecessor's: text times, REAL prices, one column to an index. Three things favour it: one file
per table, no `raw_json`, and ANALYZE, which its programs never ran.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import asyncpg

from recio_ingest.partitions import HISTORY_MONTHS_AHEAD, LIVE_DAYS_AHEAD

DAY = timedelta(days=1)
SPAN = 36 * DAY
STRIKES = 27
# At the money: the market that is asked about.
BUSY = 13
DAY_S = 86_400


class Data(NamedTuple):
    """When the data ends (UTC, a whole second), where the past of it ends, when today's event closes; the files."""

    moment: datetime
    past_until: datetime
    close: datetime
    folder: Path


_DERIVED = "one_minute_avg, momentum, delta_1m, delta_2m, delta_3m, delta_4m, delta_15m, delta_30m"
_PARTITIONS = f"""
WITH given AS (SELECT $1::timestamptz AS moment)
SELECT ingest.make_partition_v1(t, t || '_' || to_char(at, 'YYYYMMDD'), 'received_at', at, at + interval '1 day')
  FROM given, unnest(ARRAY['live_data.btc_price_log', 'live_data.websocket_market_data',
                           'live_data.btc_live_strikes']) AS t,
       generate_series(date_trunc('day', moment) - interval '1 day',
                       moment + interval '{LIVE_DAYS_AHEAD} days', '1 day') AS at
 UNION ALL
SELECT ingest.make_partition_v1(t, t || '_' || to_char(at, 'YYYYMM'), 'timestamp', at, at + interval '1 month')
  FROM given, unnest(ARRAY['historical_data.price_history', 'historical_data.momentum_history',
                           'historical_data.market_history', 'historical_data.strike_history',
                           'historical_data.price_candles_1m']) AS t,
       generate_series(date_trunc('month', moment - interval '{SPAN.days} days'),
                       moment + interval '{HISTORY_MONTHS_AHEAD} months', '1 month') AS at
"""
# What is staged first, and goes from there to both. The last `last_s` prices are one a second. All arithmetic is in
# whole numbers and numeric.
_GIVEN = f"""
WITH given AS (SELECT timestamptz '{{moment}}' AS moment, timestamptz '{{close}}' AS next_close,
                      {{rows}}::bigint AS rows, {{last_s}}::bigint AS last_s,
                      {SPAN.days * DAY_S}::bigint AS span_s, {DAY_S}::bigint AS day_s)
"""
_EVENT = f"""
 CROSS JOIN LATERAL (SELECT moment - age_s * interval '1 s' AS at) AS t
 CROSS JOIN LATERAL (SELECT extract(epoch FROM next_close - at)::bigint AS until_s) AS u
 CROSS JOIN LATERAL (SELECT next_close - (until_s - 1) / day_s * interval '1 day' AS close) AS c
 CROSS JOIN LATERAL (SELECT 'KXBTCD-' || to_char(close, 'YYMONDDHH24') AS event_ticker,
                            CASE WHEN n % 4 = 0 THEN {BUSY} ELSE n * 7919 % {STRIKES} END AS strike,
                            (1 + n * 31 % 97) * 0.0100 AS bid) AS e
 CROSS JOIN LATERAL (SELECT event_ticker || '-T' || 53499 + 500 * strike || '.99' AS ticker) AS m
"""
_PRICES = f"""
CREATE UNLOGGED TABLE bench.prices AS {_GIVEN}
SELECT n AS frame_no, at AS "timestamp", at + interval '30 ms' AS received_at, n AS trade_id,
       60000 + n * 7919 % 100000 * 0.01 AS price, 0.01000000 AS size, 60000 + n * 104729 % 100000 * 0.01 AS avg,
       (n * 48271 % 200001 - 100000) * 0.000001 AS momentum, (n * 16807 % 200001 - 100000) * 0.000001 AS delta
  FROM given CROSS JOIN generate_series(1, rows) AS n
 CROSS JOIN LATERAL (SELECT moment - interval '1 s' * CASE WHEN n > rows - last_s THEN rows - n
                       ELSE span_s - (n - 1) * (span_s - last_s) / (rows - last_s) END AS at) AS t
"""
_MARKETS = f"""
CREATE UNLOGGED TABLE bench.markets AS {_GIVEN}
SELECT n AS frame_no, at AS "timestamp", at + interval '30 ms' AS received_at, ticker, event_ticker,
       CASE WHEN trade THEN 'trade' ELSE 'ticker' END AS event_type, CASE WHEN NOT trade THEN bid END AS yes_bid,
       CASE WHEN NOT trade THEN bid + 0.0100 END AS yes_ask, CASE WHEN NOT trade THEN 0.9900 - bid END AS no_bid,
       CASE WHEN NOT trade THEN 1.0000 - bid END AS no_ask, bid AS last_price, n AS volume,
       CASE WHEN trade THEN 't-' || n END AS trade_id, CASE WHEN trade THEN 'yes' END AS side,
       CASE WHEN trade THEN 5.00 END AS last_size
  FROM given CROSS JOIN generate_series(1, rows) AS n
 CROSS JOIN LATERAL (SELECT (rows - n) * span_s / rows AS age_s, n * 104729 % 5 = 0 AS trade) AS a {_EVENT}
"""
# Half of the ladder's rows are of the last day.
_LADDER = f"""
CREATE UNLOGGED TABLE bench.ladder AS {_GIVEN}
SELECT n AS frame_no, at AS "timestamp", at + interval '30 ms' AS received_at, ticker, event_ticker,
       53499.99 + 500 * strike AS strike_price, bid AS yes_bid, bid + 0.0100 AS yes_ask, 0.9900 - bid AS no_bid,
       1.0000 - bid AS no_ask, bid AS last_price, n AS volume, extract(epoch FROM close - at) AS seconds_to_close
  FROM given CROSS JOIN generate_series(1, rows) AS n
 CROSS JOIN LATERAL (SELECT CASE WHEN n > rows / 2 THEN (rows - n) * day_s / (rows - rows / 2)
                       ELSE span_s - n * (span_s - day_s) / (rows / 2) END AS age_s) AS a {_EVENT}
"""
# $1: what is older lies in the past. Row by row in the order of arrival, as it came.
_FILL = (
    f"""INSERT INTO live_data.btc_price_log ("timestamp", received_at, trade_id, frame_no, venue, symbol, side, price,
               size, best_bid, best_ask, {_DERIVED})
        SELECT "timestamp", received_at, trade_id, frame_no, 'coinbase', 'BTC-USD', 'buy', price, size, price, price,
               avg, momentum, delta, delta, delta, delta, delta, delta
          FROM bench.prices WHERE "timestamp" >= $1 ORDER BY frame_no""",
    """INSERT INTO historical_data.price_history ("timestamp", received_at, created_at, trade_id, frame_no, row_no,
              source, symbol, side, price, volume, best_bid, best_ask)
       SELECT "timestamp", received_at, received_at, trade_id, frame_no, 0, 'coinbase', 'BTC-USD', 'buy', price, size,
              price, price
         FROM bench.prices WHERE "timestamp" < $1 ORDER BY frame_no""",
    f"""INSERT INTO historical_data.momentum_history ("timestamp", received_at, created_at, trade_id, frame_no, row_no,
              source, symbol, {_DERIVED})
       SELECT "timestamp", received_at, received_at, trade_id, frame_no, 0, 'coinbase', 'BTC-USD', avg, momentum,
              delta, delta, delta, delta, delta, delta
         FROM bench.prices WHERE "timestamp" < $1 ORDER BY frame_no""",
    *(
        f"""INSERT INTO {target} ("timestamp", received_at, frame_no, row_no, venue, ticker, event_ticker, event_type,
                  yes_bid, yes_ask, no_bid, no_ask, last_price, volume, trade_id, side, last_size)
           SELECT "timestamp", received_at, frame_no, 0, 'kalshi', ticker, event_ticker, event_type,
                  yes_bid, yes_ask, no_bid, no_ask, last_price, volume, trade_id, side, last_size
             FROM bench.markets WHERE "timestamp" {which} $1 ORDER BY frame_no"""
        for target, which in (("live_data.websocket_market_data", ">="), ("historical_data.market_history", "<"))
    ),
    *(
        f"""INSERT INTO {target} ("timestamp", received_at, frame_no, row_no, ticker, event_ticker, strike_price,
                  strike_type, spot_source, spot_price, yes_bid, yes_ask, no_bid, no_ask, last_price, volume, distance,
                  seconds_to_close)
           SELECT "timestamp", received_at, frame_no, 0, ticker, event_ticker, strike_price, 'greater', 'BRTI', 60000,
                  yes_bid, yes_ask, no_bid, no_ask, last_price, volume, 60000 - strike_price, seconds_to_close
             FROM bench.ladder WHERE "timestamp" {which} $1 ORDER BY frame_no"""
        for target, which in (("live_data.btc_live_strikes", ">="), ("historical_data.strike_history", "<"))
    ),
)
_CANDLES = """
SELECT historical_data.refresh_candles_v1(array_agg('coinbase'::text), array_agg('BTC-USD'::text), array_agg(minute))
  FROM generate_series($1::timestamptz, $2::timestamptz - interval '1 minute', interval '1 minute') AS minute
"""

_TIME = """to_char("timestamp", 'YYYY-MM-DD"T"HH24:MI:SS')"""
_QUOTES = "yes_bid, yes_ask, no_bid, no_ask, last_price, volume"
_QUOTE_COLUMNS = "yes_bid REAL, yes_ask REAL, no_bid REAL, no_ask REAL, last_price REAL, volume INTEGER"
# File and table, its statements, and what of PostgreSQL's staging rows goes in. Times are UTC and not New York's, where
# an hour of the autumn would come twice and its prices replace each other.
_SQLITE = (
    (
        "price_log",
        (f"CREATE TABLE price_log (timestamp TEXT PRIMARY KEY, price REAL, {_DERIVED.replace(',', ' REAL,')} REAL)",),
        f"SELECT {_TIME}, price, avg, momentum, {', '.join(['delta'] * 6)} FROM bench.prices ORDER BY frame_no",
    ),
    (
        "websocket_market_data",
        (
            f"""CREATE TABLE websocket_market_data (id INTEGER PRIMARY KEY, ticker TEXT, market_id TEXT,
                       event_type TEXT, {_QUOTE_COLUMNS}, timestamp TEXT, raw_json TEXT)""",
            "CREATE INDEX idx_websocket_market_data_ticker ON websocket_market_data(ticker)",
            "CREATE INDEX idx_websocket_market_data_timestamp ON websocket_market_data(timestamp)",
        ),
        f"SELECT frame_no, ticker, NULL, event_type, {_QUOTES}, {_TIME}, NULL FROM bench.markets ORDER BY frame_no",
    ),
    (
        "btc_live_strikes",
        (
            f"""CREATE TABLE btc_live_strikes (id INTEGER PRIMARY KEY, ticker TEXT, strike_price REAL,
                       {_QUOTE_COLUMNS}, timestamp TEXT, raw_json TEXT)""",
            "CREATE INDEX idx_btc_live_strikes_ticker ON btc_live_strikes(ticker)",
            "CREATE INDEX idx_btc_live_strikes_timestamp ON btc_live_strikes(timestamp)",
        ),
        f"SELECT frame_no, ticker, strike_price, {_QUOTES}, {_TIME}, NULL FROM bench.ladder ORDER BY frame_no",
    ),
)


_NULL_IF_EMPTY = "nullif(?, '')"


async def build(dsn: str, folder: Path, rows: int) -> Data:
    """Fill a migrated database, and the SQLite files in a folder that PostgreSQL may write to."""
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        moment: datetime = await connection.fetchval("SELECT date_trunc('second', now())")
        minute = moment.replace(second=0)
        data = Data(moment, minute - DAY, minute + timedelta(minutes=90), folder)
        await connection.execute("CREATE SCHEMA bench")
        await connection.fetch(_PARTITIONS, moment)
        prices, markets = rows * 6 // 10, rows * 3 // 10
        last_s = min(prices // 2, DAY_S)
        for staging, count in ((_PRICES, prices), (_MARKETS, markets), (_LADDER, rows - prices - markets)):
            await connection.execute(staging.format(moment=moment, close=data.close, rows=count, last_s=last_s))
        for fill in _FILL:
            await connection.execute(fill, data.past_until)
        # A day at a time, as no rollover does more at once.
        for days in range(SPAN.days - 1, 0, -1):
            await connection.execute(_CANDLES, minute - (days + 1) * DAY, minute - days * DAY)
        for table, statements, query in _SQLITE:
            exported = folder / f"{table}.csv"
            await connection.execute(f"COPY ({query}) TO '{exported}' (FORMAT csv)")
            _into_sqlite(data.folder / f"{table}.db", table, statements, exported)
            exported.unlink()
        await connection.execute("DROP SCHEMA bench CASCADE")
        await connection.execute("VACUUM ANALYZE")  # as autovacuum does in time
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return data


def _into_sqlite(path: Path, table: str, statements: Sequence[str], exported: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, exported.open(newline="") as lines:
        for statement in statements:
            connection.execute(statement)
        rows = csv.reader(lines)
        width = len(connection.execute(f"SELECT * FROM {table}").description)
        with connection:
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join([_NULL_IF_EMPTY] * width)})", rows)
        connection.execute("ANALYZE")
