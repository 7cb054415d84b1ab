"""The verification: does the database have what the file has?

Both cores work at once: a thread reads the file again and computes fingerprints of what has to be there (`second`),
while PostgreSQL computes them from its own rows. Only blocks that differ are looked into row by row. Rows that the
file does not have are nobody's fault; rows that were there before count as the file's own, and have to be the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from threading import Event
from typing import Any, NamedTuple

import asyncpg

from recio_ingest.backfill import leaf
from recio_ingest.backfill.fingerprint import BLOCKS, Figures, Fingerprints, blocks, key_places, keys, merged
from recio_ingest.backfill.report import NAMED, Check, Difference, Verdict
from recio_ingest.backfill.second import Block, Kept, Quarantine, SecondRead, compare
from recio_ingest.backfill.tables import Kind, Table
from recio_ingest.sql import statement

# A leaf of 50 million rows takes PostgreSQL some minutes; the connection's own limit is for batches.
PATIENCE_S = 6 * 3600.0
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


class Side(NamedTuple):
    """What PostgreSQL says of one target: per block and origin (this load's or not) rows, sum and figures."""

    blocks: dict[tuple[int, bool], tuple[int, int, list[Figures]]]
    types: dict[str, str]
    key_is_unique: bool
    orphans: int | None


async def verify(connection: asyncpg.Connection, reread: Reread, load: Load) -> Verdict:
    """Compare the database with the file; the database stands still for it, as one snapshot.

    Raises what the connection and the file raise; a difference is part of the verdict.
    """
    began_s = time.monotonic()
    stop = Event()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        # The connection waits for the slower side.
        await connection.execute(statement("backfill_patience"))
        records = await connection.fetch(
            statement("backfill_quarantined"), f"backfill/{load.backfill_id}", timeout=PATIENCE_S
        )
        second = SecondRead(load.table, load.user, Quarantine((each["frame_no"], each["reason"]) for each in records))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(_read, second, reread, stop), name="the file's side")
                asked = [
                    group.create_task(_ask_all(connection, second.targets, load), name="the database's side"),
                ]
        finally:
            stop.set()
        sides = asked[0].result()
        opened = [
            _Opened(target, load.user, prints) for target, prints in zip(second.targets, second.prints, strict=True)
        ]
        for each, side in zip(opened, sides, strict=True):
            each.suspect(side)
        await _open(connection, second, reread, [each for each in opened if each.suspects])
    checks = [*_books(load, second, len(records), sides[0])]
    for each, side in zip(opened, sides, strict=True):
        checks += _target_checks(each, side)
    differing = second.misplaced_count + sum(each.differing for each in opened)
    named = [*second.misplaced, *(difference for each in opened for difference in each.differences)]
    return Verdict(
        tuple(checks),
        tuple(named[:NAMED]),
        differing,
        second.rows,
        sum(each.duplicates for each in opened[:1]),
        sum(len(each.suspects) for each in opened),
        time.monotonic() - began_s,
    )


def _read(second: SecondRead, reread: Reread, stop: Event) -> None:
    for block in reread():
        if stop.is_set():
            return
        second.take(block)


async def _ask_all(connection: asyncpg.Connection, targets: Sequence[Table], load: Load) -> list[Side]:
    return [await _ask(connection, target, load) for target in targets]


async def _ask(connection: asyncpg.Connection, table: Table, load: Load) -> Side:
    name = leaf.name(table, load.user)
    answers = await connection.fetch(leaf.fingerprints(table, load.user), load.backfill_id, timeout=PATIENCE_S)
    types = await connection.fetch(statement("backfill_types"), name)
    key = sorted(table.key)
    unique = await connection.fetchval(
        statement("backfill_key_is_unique"), name, key, sorted([*key, "trade_id"]), timeout=PATIENCE_S
    )
    orphans = leaf.orphans(table, load.user)
    return Side(
        {(each[0], each[1]): (each[2], int(each[3]), leaf.figures(table, each)) for each in answers},
        {each["attname"]: each["kind"] for each in types},
        unique,
        None if orphans is None else await connection.fetchval(orphans, timeout=PATIENCE_S),
    )


