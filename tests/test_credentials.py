"""Secrets that come as files: whose they may be, and what is said where they are not."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from harness.databases import execute
from harness.postgres import PostgresServer

from recio_ingest.credentials import offer_password_file, read_key
from recio_ingest.errors import ConfigError

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


def key_file(folder: Path, mode: int = 0o600) -> Path:
    """A private key's file of this mode."""
    path = folder / "key.pem"
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_key_that_only_its_owner_can_change_is_read(tmp_path: Path, mode: int) -> None:
    """The owner's file is read, also where a group may read it, which is an administrator's decision."""
    assert read_key(str(key_file(tmp_path, mode))) == b"-----BEGIN PRIVATE KEY-----"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o660, 0o602, 0o601, 0o777])
def test_a_key_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """A key that anybody can read, or a group change, is not used; the command that mends it is told."""
    path = key_file(tmp_path, mode)
    with pytest.raises(ConfigError, match=f"{mode:04o}") as caught:
        read_key(str(path))
    assert f"chmod 600 {path}" in caught.value.hint
    assert "BEGIN" not in str(caught.value)


def pipe(folder: Path) -> str:
    """A pipe that nobody writes to."""
    os.mkfifo(folder / "pipe", 0o600)
    return str(folder / "pipe")


@pytest.mark.parametrize(
    "name",
    [
        lambda folder: str(folder / "missing.pem"),
        str,
        pipe,
        lambda folder: str(key_file(folder) / "below-a-file"),
        lambda folder: f"{folder}/nul\0",
        lambda _: "~nobody-of-this-name/key.pem",
        lambda _: "",
    ],
    ids=["missing", "folder", "pipe", "below a file", "nul", "home", "empty"],
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, name: Callable[[Path], str]) -> None:
    """What is not there, or no file, is refused with a word on what to name instead; nothing waits."""
    with pytest.raises(ConfigError, match="key file") as caught:
        read_key(name(tmp_path))
    assert "PEM" in caught.value.hint


def test_a_key_that_the_account_cannot_read_is_refused(tmp_path: Path) -> None:
    """A key that the daemon's account cannot read is a mistake of the configuration, told as such."""
    path, own = key_file(tmp_path, 0), os.geteuid()
    if not own:  # root reads everything: look as an account that owns nothing
        os.seteuid(65_534)
    try:
        with pytest.raises(ConfigError, match="Permission denied") as caught:
            read_key(str(path))
    finally:
        os.seteuid(own)
    assert "readable by the daemon's account" in caught.value.hint


def test_a_large_file_is_not_taken_into_memory(tmp_path: Path) -> None:
    """Whatever else was named by mistake, no more than a key's size is read."""
    path = key_file(tmp_path)
    os.truncate(path, 2**30)
    assert len(read_key(str(path))) == 65_536


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
