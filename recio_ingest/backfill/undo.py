"""Takes back what one load inserted, and nothing else."""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from recio_ingest.backfill import candles, leaf
from recio_ingest.backfill.door import FEED, PATIENCE_S
from recio_ingest.backfill.tables import TABLES, Table
from recio_ingest.errors import BadInputError
from recio_ingest.sql import statement

# So many of the rows that stay are named.
NAMED = 100


class Undone(NamedTuple):
    """How many rows went, and which stayed because somebody changed them or refers to them.

    `gone`: how many prices the load had inserted that were there no more, as those of an archived month.
    """

    target: str
    removed: int
    stayed: list[int]
    gone: int = 0


async def undo(connection: asyncpg.Connection, backfill_id: int) -> Undone:
    """Undo one load in one transaction, or what an earlier undo had to leave.

    Raises BadInputError for an id that is none, or of which nothing is left.
    """
    async with connection.transaction():
        load = await connection.fetchrow(statement("backfill_undo_lock"), backfill_id)
        if load is None:
            raise BadInputError(f"backfill {backfill_id} is not known", hint="SELECT * FROM ingest.backfills shows all")
        again = load["state"] == "undone"
        table = TABLES[load["source_table"]]
        removed = await _remove(connection, table, load["user_id"] or "", backfill_id)
        stayed: list[int] = []
        if table.per_user:
            name = leaf.name(table, load["user_id"])
            rows = await connection.fetch(
                statement("backfill_left").format(leaf=name), backfill_id, NAMED, timeout=PATIENCE_S
            )
            stayed = [row["id"] for row in rows]
        if again and not removed and not stayed:
            raise BadInputError(f"backfill {backfill_id} was undone before, and nothing of it is left")
        await connection.execute(statement("backfill_undo_quarantine"), f"{FEED}/{backfill_id}", timeout=PATIENCE_S)
        await connection.execute(statement("backfill_undone"), backfill_id)
    gone = 0 if again or table.per_user else load["inserted_rows"] - removed
    return Undone(load["target"], removed, stayed, gone)


async def _remove(connection: asyncpg.Connection, table: Table, user: str, backfill_id: int) -> int:
    removed = 0
    touched = [] if table.per_user else await candles.of_load(connection, leaf.name(table, user), backfill_id)
    for target in (table, table.companion):
        if target is None:
            continue
        if not target.per_user:
            query = statement("backfill_undo_prices").format(leaf=leaf.name(target, user))
        elif target.name == "trades":
            query = statement("backfill_undo_trades").format(
                leaf=leaf.name(target, user), active=leaf.name(target, user, "active_trades")
            )
        else:
            query = statement("backfill_undo_rows").format(leaf=leaf.name(target, user))
        status = await connection.execute(query, backfill_id, timeout=PATIENCE_S)
        if target is table:
            removed = int(status.rpartition(" ")[2])
    await candles.refresh(connection, table, touched, PATIENCE_S)
    return removed
