"""Undoing a migration: on a copy, with psql, as an operator does it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from harness.databases import execute
from harness.postgres import binaries
from test_schema import migrate
from test_store import rows

from recio_ingest import schema, sql

UNDO = sql.FOLDER / "undo"
OURS = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'public')"
SHAPES = {
    "database": "SELECT a.grantee::regrole::text, a.privilege_type FROM pg_database d,"
    " aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = current_database()",
    "schemas": "SELECT n.nspname::text, n.nspowner::regrole::text, a.grantee::regrole::text, a.privilege_type"
    f" FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a WHERE {OURS}",
    "relations": "SELECT c.oid::regclass::text, c.relkind::text, c.relowner::regrole::text, c.reloptions,"
    " c.relrowsecurity, c.relforcerowsecurity, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),"
    " pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    f" WHERE {OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'S')",
    "columns": "SELECT c.oid::regclass::text, attname::text, row_number() OVER (PARTITION BY c.oid ORDER BY attnum),"
    " format_type(atttypid, atttypmod), attnotnull, attidentity::text, attstorage::text, pg_get_expr(adbin, adrelid)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute ON attrelid = c.oid"
    " LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum"
    f" WHERE {OURS} AND attnum > 0 AND NOT attisdropped AND c.relkind IN ('r', 'p', 'v', 'm')",
    "indexes": f"SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
    f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}",
    "constraints": "SELECT k.conrelid::regclass::text, k.conname::text, pg_get_constraintdef(k.oid)"
    f" FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE {OURS}",
    "functions": "SELECT p.oid::regprocedure::text, p.proowner::regrole::text, pg_get_functiondef(p.oid)"
    f" FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {OURS}",
    "triggers": "SELECT t.tgrelid::regclass::text, pg_get_triggerdef(t.oid) FROM pg_trigger t"
    f" JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}"
    " AND NOT t.tgisinternal",
    "policies": "SELECT polrelid::regclass::text, polname::text, polroles::regrole[]::text,"
    " pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) FROM pg_policy",
    "grants": "SELECT c.oid::regclass::text, a.grantee::regrole::text, a.privilege_type, a.is_grantable"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
    " aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))) a"
    f" WHERE {OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'S')",
    "function grants": "SELECT p.oid::regprocedure::text, a.grantee::regrole::text FROM pg_proc p"
    " JOIN pg_namespace n ON n.oid = p.pronamespace,"
    f" aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE {OURS}",
    "grants to come": "SELECT d.defaclrole::regrole::text, n.nspname::text, d.defaclobjtype::text, d.defaclacl::text"
    " FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace",
}
TABLES = (
    "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    f" WHERE {OURS} AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    " AND c.oid::regclass::text <> 'ingest.schema_migrations' ORDER BY array_position("
    "ARRAY['users.trades'], c.oid::regclass::text), 1"
)
NEEDED = (
    "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = '{table}'::regclass"
    " AND attnum > 0 AND NOT attisdropped AND attnotnull AND NOT atthasdef AND attidentity = ''"
)
VALUES = {
    "text": "'x'", "numeric": "1.50", "bigint": "1", "integer": "1", "bytea": "'x'", "date": "'2025-07-01'",
    "time without time zone": "'12:00'", "text[]": "'{x}'", "timestamp with time zone": "'2025-07-01 12:00Z'",
}  # fmt: skip
SPECIAL = {
    "user_id": "'0001'",
    "outcome": "'incomplete'", "side": "'yes'", "deleted_rows": "1", "inserted_rows": "1", "present_rows": "0",
    "lower_bound": "'2025-07-01Z'", "upper_bound": "'2025-08-01Z'",
}  # fmt: skip


class State(NamedTuple):
    """What a database is, and what it holds."""

    shape: dict[str, list[tuple[object, ...]]]
    content: dict[str, list[tuple[object, ...]]]


async def look(dsn: str, *, fill: bool = False) -> State:
    """Describe a database; with `fill`, first put a row into every table that has none."""
    connection = await asyncpg.connect(dsn)
    try:
        content = {}
        for (table,) in await connection.fetch(TABLES):
            if fill and not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):
                needed = await connection.fetch(NEEDED.format(table=table))
                values = [SPECIAL.get(name, VALUES[kind]) for name, kind in needed]
                names = ", ".join(f'"{name}"' for name, _ in needed)
                await connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join(values)})")
            content[table] = [tuple(row) for row in await connection.fetch(f"SELECT to_jsonb(t)::text FROM {table} t")]
        shape = {
            name: sorted((tuple(row) for row in await connection.fetch(query)), key=repr)
            for name, query in SHAPES.items()
        }
    finally:
        await connection.close()
    return State(shape, content)


async def undo(dsn: str, migration: sql.Migration, *first: str, options: tuple[str, ...] = ("-1",)) -> str:
    """Run an undo as the documents say; return what psql complained about, empty if it went well."""
    role = ("SET ROLE recio_owner",) if migration.version > 1 else ()
    process = await asyncio.create_subprocess_exec(
        binaries() / "psql",
        *("-X", "-q", *options, "-v", "ON_ERROR_STOP=1"),
        *(argument for command in (*role, *first) for argument in ("-c", command)),
        *("-f", UNDO / f"{migration.version:04d}_{migration.name}.sql", dsn),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    assert bool(process.returncode) == (b"ERROR" in complaint), complaint
    return complaint.decode() if process.returncode else ""


def test_every_migration_has_its_undo() -> None:
    """For each file of migrations there is one of the same name that takes it back."""
    names = sorted(path.name for path in UNDO.iterdir() if path.name != "check.sql")
    assert names == [f"{migration.version:04d}_{migration.name}.sql" for migration in sql.migrations()]


async def test_each_undo_leads_back(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each undo the database is as before its migration, older tables' rows included; then up it goes again."""
    every = sql.migrations()
    states = [await look(empty_database)]
    for migration in every:
        monkeypatch.setattr(schema, "migrations", lambda upto=migration.version: every[:upto])
        assert await migrate(empty_database) == [migration]
        states.append(await look(empty_database, fill=True))
    assert all(states[-1].content.values())
    for migration in reversed(every):
        assert await undo(empty_database, migration, "SET recio.drop_rows = yes") == ""
        before, now = states[migration.version - 1], await look(empty_database)
        assert (migration.version, now.shape) == (migration.version, before.shape)
        assert (migration.version, now.content) == (migration.version, before.content)
    assert await migrate(empty_database) == list(every)
    assert (await look(empty_database)).shape == states[-1].shape


