"""Rows of users for the tests of their tables."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from harness.databases import execute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARENTS = ("trades", "active_trades", "fills", "settlements", "positions")


async def one(dsn: str, query: str) -> object:
    """The only value that a query answers."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def add_trade(dsn: str, user: str = "0001", **columns: str) -> int:
    """Insert a trade into a user's table; `columns` are SQL expressions. Return its id."""
    values = {
        "date": "'2025-07-01'",
        "time": "'12:00'",
        "strike": "114250",
        "side": "'Y'",
        "buy_price": "0.97",
        "position": "5",
    } | columns
    names, given = ", ".join(values), ", ".join(values.values())
    found = await one(dsn, f"INSERT INTO users.trades_{user} ({names}) VALUES ({given}) RETURNING id")
    assert isinstance(found, int)
    return found


async def add_one_of_each(dsn: str, user: str = "0001") -> None:
    """One row in each of a user's tables, each with id 1."""
    await add_trade(dsn, user, id="1")
    await execute(
        dsn,
        f"INSERT INTO users.active_trades_{user} (id, trade_id) VALUES (1, 1)",
        f"INSERT INTO users.fills_{user} (id, trade_id) VALUES (1, 'f-1')",
        f"INSERT INTO users.settlements_{user} (id, ticker) VALUES (1, 'KXBTCD-25JUL0117-T114249.99')",
        f"INSERT INTO users.positions_{user} (id, ticker) VALUES (1, 'KXBTCD-25JUL0117-T114249.99')",
    )


@asynccontextmanager
async def login(dsn: str, *attributes: str) -> AsyncIterator[tuple[str, str]]:
    """Lend a login of its own: its DSN and its name. What it owns goes with it."""
    database = dsn.split("@/")[1].split("?", maxsplit=1)[0]
    name = f"login_{database}"
    await execute(dsn, f"CREATE ROLE {name} LOGIN {' '.join(attributes)}")
    try:
        yield dsn.replace("recio@", f"{name}@"), name
    finally:
        await execute(dsn, f"REASSIGN OWNED BY {name} TO recio", f"DROP OWNED BY {name}", f"DROP ROLE {name}")
