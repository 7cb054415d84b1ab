"""A plain way to read a file again and to load it: slow, a row at a time, without the product's reader or converter.

A row's fields are SQL literals made of what `expect` says; so a test of the verification knows what is in the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg

from recio_ingest.backfill.expect import QUOTED
from recio_ingest.backfill.fingerprint import Expected
from recio_ingest.backfill.second import Block
from recio_ingest.backfill.tables import TABLES, Kind, Table, shape
from recio_ingest.backfill.verify import Load

USER = "0001"


class Undecodable:
    """Stands for text that is not UTF-8."""


def _decoded(data: bytes) -> str | Undecodable:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Undecodable()


def reread(path: Path, name: str, *, folds: Mapping[int, int] | None = None, block_rows: int = 7) -> Iterator[Block]:
    """Yield the table's blocks, as `verify` wants them."""
    known = folds or {}
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        connection.text_factory = _decoded
        cursor = connection.execute(f"SELECT rowid AS r, * FROM {name} ORDER BY 1")  # rowid may be the first column too
        names = [each[0] for each in cursor.description][1:]
        while rows := list(islice(cursor, block_rows)):
            rowids, *columns = zip(*rows, strict=True)
            yield Block(rowids, dict(zip(names, columns, strict=True)), [known.get(rowid) for rowid in rowids])


def table_of(path: Path, name: str) -> Table:
    """Return the table as the file has it."""
    with closing(sqlite3.connect(path)) as connection:
        columns = [each[0] for each in connection.execute(f"SELECT * FROM {name} LIMIT 0").description]
    return shape(name, columns)


async def load(
    connection: asyncpg.Connection, path: Path, name: str, *, folds: Mapping[int, int] | None = None
) -> Load:
    """Load the file row by row; what is there already stays as it is. Return what `verify` needs."""
    table = table_of(path, name)
    backfill_id = await connection.fetchval(
        "INSERT INTO ingest.backfills (file_name, file_sha256, file_size_bytes, source_table, user_id, target)"
        " VALUES ($1, gen_random_uuid()::text, 1, $2, $3, $4) RETURNING backfill_id",
        path.name, name, USER, table.target,
    )  # fmt: skip
    targets = [table] if table.companion is None else [table, table.companion]
    expected = [Expected(target) for target in targets]
    rows = inserted = quarantined = 0
    for block in reread(path, name, folds=folds, block_rows=500):
        rows += len(block.rowids)
        shown = [each.columns(block.values, block.folds) for each in expected]
        for place, rowid in enumerate(block.rowids):
            fields = [[texts[place] for texts in each] for each in shown]
            if any(None in each for each in fields):
                await quarantine(connection, backfill_id, rowid)
                quarantined += 1
                continue
            done = [
                await insert(connection, target, each, backfill_id)
                for target, each in zip(targets, fields, strict=True)
            ]
            inserted += done[0]
    present = rows - inserted - quarantined
    await connection.execute(
        "UPDATE ingest.backfills SET state = 'done', source_rows = $2, inserted_rows = $3, present_rows = $4,"
        " quarantined_rows = $5 WHERE backfill_id = $1",
        backfill_id, rows, inserted, present, quarantined,
    )  # fmt: skip
    return Load(backfill_id, table, USER, rows, inserted, present, quarantined)


async def insert(connection: asyncpg.Connection, table: Table, fields: list[Any], backfill_id: int | None) -> bool:
    """Insert one row unless its key is there; return whether it was inserted."""
    names = [f'"{column.name}"' for column in table.columns]
    literals = [_literal(text, column.kind) for text, column in zip(fields, table.columns, strict=True)]
    for column, value in (*table.fixed, ("backfill_id", backfill_id)):
        names.append(column)
        literals.append("NULL" if value is None else f"'{value}'")
    tag = await connection.execute(
        f'INSERT INTO {table.schema}."{table.leaf(USER)}" ({", ".join(names)}) VALUES ({", ".join(literals)})'
        " ON CONFLICT DO NOTHING"
    )
    return bool(tag == "INSERT 0 1")


def _literal(text: str, kind: Kind) -> str:
    if kind in QUOTED:
        return text
    return f"'{text}'" if text else "NULL"


async def quarantine(connection: asyncpg.Connection, backfill_id: int, rowid: int, reason: str = "number") -> None:
    """Put one source row into the quarantine."""
    await connection.execute(
        "INSERT INTO ingest.quarantine (stream, frame_no, feed, received_at, reason, detail, frame)"
        " VALUES ('backfill/' || $1::bigint, $2, 'backfill', now(), $3, '', '')",
        backfill_id, rowid, reason,
    )  # fmt: skip


NAMES = tuple(TABLES)
