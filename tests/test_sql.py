"""The SQL files: every statement has a name, a purpose and a caller; the migrations are numbered."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from recio_ingest import decode
from recio_ingest.feeds.coinbase_repair import CoinbaseRepair
from recio_ingest.feeds.kalshi_repair import KalshiRepair
from recio_ingest.sql import FOLDER, migrations, statement, statements

PACKAGE = Path(__file__).parents[1] / "recio_ingest"


def called() -> set[str]:
    """Return every name that the program asks `statement` for, and those that a decoder wants to have recalled.

    A name that is neither fails here.
    """
    calls = [
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "statement"
    ]
    names = [node.args[0] for node in calls]
    literal = {str(name.value) for name in names if isinstance(name, ast.Constant)}
    assert sorted(ast.unparse(name) for name in names if not isinstance(name, ast.Constant)) == [
        "gaps_name",
        "recalled_name",
    ]
    return literal | set(decode.recall()) | {CoinbaseRepair.GAPS, KalshiRepair.GAPS}


def test_every_statement_is_called_and_every_call_is_answered() -> None:
    """The names in statements.sql are exactly those that the program uses."""
    assert set(statements()) == called()


@pytest.mark.parametrize("name", statements())
def test_every_statement_says_what_it_is_for(name: str) -> None:
    """Below its name each statement has a comment, and below that the SQL."""
    comment, *rest = statement(name).splitlines()
    assert comment.startswith("-- ")
    assert [line for line in rest if line and not line.startswith("--")]


def test_no_name_stands_twice() -> None:
    """A second statement of the same name would silently replace the first."""
    text = (FOLDER / "statements.sql").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("-- ") and line.endswith(" --")]
    assert headings == [f"-- {name} --" for name in statements()]


def test_an_unknown_name_is_an_error() -> None:
    """Asking for a statement that is not there raises, and never runs nothing."""
    with pytest.raises(KeyError):
        statement("no_such_statement")


def test_migrations_are_numbered_from_one() -> None:
    """The migrations are 1, 2, 3 and so on, the roles first, and every file of the folder is one of them."""
    found = migrations()
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    assert found[0].name == "roles"
    assert [f"{migration.version:04d}_{migration.name}.sql" for migration in found] == sorted(
        path.name for path in (FOLDER / "migrations").iterdir()
    )


def test_a_migration_is_known_by_its_text() -> None:
    """Two migrations never share a fingerprint, and a fingerprint is the SHA-256 of the file."""
    fingerprints = [migration.sha256 for migration in migrations()]
    assert len(set(fingerprints)) == len(fingerprints)
    assert {len(fingerprint) for fingerprint in fingerprints} == {64}
    assert migrations()[0]._replace(text="").sha256 == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
