"""The comparison of both sides: which blocks differ, and the rows in those blocks, field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import asyncpg

from recio_ingest.backfill import leaf
from recio_ingest.backfill.fingerprint import BLOCKS, BOUNDED, Figures, Fingerprints, blocks, key_places, keys, merged
from recio_ingest.backfill.report import NAMED, Check, Difference, check
from recio_ingest.backfill.second import Kept, compare
from recio_ingest.backfill.tables import Table

# A leaf of 50 million rows takes PostgreSQL some minutes; the connection's own limit is for batches.
PATIENCE_S = 6 * 3600.0


class Side(NamedTuple):
    """What PostgreSQL says of one target: per block and origin (this load's or not) rows, sum and figures.

    Columns of other types are not compared: there are no blocks then.
    """

    blocks: dict[tuple[int, bool], tuple[int, int, list[Figures]]]
    types: dict[str, str]
    key_is_unique: bool
    orphans: int | None


class Opened:
    """One target's comparison: which blocks differ, and what was found in them."""

    def __init__(self, table: Table, user: str, ours: Fingerprints, side: Side) -> None:
        self.table = table
        self.user = user
        self.name = table.leaf(user)
        self.ours = ours
        self.side = side
        self.suspects: set[int] = set()
        self.theirs: list[list[Figures]] = []
        self.differences: list[Difference] = []
        self.differing = 0
        self.duplicates = 0
        self.places = key_places(table)
        self.wrong_types = leaf.wrong_types(table, side.types)
        if not self.wrong_types:
            self._sort()

    def _sort(self) -> None:
        """Sort the blocks: equal as this load's rows, equal as all rows, or to be opened."""
        for block in range(BLOCKS):
            mine, other = self.side.blocks.get((block, True)), self.side.blocks.get((block, False))
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
        hit = [at for at, block in enumerate(blocks(self.table, kept.shown)) if block in self.suspects]
        fields = [[texts[at] for at in hit] for texts in kept.shown]
        return Kept([kept.rowids[at] for at in hit], fields, [kept.rows[at] for at in hit])

    async def look(self, connection: asyncpg.Connection, kept: Kept) -> None:
        """Compare rows of the file with the database's, field by field."""
        found = await self._find(connection, kept.shown)
        differences = compare(self.name, self.table, kept, found)
        self.differing += len(differences)
        self.differences += islice(differences, max(0, NAMED - len(self.differences)))
        counted = Counter(keys(self.places, kept.shown))
        self.duplicates += sum(count - 1 for count in counted.values())
        there = [found[key] for key in counted.elements() if key in found]
        if there:
            prints = Fingerprints(self.table)
            prints.add(list(zip(*there, strict=True)), list(map("|".join, there)))
            self.theirs.append(prints.figures)

    async def look_for(self, connection: asyncpg.Connection, duplicates: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Name the rows that were set aside as duplicates of a row that is not there."""
        if not duplicates or self.wrong_types:
            return
        shown = list(zip(*(fields for _, fields in duplicates), strict=True))
        found = await self._find(connection, shown)
        for (rowid, _), key in zip(duplicates, keys(self.places, shown), strict=True):
            if key not in found:
                self.differing += 1
                self.differences.append(Difference(self.name, rowid, key, "", "a row", "a duplicate of no row"))

    async def _find(self, connection: asyncpg.Connection, shown: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
        """Return the database's rows with these rows' keys: their fields, by the whole key."""
        first = leaf.key_columns(self.table)[0]
        wanted = {leaf.plain_key(text, first.kind) for text in shown[self.places[0]]}
        answers = await connection.fetch(leaf.rows(self.table, self.user), list(wanted), timeout=PATIENCE_S)
        return {each["key"]: each["fields"] for each in answers}

    def checks(self) -> Iterator[Check]:
        """Yield the checks of this target: types, key, references, every column's figures, and the fingerprints."""
        for column in self.table.columns:
            kind = column.kind.value
            yield check("types", f"{self.name}.{column.name}", kind, self.wrong_types.get(column.name, kind))
        key = f"{self.name}: {', '.join(self.table.key)}"
        yield check("keys", key, "unique", "unique" if self.side.key_is_unique else "not")
        if self.side.orphans is not None:
            yield check("references", f"{self.name}: rows that refer to none", 0, self.side.orphans)
        if not self.wrong_types:
            yield from self._figures()
            yield check("fingerprints", f"{self.name}: rows that differ", 0, self.differing)

    def _figures(self) -> Iterator[Check]:
        theirs = merged(self.theirs, len(self.table.columns))
        for column, ours, other in zip(self.table.columns, self.ours.figures, theirs, strict=True):
            name = f"{self.name}.{column.name}"
            yield check("values", name, ours.filled, other.filled)
            if ours.total is not None:
                yield check("sums", name, ours.total, other.total or 0)
            if column.kind in BOUNDED:
                yield check("time bounds", name, f"{ours.first} to {ours.last}", f"{other.first} to {other.last}")
