"""The predecessor's programs on their tables: the statements that they send, with values written into the text."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING

import asyncpg
import pytest
from users_data import add_trade, login, one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TICKER = "KXBTCD-25JUL0117-T114249.99"

# The trade manager's: every column but the id, NULL for what is not known yet.
INSERT_TRADE = f"""
INSERT INTO users.trades_0001 (
  status, date, time, symbol, market, trade_strategy, contract, strike, side, prob, diff, buy_price, position,
  sell_price, closed_at, fees, pnl, symbol_open, symbol_close, momentum, volatility, win_loss, ticker, ticket_id,
  market_id, momentum_delta, entry_method, close_method
) VALUES (
  'pending', '2025-07-01', '14:59:30', 'BTC', 'Kalshi', 'Hourly HTC', 'BTC 5pm', '114250', 'Y', 96.7, '+3', 0.94, 5,
  NULL, NULL, NULL, NULL, 114250, NULL, -12, NULL, NULL, '{TICKER}', 'TICKET-1751396370-a1b2c', 'BTC-USD', NULL,
  'manual', NULL)
RETURNING id
"""

# The supervisor's, from the trade that it read.
INSERT_ACTIVE = f"""
INSERT INTO users.active_trades_0001 (
  trade_id, ticket_id, date, time, strike, side, buy_price, position, contract, ticker, symbol, market, trade_strategy,
  symbol_open, momentum, prob, fees, diff, status
) VALUES (1, 'TICKET-1751396370-a1b2c', '2025-07-01', '14:59:30', '114250', 'Y', 0.94, 5, 'BTC 5pm', '{TICKER}', 'BTC',
  'Kalshi', 'Hourly HTC', 114250, -12, 96.7, NULL, '+3', 'pending')
"""

# The account sync's.
INSERT_FILL = f"""
INSERT INTO users.fills_0001
  (trade_id, ticker, order_id, side, action, count, yes_price, no_price, is_taker, created_time, raw_json)
VALUES ('5f3c', '{TICKER}', 'o-1', 'no', 'buy', 5, 0.97, 0.03, true, '2025-07-01T19:30:00.123456Z', '{{"count": 5}}')
ON CONFLICT (trade_id) DO NOTHING
"""
INSERT_SETTLEMENT = f"""
INSERT INTO users.settlements_0001
  (ticker, market_result, yes_count, yes_total_cost, no_count, no_total_cost, revenue, settled_time, raw_json)
VALUES ('{TICKER}', 'yes', 5, 4.7, 0, 0.0, 5.0, '2025-07-01T21:00:04Z', '{{}}')
ON CONFLICT (ticker, settled_time) DO NOTHING
"""
INSERT_POSITION = f"""
INSERT INTO users.positions_0001
  (ticker, total_traded, position, market_exposure, realized_pnl, fees_paid, last_updated_ts, raw_json)
VALUES ('{TICKER}', 470, 5, 470, 0.0, 0.07, '2025-07-01T18:59:31Z', '{{"position": 5}}')
ON CONFLICT (ticker) DO UPDATE SET position = EXCLUDED.position, last_updated_ts = EXCLUDED.last_updated_ts
"""


@pytest.fixture
async def program(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the login that the predecessor's programs share, which was made a member of user 0001's role."""
    async with login(database, "IN ROLE recio_user_0001") as (dsn, _):
        connection = await asyncpg.connect(dsn)
        yield connection
        await connection.close()


async def test_life_of_a_trade(program: asyncpg.Connection) -> None:
    """From the ticket to the settlement, by the trade manager's statements: the id comes by itself."""
    trade = await program.fetchval(INSERT_TRADE)
    assert trade == 1
    await program.execute("UPDATE users.trades_0001 SET status = 'open' WHERE id = 1")
    await program.execute(
        "UPDATE users.trades_0001 SET position = 5, buy_price = 0.95, fees = 0.07, diff = '-2', symbol_open = 114251.5"
        " WHERE id = 1"
    )
    await program.execute(
        "UPDATE users.trades_0001 SET status = 'expired', closed_at = '2025-07-01T17:00:00.104321-04:00',"
        " symbol_close = 114300, close_method = 'expired' WHERE status = 'open'"
    )
    await program.execute(
        "UPDATE users.trades_0001 SET status = 'closed', sell_price = 1.0, win_loss = 'W', pnl = 0.18"
        f" WHERE ticker = '{TICKER}' AND status = 'expired'"
    )
    row = await program.fetchrow("SELECT * FROM users.trades_0001 WHERE status = 'closed' ORDER BY id DESC")
    assert row is not None
    # By position, as some of them read it.
    assert tuple(row)[:9] == (
        1, "closed", date(2025, 7, 1), time(14, 59, 30), "BTC", "Kalshi", "Hourly HTC", "BTC 5pm", Decimal(114250),
    )  # fmt: skip
    assert (row["diff"], row["pnl"]) == (Decimal(-2), Decimal("0.18"))
    assert row["closed_at"] == datetime(2025, 7, 1, 21, 0, 0, 104321, tzinfo=UTC)


