"""What the verification asks of a table in PostgreSQL, as SQL over the columns that the file has.

Every name in it is one of `tables`, never one of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from recio_ingest.backfill import expect
from recio_ingest.backfill.fingerprint import BLOCKS, BOUNDED, NUMBERS, Figures, numbered
from recio_ingest.backfill.tables import Column, Kind, Table
from recio_ingest.sql import statement

# What `format_type` calls those whose usual name is another.
_TYPES = {Kind.TIME: "time without time zone", Kind.TIMESTAMP: "timestamp with time zone"}


def name(table: Table, user: str, target: str = "") -> str:
    """Return the quoted name of the table in PostgreSQL that has the rows of this user."""
    leaf = table._replace(target=target or table.target).leaf(user)
    return f'{table.schema}."{leaf}"'


def fingerprints(table: Table, user: str) -> str:
    """Return the question for the blocks of a leaf: those of this load apart ($1), and every column's figures."""
    return statement("backfill_fingerprints").format(
        leaf=name(table, user),
        block=_block(table),
        row=text_of(table.columns),
        figures=", ".join(_figures(column) for column in table.columns),
        fixed=_fixed(table),
    )


def rows(table: Table, user: str) -> str:
    """Return the question for single rows by the first column of the key ($1, as text)."""
    first = key_columns(table)[0]
    return statement("backfill_rows").format(
        leaf=name(table, user),
        key=text_of(key_columns(table)),
        fields=", ".join(f"concat({shown(column)})" for column in table.columns),
        fixed=_fixed(table),
        first=f'"{first.name}"',
        kind=first.kind.value,
    )


def orphans(table: Table, user: str) -> str | None:
    """Return the question for rows that refer to a row that is not there; None for a table that refers to none."""
    for column in table.columns:
        if column.refers:
            return statement("backfill_orphans").format(
                leaf=name(table, user), column=column.name, target=name(table, user, column.refers)
            )
    return None


def key_columns(table: Table) -> list[Column]:
    """Return the columns of the key that come from the file."""
    columns = {column.name: column for column in table.columns}
    return [columns[each] for each in table.key if each in columns]


def plain_key(text: str, kind: Kind) -> str | None:
    """Return a key's value as PostgreSQL reads it, from the text it is shown as."""
    if kind is not Kind.TEXT:
        return text or None
    if text == expect.QUOTED_NULL:
        return None
    body = text[text.index("'") + 1 : -1].replace("''", "'")
    return body.replace("\\\\", "\\") if text.startswith("E") else body


def figures(table: Table, record: Sequence[Any]) -> list[Figures]:
    """Read the figures of every column out of an answer to `fingerprints`, behind its first four fields."""
    answers: Iterator[Any] = iter(record[4:])
    found = []
    for column in table.columns:
        filled = next(answers)
        if column.kind in NUMBERS:
            found.append(Figures(filled, Decimal(next(answers) or 0)))
        elif column.kind in BOUNDED:
            found.append(Figures(filled, None, next(answers), next(answers)))
        else:
            found.append(Figures(filled))
    return found


def wrong_types(table: Table, found: Mapping[str, str]) -> dict[str, str]:
    """Return the columns whose type in PostgreSQL is not the one of `tables`."""
    return {
        column.name: found.get(column.name, "missing")
        for column in table.columns
        if found.get(column.name) != _TYPES.get(column.kind, column.kind.value)
    }


def _figures(column: Column) -> str:
    quoted = f'"{column.name}"'
    if column.kind in NUMBERS:
        return f"count({quoted}), trim_scale(sum({quoted}))::text"
    if column.kind in BOUNDED:
        return f"count({quoted}), min({quoted})::text, max({quoted})::text"
    return f"count({quoted})"


def shown(column: Column) -> str:
    """Return the SQL of a column as the fingerprint sees it, inside `concat`."""
    quoted = f'"{column.name}"'
    if column.kind in expect.QUOTED:
        return f"quote_nullable({quoted}::text)"
    return f"trim_scale({quoted})" if column.kind is Kind.NUMERIC else quoted


def text_of(columns: Sequence[Column]) -> str:
    """Return the SQL of some columns as one text."""
    return "concat(" + ", '|', ".join(map(shown, columns)) + ")"


def _block(table: Table) -> str:
    """Return the SQL of a row's block, which is what `fingerprint.blocks` computes."""
    columns = key_columns(table)
    if numbered(table):
        return f'("{columns[0].name}" & {BLOCKS - 1})::int'
    return f"('x' || left(md5({text_of(columns)}), 3))::bit(10)::int"


def _fixed(table: Table) -> str:
    return " AND ".join(f"\"{column}\" = '{value}'" for column, value in table.fixed) or "true"
