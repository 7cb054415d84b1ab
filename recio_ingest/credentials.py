"""Secrets that systemd hands over as files."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_OTHERS = 0o077


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
