"""The SQL files: runtime statements by name, migrations by number. They travel inside the package.

In a checkout they lie beside it, in `sql/`.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).parent
FOLDER = next((folder for folder in (_PACKAGE / "sql", _PACKAGE.parent / "sql") if folder.is_dir()), _PACKAGE / "sql")
_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)
_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")


class Migration(NamedTuple):
    """One numbered file of `sql/migrations`."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the file's text: a migration that was applied never changes."""
        return sha256(self.text.encode()).hexdigest()


@cache
def statements() -> dict[str, str]:
    """Return every named statement of `statements.sql`."""
    parts = _NAME.split((FOLDER / "statements.sql").read_text(encoding="utf-8"))
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def statement(name: str) -> str:
    """Return one statement. Raises KeyError for a name that the file does not have."""
    return statements()[name]


@cache
def migrations() -> tuple[Migration, ...]:
    """Return every migration, in order. Raises ValueError for a misnamed file or a hole in the numbers."""
    found = []
    for path in sorted((FOLDER / "migrations").iterdir()):
        match = _MIGRATION.fullmatch(path.name)
        if match is None:
            raise ValueError(f"not a migration's name: {path.name}")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations are not numbered 1, 2, 3, ...")
    return tuple(found)
