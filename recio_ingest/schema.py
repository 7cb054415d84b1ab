"""Brings a database to the shape that this version needs: numbered migrations, each in its own transaction."""

from __future__ import annotations

import asyncpg
import structlog

from recio_ingest.errors import PredecessorTablesError, SchemaError
from recio_ingest.sql import Migration, migrations, statement

log = structlog.get_logger()

OLDEST_SERVER = 150_000
OWNER = "recio_owner"
READER = "recio_ingest"
_WHO = "run recio-ingest --migrate once with a login that is a member of recio_migrate, or owns the database"


async def migrate(connection: asyncpg.Connection, *, adopt: bool = False) -> list[Migration]:
    """Apply what is missing; return it. Applying again changes nothing.

    Raises SchemaError (server too old, a migration changed after it was applied, the database newer than this program)
    and PredecessorTablesError.
    """
    if await connection.fetchval(statement("version")) < OLDEST_SERVER:
        raise SchemaError("PostgreSQL 15 or newer is needed", hint="upgrade the server, or leave database.dsn empty")
    try:
        done = await _begin(connection, adopt=adopt)
    except asyncpg.InsufficientPrivilegeError as exc:
        raise SchemaError(f"this login may not prepare the database: {exc}", hint=_WHO) from exc
    if not await _take_role(connection, OWNER):
        await _take_role(connection, READER)
    missing = await _missing(connection)
    for migration in missing:
        async with connection.transaction():
            await connection.execute(statement("lock_migrations"))
            if migration not in await _missing(connection):
                continue  # another process applied it while this one waited
            await _apply(connection, migration)
            done.append(migration)
    return done


async def _begin(connection: asyncpg.Connection, *, adopt: bool) -> list[Migration]:
    """Make the roles and the table of migrations, if this is the first time."""
    async with connection.transaction():
        await connection.execute(statement("lock_migrations"))
        if await connection.fetchval(statement("migrations_exist")):
            return []
        await _move_predecessor(connection, adopt=adopt)
        roles = migrations()[0]
        await connection.execute(roles.text)
        await _take_role(connection, OWNER)
        await connection.execute(statement("make_migrations"))
        await connection.execute(statement("note_migration"), roles.version, roles.name, roles.sha256)
        return [roles]


async def _move_predecessor(connection: asyncpg.Connection, *, adopt: bool) -> None:
    found = await connection.fetch(statement("predecessor_objects"))
    if not found:
        return
    if not adopt:
        raise PredecessorTablesError(
            f"this database holds the predecessor's tables: {', '.join(row['name'] for row in found)}",
            hint="recio-ingest --migrate --adopt moves them aside into the schema rec_io_v2, unchanged, and goes on",
        )
    await connection.execute(statement("make_aside"))
    for row in found:
        await connection.execute(row["move"])
        log.info("schema.table_adopted", table=row["name"], moved_to="rec_io_v2")


async def _missing(connection: asyncpg.Connection) -> list[Migration]:
    applied = {row["version"]: row for row in await connection.fetch(statement("applied_migrations"))}
    known = {migration.version: migration for migration in migrations()}
    for version, row in applied.items():
        if version not in known:
            raise SchemaError(
                f"the database has migration {version} ({row['name']}), newer than this program",
                hint="install the version of recio-ingest that made it, or a newer one",
            )
        if row["sha256"] != known[version].sha256:
            raise SchemaError(
                f"migration {version} ({row['name']}) is not the one that was applied here",
                hint="a released migration never changes: reinstall recio-ingest from a clean source",
            )
    return [migration for migration in migrations() if migration.version not in applied]


async def _take_role(connection: asyncpg.Connection, role: str) -> bool:
    if not await connection.fetchval(statement("may_set_role"), role):
        return False
    await connection.execute(f"SET ROLE {role}")
    return True


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        await connection.execute(migration.text)
    except asyncpg.InsufficientPrivilegeError as exc:
        raise SchemaError(
            f"migration {migration.version} ({migration.name}) is missing, and this login may not apply it: {exc}",
            hint=_WHO,
        ) from exc
    await connection.execute(statement("note_migration"), migration.version, migration.name, migration.sha256)
    log.info("schema.migrated", version=migration.version, name=migration.name)
