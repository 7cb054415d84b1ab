"""Secrets that systemd hands over."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import asyncpg
import pytest
from harness.databases import execute
from harness.postgres import PostgresServer

from recio_ingest.credentials import offer_password_file

LINE = "*:*:*:guarded:open-sesame\n"


def handed_over(folder: Path, mode: int) -> dict[str, str]:
    """The environment of a service whose password file has this mode."""
    path = folder / "pgpass"
    path.write_text(LINE)
    path.chmod(mode)
    return {"CREDENTIALS_DIRECTORY": str(folder), "PGPASSFILE": str(path)}


def test_group_readable_credential_is_offered_from_memory(tmp_path: Path) -> None:
    """A credential of mode 0440 becomes a file in memory, 0600, with the same words."""
    environ = handed_over(tmp_path, 0o440)
    offer_password_file(environ)

    offered = Path(environ["PGPASSFILE"])
    assert offered != tmp_path / "pgpass"
    assert (offered.read_text(), stat.S_IMODE(offered.stat().st_mode)) == (LINE, 0o600)


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_private_credential_is_left_alone(tmp_path: Path, mode: int) -> None:
    """A credential that nobody else can read is used where it lies."""
    environ = handed_over(tmp_path, mode)
    offer_password_file(environ)

    assert environ["PGPASSFILE"] == str(tmp_path / "pgpass")


def test_other_peoples_file_is_not_vouched_for(tmp_path: Path) -> None:
    """A password file that everybody can read and that systemd did not hand over stays what it is: ignored."""
    environ = handed_over(tmp_path, 0o644) | {"CREDENTIALS_DIRECTORY": "/run/credentials/other"}
    offer_password_file(environ)

    assert environ["PGPASSFILE"] == str(tmp_path / "pgpass")


async def test_the_server_takes_it(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """A server that asks for a password lets in who has only the credential."""
    await execute(private_postgres.dsn(), "CREATE ROLE guarded LOGIN PASSWORD 'open-sesame'")
    (private_postgres.data / "pg_hba.conf").write_text("local all guarded scram-sha-256\nlocal all all trust\n")
    await execute(private_postgres.dsn(), "SELECT pg_reload_conf()")
    await asyncio.sleep(0.3)
    dsn = private_postgres.dsn().replace("recio@", "guarded@")
    environ = handed_over(tmp_path, 0o440)
    with pytest.raises(asyncpg.InvalidPasswordError), pytest.warns(UserWarning, match="group or world access"):
        await asyncpg.connect(dsn, passfile=environ["PGPASSFILE"])
    offer_password_file(environ)

    connection = await asyncpg.connect(dsn, passfile=environ["PGPASSFILE"])
    assert await connection.fetchval("SELECT current_user") == "guarded"
    await connection.close()
    os.close(int(Path(environ["PGPASSFILE"]).name))