class _Opened:
    """One target's comparison: which blocks differ, and what was found in them."""

    def __init__(self, table: Table, user: str, ours: Fingerprints) -> None:
        self.table = table
        self.user = user
        self.name = table.leaf(user)
        self.ours = ours
        self.suspects: set[int] = set()
        self.theirs: list[list[Figures]] = []
        self.differences: list[Difference] = []
        self.differing = 0
        self.duplicates = 0
        self.places = key_places(table)

    def suspect(self, side: Side) -> None:
        """Sort the blocks: equal as this load's rows, equal as all rows, or to be opened."""
        for block in range(BLOCKS):
            mine, other = side.blocks.get((block, True)), side.blocks.get((block, False))
            found = [each for each in (mine, other) if each is not None]
            wanted = (self.ours.counts[block], self.ours.sums[block])
            if mine is not None and mine[:2] == wanted:
                self.theirs.append(mine[2])
            elif (sum(each[0] for each in found), sum(each[1] for each in found)) == wanted:
                self.theirs += [each[2] for each in found]
            elif wanted[0]:
                self.suspects.add(block)

    def chosen(self, kept: Kept) -> Kept:
        """Return those rows of a block of the file that fall into an opened block."""
        if not kept.rowids:
            return kept
        hit = [at for at, block in enumerate(blocks(self.places, kept.shown)) if block in self.suspects]
        return Kept([kept.rowids[at] for at in hit], [[texts[at] for at in hit] for texts in kept.shown])

    async def look(self, connection: asyncpg.Connection, kept: Kept) -> None:
        """Compare rows of the file with the database's, field by field."""
        first = leaf.key_columns(self.table)[0]
        wanted = {leaf.plain_key(text, first.kind) for text in kept.shown[self.places[0]]}
        answers = await connection.fetch(leaf.rows(self.table, self.user), list(wanted), timeout=PATIENCE_S)
        found = {each["key"]: each["fields"] for each in answers}
        differences = compare(self.name, self.table, kept, found)
        self.differing += len(differences)
        self.differences += islice(differences, max(0, NAMED - len(self.differences)))
        counted = Counter(keys(self.places, kept.shown))
        self.duplicates += sum(count - 1 for count in counted.values())
        there = [found[key] for key in counted.elements() if key in found]
        if there:
            prints = Fingerprints(self.table)
            prints.add(list(zip(*there, strict=True)))
            self.theirs.append(prints.figures)


async def _open(connection: asyncpg.Connection, second: SecondRead, reread: Reread, opened: Sequence[_Opened]) -> None:
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
                await each.look(connection, Kept(chosen.rowids[part], [texts[part] for texts in chosen.shown]))


def _books(load: Load, second: SecondRead, quarantined: int, side: Side) -> Iterator[Check]:
    """Yield the checks of the counts: the file's rows, and where each of them went."""
    mine = sum(rows for (_, is_mine), (rows, _, _) in side.blocks.items() if is_mine)
    total = load.inserted + load.present + load.quarantined
    yield _check("counts", "rows", second.rows, total)
    yield _check("counts", "rows of the load", load.inserted, mine)
    yield _check("counts", "rows in the quarantine", load.quarantined, quarantined)
    yield _check("counts", "rows in the quarantine that the file has", quarantined, second.found_in_quarantine)


def _target_checks(opened: _Opened, side: Side) -> Iterator[Check]:
    """Yield the checks of one target: types, key, references, every column's figures, and the fingerprints."""
    table = opened.table
    wrong = leaf.wrong_types(table, side.types)
    for column in table.columns:
        yield _check(
            "types", f"{opened.name}.{column.name}", column.kind.value, wrong.get(column.name, column.kind.value)
        )
    yield _check("keys", f"{opened.name}: {', '.join(table.key)}", "unique", "unique" if side.key_is_unique else "not")
    if side.orphans is not None:
        yield _check("references", f"{opened.name}: rows that refer to none", 0, side.orphans)
    theirs = merged(opened.theirs, len(table.columns))
    for column, ours, other in zip(table.columns, opened.ours.figures, theirs, strict=True):
        name = f"{opened.name}.{column.name}"
        yield _check("values", name, ours.filled, other.filled)
        if ours.total is not None:
            yield _check("sums", name, ours.total, other.total or 0)
        if column.kind in (Kind.DATE, Kind.TIMESTAMP):
            yield _check("time bounds", name, f"{ours.first} to {ours.last}", f"{other.first} to {other.last}")
    yield _check("fingerprints", f"{opened.name}: rows that differ", 0, opened.differing)


def _check(group: str, name: str, source: Any, database: Any) -> Check:  # noqa: ANN401  # what can be compared and shown
    return Check(group, name, str(source), str(database), bool(source == database))
