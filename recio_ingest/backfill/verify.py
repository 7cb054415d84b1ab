"""The verification: does the database have what the file has?

Both cores work at once: a thread reads the file again and computes fingerprints of what has to be there (`second`),
while PostgreSQL computes them from its own rows. Only blocks that differ are looked into row by row. Rows that the
file does not have are nobody's fault; rows that were there before count as the file's own, and have to be the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import NamedTuple

import asyncpg

from recio_ingest.backfill import leaf
from recio_ingest.backfill.opened import PATIENCE_S, Opened, Side
from recio_ingest.backfill.report import NAMED, Check, Verdict, check
from recio_ingest.backfill.second import Block, Kept, Quarantine, SecondRead
from recio_ingest.backfill.source import Found, Source
from recio_ingest.backfill.tables import Table
from recio_ingest.sql import statement

# Rows of opened blocks that are asked for at once: some 10 MB with their fields.
ASKED = 10_000

Reread = Callable[[], Iterator[Block]]
"""A new read of the file from its first row, as often as it is called."""


class Load(NamedTuple):
    """What is verified: a finished load with the counts of its row in `ingest.backfills`."""

    backfill_id: int
    table: Table
    user: str
    rows: int
    inserted: int
    present: int
    quarantined: int


def second_read(source: Source, found: Found) -> Reread:
    """Return how to read a table of a file again."""

    def reread() -> Iterator[Block]:
        # In the source's own small blocks, whose fields stay in the processor's cache: 2000 rows at once take half as
        # long again.
        for rows in source.blocks(found):
            rowids, *columns = zip(*rows, strict=True)
            folds = [found.folds.get(rowid) for rowid in rowids] if found.folds else [None] * len(rowids)
            yield Block(rowids, dict(zip(found.names, columns, strict=True)), folds)

    return reread


async def verify(connection: asyncpg.Connection, reread: Reread, load: Load) -> Verdict:
    """Compare the database with the file; the database stands still for it, as one snapshot.

    Raises what the connection and the file raise; a difference is part of the verdict.
    """
    began_s = time.monotonic()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        # The connection waits for the slower side.
        await connection.execute(statement("idle_patience"))
        await connection.execute(statement("backfill_hash"))
        records = await connection.fetch(
            statement("backfill_quarantined"), f"backfill/{load.backfill_id}", timeout=PATIENCE_S
        )
        second = SecondRead(load.table, load.user, Quarantine((each["frame_no"], each["reason"]) for each in records))
        sides = await _both(connection, reread, load, second)
        opened = [
            Opened(target, load.user, prints, side)
            for target, prints, side in zip(second.targets, second.prints, sides, strict=True)
        ]
        await opened[0].look_for(connection, second.duplicates)
        await _open(connection, second, reread, [each for each in opened if each.suspects])
    named = [*second.misplaced, *(difference for each in opened for difference in each.differences)]
    return Verdict(
        (*_books(load, second, len(records), sides[0]), *(check for each in opened for check in each.checks())),
        tuple(named[:NAMED]),
        second.misplaced_count + sum(each.differing for each in opened),
        second.rows,
        opened[0].duplicates,
        sum(len(each.suspects) for each in opened),
        time.monotonic() - began_s,
    )


async def _both(connection: asyncpg.Connection, reread: Reread, load: Load, second: SecondRead) -> list[Side]:
    """Let both sides compute at once."""
    stop = Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(_read, second, reread, stop), name="the file's side")
            asked = group.create_task(_ask_all(connection, second.targets, load), name="the database's side")
    except BaseExceptionGroup as failed:
        # The first failure ended the other side; the caller wants to know it as it is.
        raise failed.exceptions[0] from None
    finally:
        stop.set()
    return asked.result()


def _read(second: SecondRead, reread: Reread, stop: Event) -> None:
    for block in reread():
        if stop.is_set():
            return
        second.take(block)


async def _ask_all(connection: asyncpg.Connection, targets: Sequence[Table], load: Load) -> list[Side]:
    return [await _ask(connection, target, load) for target in targets]


async def _ask(connection: asyncpg.Connection, table: Table, load: Load) -> Side:
    name = leaf.name(table, load.user)
    types = {each["attname"]: each["kind"] for each in await connection.fetch(statement("backfill_types"), name)}
    key = sorted(table.key)
    unique = await connection.fetchval(
        statement("backfill_key_is_unique"), name, key, sorted([*key, "trade_id"]), timeout=PATIENCE_S
    )
    if leaf.wrong_types(table, types):
        return Side({}, types, unique, None)
    answers = await connection.fetch(leaf.fingerprints(table, load.user), load.backfill_id, timeout=PATIENCE_S)
    orphans = leaf.orphans(table, load.user)
    return Side(
        {(each[0], each[1]): (each[2], int(each[3]), leaf.figures(table, each)) for each in answers},
        types,
        unique,
        None if orphans is None else await connection.fetchval(orphans, timeout=PATIENCE_S),
    )


async def _open(connection: asyncpg.Connection, second: SecondRead, reread: Reread, opened: Sequence[Opened]) -> None:
    """Read the file once more and compare the rows of the opened blocks, some thousands at a time."""
    if not opened:
        return
    rows = iter(reread())
    places = [second.targets.index(each.table) for each in opened]
    while (block := await asyncio.to_thread(next, rows, None)) is not None:
        kept = await asyncio.to_thread(second.kept, block)
        for each, place in zip(opened, places, strict=True):
            chosen = each.chosen(kept[place])
            for start in range(0, len(chosen.rowids), ASKED):
                part = slice(start, start + ASKED)
                fields = [texts[part] for texts in chosen.shown]
                await each.look(connection, Kept(chosen.rowids[part], fields, chosen.rows[part]))


def _books(load: Load, second: SecondRead, quarantined: int, side: Side) -> Iterator[Check]:
    """Yield the checks of the counts: the file's rows, and where each of them went."""
    mine = sum(rows for (_, is_mine), (rows, _, _) in side.blocks.items() if is_mine)
    total = load.inserted + load.present + load.quarantined
    yield check("counts", "rows", second.rows, total)
    yield check("counts", "rows of the load", load.inserted, mine)
    yield check("counts", "rows in the quarantine", load.quarantined, quarantined)
    yield check("counts", "rows in the quarantine that the file has", quarantined, second.found_in_quarantine)
