"""Trades that a table holds already, taken out of a batch before it is committed."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import replace

from recio_ingest.records import Batch, Outcome, Row, trade_name
from recio_ingest.store import Store


async def drop_known(opened: Store, batch: Batch) -> Batch:
    """Return the batch without trades that a table holds: a file may overlap with what is there."""
    rows = _rows(batch)
    known, twice = await opened.known_trades(rows), _fetched_twice(rows, batch.repaired())
    return without(batch, lambda row: trade_name(row) in known or (row.frame_no, row.row_no) in twice)


async def drop_repaired(opened: Store, batch: Batch) -> Batch:
    """Return the batch without trades that were fetched again and are there all the same.

    A parser knows what it has seen lately, and not what is older, or came out of the quarantine since.
    """
    repaired = batch.repaired()
    if not repaired:
        return batch
    rows = _rows(batch)
    known = await opened.known_trades([row for row in rows if row.frame_no in repaired])
    twice = _fetched_twice(rows, repaired)
    return without(
        batch,
        lambda row: row.frame_no in repaired and (trade_name(row) in known or (row.frame_no, row.row_no) in twice),
    )


def without(batch: Batch, known: Callable[[Row], bool]) -> Batch:
    """Return the batch without known trades; frames that have no other row are duplicates."""
    fresh = {kind: [row for row in rows if not known(row)] for kind, rows in batch.tables.items()}
    if fresh == batch.tables:
        return batch
    before, after = ({row.frame_no for rows in of.values() for row in rows} for of in (batch.tables, fresh))
    put_aside = {entry.frame_no for entry in batch.quarantine}  # counted as that, whatever rows they have beside it
    moved = batch.moved(before - after - put_aside, Outcome.DUPLICATE)
    return replace(moved, tables={kind: rows for kind, rows in fresh.items() if rows})


def _rows(batch: Batch) -> list[Row]:
    return [row for table in batch.tables.values() for row in table]


def _fetched_twice(rows: Iterable[Row], repaired: Container[int]) -> set[tuple[int, int]]:
    """Return the rows that were fetched again and that an earlier frame of this very batch has.

    Shipped as they came, they would lie in two batches, and the table would have told.
    """
    seen, twice = set(), set()
    for row in sorted(rows, key=lambda row: (row.frame_no, row.row_no)):
        name = trade_name(row)
        if name in seen and row.frame_no in repaired:
            twice.add((row.frame_no, row.row_no))
        elif name is not None:
            seen.add(name)
    return twice
