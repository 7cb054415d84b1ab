"""The layers: a module imports from its own layer and below, and what is pure stays pure."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "recio_ingest"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

WORDS = {
    "__init__", "backoff", "errors", "faults", "flow", "momentum", "moves", "numeric", "partitions", "records",
    "settings", "settlement", "sql", "strikes",
    "backfill", "backfill.convert", "backfill.expect", "backfill.fingerprint", "backfill.leaf", "backfill.local_time",
    "backfill.report", "backfill.rules", "backfill.second", "backfill.tables",
}  # fmt: skip
VENUES = {"decode"} | {name for name in MODULES if name.split(".")[0] == "feeds"}
INSTRUMENTS = {"headers", "logs", "metrics", "notify", "wire"}
EDGES = {
    "cluster", "credentials", "embedded", "endings", "guard", "opening", "rest", "schema", "segments", "spool",
    "spool_folder", "store", "stream", "parquet",
    "backfill.candles", "backfill.door", "backfill.snapshot", "backfill.source",
}  # fmt: skip
FLOWS = {
    "archive", "known", "months", "poll", "repair", "replay", "restore", "rollover", "ship", "upkeep", "verify",
    "backfill.load", "backfill.opened", "backfill.undo", "backfill.verify",
}  # fmt: skip
TOP = {
    "__main__", "report", "service", "status", "web", "backfill.progress", "backfill.run",
} | {name for name in MODULES if name.split(".")[0] == "demo"}  # fmt: skip
LAYERS = (WORDS, VENUES, INSTRUMENTS, EDGES, FLOWS, TOP)

BESIDE = {
    "backfill.door": {"backfill.candles", "backfill.source", "store"},
    "backfill.source": {"backfill.snapshot"},
    "embedded": {"cluster"},
    "spool": {"segments", "spool_folder"},
    "spool_folder": {"segments"},
    "opening": {"credentials", "guard"},
    "stream": {"endings", "opening", "spool"},
}
"""The edges that may know another edge; every edge not named here knows none."""

IMPURE = {"asyncio", "socket", "sqlite3", "asyncpg", "structlog", "prometheus_client"}


def imports(module: str) -> tuple[set[str], set[str]]:
    """Return which modules of ours, and which other packages, a module imports anywhere in its text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, which this test does not follow"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("recio_ingest.") for name in names if name.split(".")[0] == "recio_ingest"}
    ours = {next(prefix for prefix in (name, name.rpartition(".")[0]) if prefix in MODULES) for name in inside}
    return ours, {name.split(".")[0] for name in names} - {"recio_ingest"}


def layer(module: str) -> int:
    """Return the number of a module's layer."""
    return next(number for number, modules in enumerate(LAYERS) if module in modules)


def test_every_module_has_one_layer() -> None:
    """A new module is put into a layer on purpose, here, and into one only."""
    assert sorted(name for modules in LAYERS for name in modules) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """No module imports from a layer above its own, and an edge imports another edge only where that is listed."""
    ours, _ = imports(module)
    assert {name for name in ours if layer(name) > layer(module)} == set()
    if module in EDGES:
        assert ours & EDGES - {module} <= BESIDE.get(module, set())


@pytest.mark.parametrize("module", sorted(WORDS | VENUES))
def test_words_and_venues_are_pure(module: str) -> None:
    """Layers 0 and 1 touch no socket, clock loop, log, metric or database: same frames, same rows."""
    assert imports(module)[1] & IMPURE == set()


def test_a_venue_is_named_at_home_only() -> None:
    """A venue's name stands in its own file, in the settings and in the demo, and nowhere else."""
    at_home = {"settings"} | {name for name in MODULES if name.split(".")[0] in {"feeds", "demo"}}
    elsewhere = {
        name
        for name, path in MODULES.items()
        if name not in at_home and re.search("coinbase|kalshi", path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    assert elsewhere == set()


def test_the_checks_can_fail() -> None:
    """The walk sees what it is there to see: the edges the spool and the store stand on."""
    assert imports("spool_folder") == (
        {"errors", "segments"},
        {"__future__", "collections", "contextlib", "fcntl", "os", "pathlib", "sqlite3", "structlog", "uuid"},
    )
    assert "asyncpg" in imports("store")[1]
