"""Secrets that come as files, from systemd or from an administrator."""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping
from pathlib import Path

from recio_ingest.errors import ConfigError

_OTHERS = 0o077
# Anybody's, or a group's to change. That a group may read is an administrator's decision, or systemd's access list.
_TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP
# A key has a few kilobytes; whatever else was named by mistake is not read into memory.
_KEY_BYTES = 65_536


def read_key(name: str) -> bytes:
    """Return a private key's file. Raises ConfigError where there is none, or where anybody could read or change it."""
    hint = "name the PEM file that belongs to the key's id, readable by the daemon's account"
    try:
        path = Path(name).expanduser()
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer, with the whole daemon
            raise ConfigError(f"the key file {path} is not a file", hint=hint)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _TOO_OPEN:
                raise ConfigError(
                    f"the key file {path} is open to others (mode {stat.S_IMODE(mode):04o}) and is not used",
                    hint=f"chmod 600 {path}; if others could read it for long, make a new key",
                )
            return file.read(_KEY_BYTES)
    except OSError as exc:
        raise ConfigError(f"the key file {path} cannot be read: {exc.strerror}", hint=hint) from exc
    except (ValueError, RuntimeError) as exc:  # a NUL in the name; a home of nobody
        raise ConfigError(f"the key file {name!r} cannot be read: {exc}", hint=hint) from exc


def offer_password_file(environ: MutableMapping[str, str]) -> None:
    """Make the password file of `PGPASSFILE` one that asyncpg accepts.

    From systemd 254 on, a credential is readable through an access list, which shows as mode 0440; asyncpg ignores a
    password file with any right for the group, as libpq does. The copy lives in this process's memory, never on disk.
    """
    path = Path(environ.get("PGPASSFILE", ""))
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder or path.parent != Path(folder) or not path.is_file() or not path.stat().st_mode & _OTHERS:
        return
    descriptor = os.memfd_create("pgpass")
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, path.read_bytes())
    environ["PGPASSFILE"] = f"/proc/self/fd/{descriptor}"
