"""The users' tables: what they refuse, what they keep by themselves, and what their views and functions say."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest
from harness.databases import execute
from test_store import rows
from users_data import PARENTS, add_one_of_each, add_trade, one

TRADES = "users.trades_0001"


async def test_create_user(database: str) -> None:
    """A new user has tables of its own under the predecessor's names; made again, they stay as they are."""
    await execute(database, "SELECT users.create_user('0002')")
    await add_one_of_each(database, "0002")
    await execute(database, "SELECT users.create_user('0002')")

    for parent in PARENTS:
        assert await rows(database, f"SELECT user_id FROM users.{parent}_0002") == [("0002",)]
        assert await rows(database, f"SELECT user_id, id FROM users.{parent}") == [("0002", 1)]
        assert await rows(database, f"SELECT * FROM users.{parent}_0001") == []


async def test_strange_users_are_refused(database: str) -> None:
    """A user's id goes into names of tables and roles: anything but 1 to 16 plain characters is refused."""
    for name in ("''", "'AB'", "'a b'", "'x''; DROP TABLE users.trades; --'", "'12345678901234567'", "NULL"):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="no user id"):
            await execute(database, f"SELECT users.create_user({name})")


async def test_a_user_cannot_take_a_name_that_is_used(database: str) -> None:
    """A user whose table would have the name of a view is refused whole."""
    with pytest.raises(asyncpg.DuplicateTableError):
        await execute(database, "SELECT users.create_user('view')")
    assert await one(database, "SELECT to_regclass('users.trades_view')") is None


async def test_a_row_keeps_what_it_is(database: str) -> None:
    """An update moves updated_at and nothing else by itself; neither id nor user can change, by either table."""
    await execute(database, "SELECT users.create_user('0002')")
    await add_one_of_each(database)
    for parent in PARENTS:
        await keeps_what_it_is(database, parent)


async def keeps_what_it_is(database: str, parent: str) -> None:
    """Change the one row of a table, as it may be changed and as it may not."""
    before = await one(database, f"SELECT updated_at FROM users.{parent}_0001")
    await execute(database, f"UPDATE users.{parent}_0001 SET backfill_id = 7")
    assert await one(database, f"SELECT updated_at > created_at AND updated_at < now() FROM users.{parent}") is True
    assert before != await one(database, f"SELECT updated_at FROM users.{parent}_0001")

    for change in (f"{parent}_0001 SET id = 2", f"{parent} SET id = 2", f"{parent} SET user_id = '0002'"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="keeps its id and its user"):
            await execute(database, f"UPDATE users.{change}")


async def test_closing_sets_closed_at(database: str) -> None:
    """The step to an end sets closed_at, unless the program says when; the step from expired to closed keeps it."""
    for status in ("closed", "expired", "settled"):
        trade = await add_trade(database, status="'open'")
        await execute(database, f"UPDATE {TRADES} SET status = '{status}' WHERE id = {trade}")
        age = f"SELECT now() - closed_at < interval '1 minute' FROM {TRADES} WHERE id = {trade}"
        assert await one(database, age) is True

        trade = await add_trade(database, status="'closing'")
        await execute(
            database,
            f"UPDATE {TRADES} SET status = '{status}', closed_at = '2025-07-01 16:00-04' WHERE id = {trade}",
            f"UPDATE {TRADES} SET status = 'closed', win_loss = 'W' WHERE id = {trade}",
        )
        closed_at = await one(database, f"SELECT closed_at FROM {TRADES} WHERE id = {trade}")
        assert closed_at == datetime(2025, 7, 1, 20, tzinfo=UTC)


async def test_old_rows_are_left_as_they_were(database: str) -> None:
    """A closed trade that never had closed_at gets none by a later update, and one closed before its date stays."""
    await add_trade(database, id="1", status="'closed'")
    await add_trade(database, id="2", status="'closed'", closed_at="'2025-06-30 14:59-04'")
    before = await rows(database, f"SELECT id, closed_at FROM {TRADES} ORDER BY id")
    await execute(database, f"UPDATE {TRADES} SET fees = 0.07")

    assert before == await rows(database, f"SELECT id, closed_at FROM {TRADES} ORDER BY id")
    assert before[0] == (1, None)


async def test_a_trade_closes_once(database: str) -> None:
    """A trade that is over, in whichever way, cannot become pending, open or closing again."""
    for end in ("closed", "expired", "settled"):
        trade = await add_trade(database, status=f"'{end}'")
        for status in ("pending", "open", "closing"):
            with pytest.raises(asyncpg.CheckViolationError, match=f"is {end}: it cannot become {status}") as refused:
                await execute(database, f"UPDATE {TRADES} SET status = '{status}' WHERE id = {trade}")
            assert refused.value.constraint_name == "trade_closes_once"


async def test_no_trade_closes_in_the_future(database: str) -> None:
    """A closing time of tomorrow is refused; one of five minutes from now is a clock that is off."""
    await add_trade(database)
    with pytest.raises(asyncpg.CheckViolationError, match="cannot close in the future"):
        await execute(database, f"UPDATE {TRADES} SET status = 'closed', closed_at = now() + interval '1 day'")
    await execute(database, f"UPDATE {TRADES} SET status = 'closed', closed_at = now() + interval '5 minutes'")