async def test_an_imported_id_is_met_once(program: asyncpg.Connection) -> None:
    """ON CONFLICT (id) finds the table's own key, and updates by it."""
    insert = (
        "INSERT INTO users.trades_0001 (id, status, date, time, strike, side, buy_price, position)"
        " VALUES (4711, 'open', '2025-07-01', '12:00:00', '114250', 'N', 0.5, 1) ON CONFLICT (id)"
    )
    assert await program.execute(f"{insert} DO NOTHING") == "INSERT 0 1"
    assert await program.execute(f"{insert} DO NOTHING") == "INSERT 0 0"
    assert await program.execute(f"{insert} DO UPDATE SET status = EXCLUDED.status, fees = 0.01") == "INSERT 0 1"
    assert await program.fetchval("SELECT fees FROM users.trades_0001 WHERE id = 4711") == Decimal("0.01")


async def test_both_writers_share_the_ids(program: asyncpg.Connection) -> None:
    """The version that took its ids from SQLite sets the sequence by its name and inserts with the id."""
    await program.fetchval("SELECT setval('users.trades_0001_id_seq1', 305)")
    assert await program.fetchval(INSERT_TRADE) == 306


async def test_questions(program: asyncpg.Connection) -> None:
    """Their questions by ticker, status, date, ticket and time are answered, text meeting date and time as it did."""
    await program.fetchval(INSERT_TRADE)
    for question in (
        f"ticker = '{TICKER}'",
        "status = 'pending'",
        "status IN ('open', 'pending')",
        "date = '2025-07-01'",
        "date::text IN ('2025-07-01', '07/01/2025')",
        "date >= '2025-06-30' AND time < '15:00:00'",
        "ticket_id = 'TICKET-1751396370-a1b2c'",
        "id = 1 AND status = 'pending'",
    ):
        assert await program.fetchval(f"SELECT ticker FROM users.trades_0001 WHERE {question}") == TICKER, question


async def test_the_supervisor(program: asyncpg.Connection) -> None:
    """An active trade is inserted, confirmed, followed and deleted; with a pending trade it goes by itself."""
    await program.fetchval(INSERT_TRADE)
    await program.execute(INSERT_ACTIVE)
    await program.execute(
        "UPDATE users.active_trades_0001 SET status = 'active', buy_price = 0.95, position = 5, fees = 0.07,"
        " diff = '-2' WHERE trade_id = 1 AND status = 'pending'"
    )
    assert await program.fetchval("SELECT count(*) FROM users.active_trades_0001 WHERE status = 'active'") == 1
    await program.execute("DELETE FROM users.trades_0001 WHERE id = 1 AND status = 'pending'")
    assert await program.fetchval("SELECT count(*) FROM users.active_trades_0001") == 0


async def test_the_account_sync(program: asyncpg.Connection) -> None:
    """Fills, settlements and positions are written twice over and stand there once; the latest fill is found."""
    for _ in range(2):
        await program.execute(INSERT_FILL)
        await program.execute(INSERT_SETTLEMENT)
        await program.execute(INSERT_POSITION)
    for table in ("fills", "settlements", "positions"):
        assert await program.fetchval(f"SELECT count(*) FROM users.{table}_0001") == 1
    fill = await program.fetchrow(
        "SELECT yes_price, no_price, created_time, side FROM users.fills_0001"
        f" WHERE ticker = '{TICKER}' AND side = 'no' ORDER BY created_time DESC LIMIT 1"
    )
    assert tuple(fill or ()) == (
        Decimal("0.97"), Decimal("0.03"), datetime(2025, 7, 1, 19, 30, 0, 123456, tzinfo=UTC), "no",
    )  # fmt: skip
    assert await program.fetchval("SELECT raw_json::text FROM users.positions_0001") == '{"position": 5}'
    await program.execute("DELETE FROM users.positions_0001")
    await program.execute(INSERT_POSITION)


async def test_every_column_of_a_trade_has_its_default(database: str) -> None:
    """A trade that names only what it must has the predecessor's defaults."""
    await add_trade(database)
    kept = await one(
        database,
        "SELECT ROW(id, status, symbol, market, trade_strategy, market_id, entry_method, user_id)::text"
        " FROM users.trades_0001",
    )
    assert kept == '(1,pending,BTC,Kalshi,"Hourly HTC",BTC-USD,manual,0001)'


async def test_what_they_must_change(program: asyncpg.Connection) -> None:
    """Two values that the predecessor wrote as text are no number and no instant: they are refused, not guessed at."""
    await program.fetchval(INSERT_TRADE)
    with pytest.raises(asyncpg.DataError, match=r"invalid input syntax .* \"\$114,250\""):
        await program.execute("UPDATE users.trades_0001 SET strike = '$114,250'")
    with pytest.raises(asyncpg.DataError, match=r'invalid input syntax .* "14:59:59"'):
        await program.execute("UPDATE users.trades_0001 SET closed_at = '14:59:59'")