async def test_rows_are_not_lost_by_an_undo(database: str) -> None:
    """An undo that would take rows with it is refused and changes nothing, unless they are given up in words."""
    newest = len(sql.migrations())
    await execute(
        database,
        "INSERT INTO historical_data.price_history (\"timestamp\", source, symbol, price) VALUES (now(), 'x', 'y', 1)",
        "DELETE FROM ingest.schema_migrations WHERE version > 14",
    )
    prices = sql.migrations()[13]
    assert "price_history has rows" in await undo(database, prices)
    assert await rows(database, "SELECT count(*) FROM historical_data.price_history") == [(1,)]
    assert await rows(database, "SELECT max(version) FROM ingest.schema_migrations") == [(14,)]
    assert newest > 14


async def test_equal_files_of_two_months(database: str) -> None:
    """The older books have room for one of them: which one goes is said in words."""
    archived = (
        "INSERT INTO ingest.archives (table_name, partition_name, lower_bound, upper_bound, columns, row_count,"
        " checksum, file_name, file_size_bytes, file_sha256)"
        " SELECT 'x', n, '2025-07-01Z', '2025-08-01Z', '{}', 0, 0, n, 1, 'same'"
        " FROM unnest('{older,newer}'::text[]) AS n"
    )
    await execute(database, archived, "DELETE FROM ingest.schema_migrations WHERE version > 20")
    beside = sql.migrations()[19]
    assert "is duplicated" in await undo(database, beside)
    assert await undo(database, beside, "SET recio.drop_rows = yes") == ""
    assert await rows(database, "SELECT partition_name FROM ingest.archives") == [("newer",)]


async def test_the_newest_goes_first_and_whole(database: str) -> None:
    """An undo out of its turn, and one that is not a transaction, are refused."""
    *_, before, newest = sql.migrations()
    assert f"the newest here is {newest.version}" in await undo(database, before)
    assert "run it with psql -1" in await undo(database, newest, options=())
    assert await undo(database, newest) == ""
    assert "the newest here is" in await undo(database, newest)
    assert await rows(database, "SELECT max(version) FROM ingest.schema_migrations") == [(before.version,)]


def test_an_undo_begins_with_the_check() -> None:
    """No statement of an undo stands before the check, and the number is its own."""
    for migration in sql.migrations():
        lines = Path(UNDO / f"{migration.version:04d}_{migration.name}.sql").read_text().splitlines()
        first = [line for line in lines if line and not line.startswith("--")][:3]
        assert first[0] == f"\\set version {migration.version}"
        assert first[1].startswith("\\set tables ")
        assert first[2] == "\\ir check.sql"