async def test_impossible_trades_are_refused(database: str) -> None:
    """What no trade can be is refused, and the constraint's name says why."""
    for column, value, constraint in (
        ("status", "''", "trade_has_status"),
        ("side", "'maybe'", "trade_side_is_yes_or_no"),
        ("position", "-1", "trade_position_not_negative"),
        ("buy_price", "-0.01", "trade_prices_are_amounts"),
        ("buy_price", "'NaN'", "trade_prices_are_amounts"),
        ("sell_price", "'Infinity'", "trade_prices_are_amounts"),
    ):
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await add_trade(database, **{column: value})
        assert refused.value.constraint_name == constraint


async def test_active_trade_belongs_to_a_trade(database: str) -> None:
    """An active trade without its trade is refused, another user's trade does not count, and it goes with its trade."""
    await execute(database, "SELECT users.create_user('0002')")
    await add_trade(database, "0002", id="7")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await execute(database, "INSERT INTO users.active_trades_0001 (trade_id) VALUES (7)")
    await add_trade(database, "0001", id="7")
    await execute(database, "INSERT INTO users.active_trades_0001 (trade_id) VALUES (7)")
    await execute(database, f"DELETE FROM {TRADES} WHERE id = 7")

    assert await rows(database, "SELECT * FROM users.active_trades") == []


async def test_sequences_follow_the_imported_ids(database: str) -> None:
    """After a load the next id is past the largest; a sequence that is further already, stays."""
    await add_trade(database, id="4711")
    await execute(database, "SET ROLE recio_backfill; SELECT users.sync_sequences_v1('0001')")
    assert await add_trade(database) == 4712

    await execute(database, f"DELETE FROM {TRADES}", "SELECT users.sync_sequences_v1('0001')")
    assert await add_trade(database) == 4713
    assert await one(database, "INSERT INTO users.positions_0001 (ticker) VALUES ('A') RETURNING id") == 1


async def test_views(database: str) -> None:
    """The three views show the open trades, the latest that are over, and their sum, wins in either spelling."""
    await add_trade(database, id="1", status="'open'")
    await add_trade(database, id="2", status="'closed'", pnl="0.14", win_loss="'W'")
    await add_trade(database, id="3", status="'settled'", pnl="-0.97", win_loss="'LOSS'")
    await add_trade(database, id="4", status="'error'", pnl="9")

    assert await rows(database, "SELECT id FROM users.active_trades_view") == [(1,)]
    assert await rows(database, "SELECT id FROM users.recent_trades_view") == [(3,), (2,)]
    assert await rows(database, "SELECT * FROM users.trade_performance_view") == [
        (2, 1, 1, Decimal("-0.4150000000000000"), Decimal("-0.83"))
    ]


async def test_update_trade_status(database: str) -> None:
    """The function changes what it is given and keeps the rest; no trade, or one of two users, is an error."""
    await add_trade(database, id="1", status="'open'", symbol_close="114000")
    await execute(database, "SELECT users.update_trade_status(1, 'closed', p_sell_price => 0.99, p_win_loss => 'W')")
    assert await rows(
        database, f"SELECT status, sell_price, win_loss, symbol_close, closed_at <= now() FROM {TRADES}"
    ) == [("closed", Decimal("0.99"), "W", 114000, True)]
    with pytest.raises(asyncpg.NoDataFoundError, match="no trade 2"):
        await execute(database, "SELECT users.update_trade_status(2, 'closed')")

    await execute(database, "SELECT users.create_user('0002')")
    await add_trade(database, "0002", id="1")
    with pytest.raises(asyncpg.TooManyRowsError, match="name p_user_id"):
        await execute(database, "SELECT users.update_trade_status(1, 'closed')")
    await execute(database, "SELECT users.update_trade_status(1, 'closed', p_user_id => '0002')")
    assert await one(database, "SELECT status FROM users.trades_0002") == "closed"


async def test_trade_statistics(database: str) -> None:
    """Trades count by their date, both ends included; a period without trades has no rate, not an error."""
    for day, pnl, won in (("2025-07-01", "1.5", "W"), ("2025-07-02", "0.25", "W"), ("2025-07-03", "-1", "L")):
        await add_trade(database, date=f"'{day}'", status="'closed'", pnl=pnl, win_loss=f"'{won}'")
    await add_trade(database, date="'2025-07-02'", status="'open'")

    ask = "SELECT * FROM users.get_trade_statistics"
    assert await rows(database, f"{ask}()") == [(3, 2, 1, Decimal("66.67"), Decimal("0.25"), Decimal("0.75"))]
    assert await rows(database, f"{ask}('2025-07-02', '2025-07-03')") == [
        (2, 1, 1, Decimal("50.00"), Decimal("-0.38"), Decimal("-0.75"))
    ]
    assert await rows(database, f"{ask}('2026-01-01')") == [(0, 0, 0, None, None, None)]
