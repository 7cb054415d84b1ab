"""Each index of the users' tables and of the price history serves the question that it is there for."""

from __future__ import annotations

import asyncpg
from harness.databases import execute
from test_store import rows

# 20,000 trades in 100 markets of 50 days, nine in ten thousand of them open; fills and settlements alike.
FILL = """
INSERT INTO users.trades_0001 (status, date, time, strike, side, buy_price, position, ticker, ticket_id)
SELECT CASE WHEN n % 1111 = 0 THEN 'open' ELSE 'closed' END, date '2025-07-01' + n / 400, '12:00', 114250, 'Y', 0.9, 1,
       'T' || n % 100, 'TICKET-' || n
  FROM generate_series(1, 20000) n;
INSERT INTO users.active_trades_0001 (trade_id) SELECT id FROM users.trades_0001 WHERE id <= 2000;
INSERT INTO users.fills_0001 (trade_id, ticker, created_time)
SELECT 'f' || n, 'T' || n % 100, timestamptz '2025-07-01' + n * interval '1 minute' FROM generate_series(1, 20000) n;
INSERT INTO users.settlements_0001 (ticker, settled_time)
SELECT 'T' || n, timestamptz '2025-07-01' + n * interval '1 hour' FROM generate_series(1, 20000) n;
INSERT INTO users.positions_0001 (ticker, position)
SELECT 'T' || n, CASE WHEN n % 1111 = 0 THEN 5 ELSE 0 END FROM generate_series(1, 20000) n;
INSERT INTO historical_data.price_history (source, symbol, "timestamp", price, backfill_id)
SELECT 'sqlite', 'BTC-USD', timestamptz '2025-07-01' + n * interval '1 second', 114250, n / 5000
  FROM generate_series(1, 20000) n;
ANALYZE;
"""
PRICE_KEY = "price_history_default_symbol_timestamp_trade_id_source_key"
SERVES = {
    # the supervisor's poll, the settlements' poll, the view
    "SELECT id FROM users.trades_0001 WHERE status = 'open'": "trades_0001_status_id_idx",
    "SELECT ticker FROM users.trades_0001 WHERE status = 'expired'": "trades_0001_status_id_idx",
    "SELECT * FROM users.active_trades_view": "trades_0001_status_id_idx",
    "SELECT id FROM users.trades_0001 WHERE ticker = 'T7' ORDER BY date DESC LIMIT 1": "trades_0001_ticker_date_idx",
    "SELECT count(*) FROM users.trades_0001 WHERE date = '2025-07-09'": "trades_0001_date_idx",
    "SELECT id FROM users.trades_0001 WHERE ticket_id = 'TICKET-77'": "trades_0001_ticket_id_idx",
    "SELECT * FROM users.recent_trades_view": "trades_0001_id_idx",
    "SELECT status FROM users.trades_0001 WHERE id = 77": "trades_0001_id_idx",
    "SELECT status FROM users.active_trades_0001 WHERE trade_id = 77": "active_trades_0001_trade_id_idx",
    "SELECT no_price FROM users.fills_0001 WHERE ticker = 'T7' ORDER BY created_time DESC LIMIT 1": (
        "fills_0001_ticker_created_time_idx"
    ),
    "SELECT * FROM users.fills_0001 WHERE created_time > '2025-07-14 21:00Z'": "fills_0001_created_time_idx",
    "SELECT trade_id FROM users.fills_0001 WHERE trade_id = 'f77'": "fills_0001_trade_id_idx",
    "SELECT revenue FROM users.settlements_0001 WHERE ticker = 'T7' ORDER BY settled_time DESC LIMIT 1": (
        "settlements_0001_ticker_settled_time_idx"
    ),
    "SELECT * FROM users.settlements_0001 WHERE settled_time > '2027-10-12'": "settlements_0001_settled_time_idx",
    "SELECT ticker FROM users.positions_0001 WHERE position <> 0 ORDER BY ticker": "positions_0001_ticker_idx1",
    "SELECT position FROM users.positions_0001 WHERE ticker = 'T7'": "positions_0001_ticker_idx",
    # the price at a moment; a minute of prices; what one load brought
    "SELECT price FROM historical_data.price_history WHERE source = 'sqlite' AND symbol = 'BTC-USD'"
    ' AND "timestamp" <= \'2025-07-01 03:00Z\' ORDER BY "timestamp" DESC LIMIT 1': PRICE_KEY,
    "SELECT avg(price) FROM historical_data.price_history WHERE source = 'sqlite' AND symbol = 'BTC-USD'"
    " AND \"timestamp\" BETWEEN '2025-07-01 03:00Z' AND '2025-07-01 03:01Z'": PRICE_KEY,
    "SELECT count(*) FROM historical_data.price_history WHERE backfill_id = 2": "price_history_default_backfill_id_idx",
}


async def test_every_question_has_its_index(database: str) -> None:
    """Every question is answered from the index that was made for it, the statistics of a day too."""
    await execute(database, FILL)
    for question, index in SERVES.items():
        plan = "\n".join(str(line) for (line,) in await rows(database, f"EXPLAIN {question}"))
        assert index in plan, f"{question}\n{plan}"

    await execute(database, "SELECT users.get_trade_statistics('2025-07-09', '2025-07-09'), pg_stat_force_next_flush()")
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'trades_0001_date_idx'"
    assert await rows(database, scans) == [(1,)]


async def test_a_users_question_reads_its_partition_only(database: str) -> None:
    """By a parent, a user's policy names the partition: the others are not even planned."""
    await execute(database, "SELECT users.create_user('0002')")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET ROLE recio_user_0002")
        plan = str(await connection.fetch("EXPLAIN SELECT * FROM users.trades WHERE status = 'open'"))
    finally:
        await connection.close()
    assert "trades_0002" in plan
    assert "trades_0001" not in plan
