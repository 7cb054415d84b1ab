"""Trades that a table holds already, taken out of a batch before it is committed."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from recio_ingest.records import Batch, Outcome, trade_name
from recio_ingest.store import Store


async def drop_repaired(opened: Store, batch: Batch) -> Batch:
    """Return the batch without trades that were fetched again and are there all the same.

    A parser knows what it has seen, and not what came out of the quarantine since.
    """
    repaired = batch.repaired()
    if not repaired:
        return batch
    rows = [row for table in batch.tables.values() for row in table if row.frame_no in repaired]
    return without(batch, await opened.known_trades(rows), only=repaired.keys())


def without(batch: Batch, known: AbstractSet[tuple[Any, ...]], only: AbstractSet[int] | None = None) -> Batch:
    """Return the batch without known trades (of some frames); frames that have no other row are duplicates."""
    if not known:
        return batch
    fresh = {
        kind: [row for row in rows if trade_name(row) not in known or (only is not None and row.frame_no not in only)]
        for kind, rows in batch.tables.items()
    }
    before, after = ({row.frame_no for rows in of.values() for row in rows} for of in (batch.tables, fresh))
    put_aside = {entry.frame_no for entry in batch.quarantine}  # counted as that, whatever rows they have beside it
    moved = batch.moved(before - after - put_aside, Outcome.DUPLICATE)
    return replace(moved, tables={kind: rows for kind, rows in fresh.items() if rows})
