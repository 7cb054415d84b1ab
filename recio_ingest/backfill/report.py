"""The report of a load, as JSON and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

# So many differences are named; all are counted.
NAMED = 1000
# So many of them are shown to people; the JSON has the rest.
SHOWN = 20
LONGEST_VALUE = 200


class Check(NamedTuple):
    """One comparison: a group (`sums`), what of it (`pnl`), and what each side says."""

    group: str
    name: str
    source: str
    database: str
    ok: bool


def check(group: str, name: str, source: object, database: object) -> Check:
    """Compare two values."""
    return Check(group, name, str(source), str(database), source == database)


class Difference(NamedTuple):
    """One field that is not as the file has it; without a column, the row as a whole.

    `source` and `database` are shown as the server quotes them: text in quotes, NULL without.
    """

    target: str
    rowid: int
    key: str
    column: str
    source: str
    database: str


class Verdict(NamedTuple):
    """What the verification of one table found.

    `differences` are the first of `differing`; `opened` blocks were compared row by row.
    """

    checks: tuple[Check, ...]
    differences: tuple[Difference, ...] = ()
    differing: int = 0
    rows: int = 0
    duplicates: int = 0
    opened: int = 0
    lasted_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the database has what the file has."""
        return not self.differing and all(each.ok for each in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The verdict for the report, with every check and the named differences."""
        return {
            "verified": self.ok,
            "rows": self.rows,
            "rows_per_s": round(self.rows / self.lasted_s) if self.lasted_s else None,
            "seconds": round(self.lasted_s, 3),
            "duplicates_in_source": self.duplicates,
            "blocks_opened": self.opened,
            "differing": self.differing,
            "differences": [_short(difference)._asdict() for difference in self.differences],
            "checks": [each._asdict() for each in self.checks],
        }


class Loaded(NamedTuple):
    """What one load did, for the report. `quarantined` counts rows by their first reason."""

    file: str
    sha256: str
    table: str
    target: str
    backfill_id: int | None
    rows: int
    inserted: int
    present: int
    quarantined: Mapping[str, int]
    lasted_s: float = 0.0
    not_loaded: Sequence[str] = ()
    verdict: Verdict | None = None

    @property
    def adds_up(self) -> bool:
        """Source rows = inserted + already there + quarantined."""
        return self.rows == self.inserted + self.present + sum(self.quarantined.values())

    @property
    def ok(self) -> bool:
        """Whether the books add up and the verification, if there was one, found nothing."""
        return self.adds_up and (self.verdict is None or self.verdict.ok)

    def as_json(self) -> dict[str, Any]:
        """The load for the report."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "table": self.table,
            "target": self.target,
            "backfill_id": self.backfill_id,
            "source_rows": self.rows,
            "inserted": self.inserted,
            "already_there": self.present,
            "quarantined": sum(self.quarantined.values()),
            "quarantined_by_reason": dict(sorted(self.quarantined.items())),
            "adds_up": self.adds_up,
            "seconds": round(self.lasted_s, 3),
            "rows_per_s": round(self.rows / self.lasted_s) if self.lasted_s else None,
            "columns_not_loaded": list(self.not_loaded),
            "verification": None if self.verdict is None else self.verdict.as_json(),
        }


class Failed(NamedTuple):
    """A file that could not be loaded to its end, or verified."""

    file: str
    error: str
    exit_code: int


def as_json(loads: Sequence[Loaded], failed: Sequence[Failed] = ()) -> dict[str, Any]:
    """Return the report of a run: every file and table, what failed, and whether all is well."""
    return {
        "ok": not failed and all(load.ok for load in loads),
        "loads": [load.as_json() for load in loads],
        "errors": [each._asdict() for each in failed],
    }


def table(loads: Sequence[Loaded]) -> Table:
    """Return the report for people: one line per file and table."""
    shown = Table(title="backfill", title_justify="left")
    shown.add_column("file")
    shown.add_column("table")
    for heading in ("rows", "inserted", "already there", "quarantined", "rows/s"):
        shown.add_column(heading, justify="right")
    shown.add_column("verified")
    for load in loads:
        quarantined = sum(load.quarantined.values())
        rate = f"{load.rows / load.lasted_s:,.0f}" if load.lasted_s else "-"
        counts = (f"{load.rows:,}", f"{load.inserted:,}", f"{load.present:,}", f"{quarantined:,}", rate)
        shown.add_row(escape(load.file), f"{load.table} -> {load.target}", *counts, _verified(load))
    return shown


def lines(loads: Sequence[Loaded]) -> list[str]:
    """Return what stands below the table: reasons, failed checks, and the first differences by name."""
    found: list[str] = []
    for load in loads:
        where = f"{load.file}, {load.table}:"
        reasons = sorted(load.quarantined.items())
        found += [f"{where} {count:,} in the quarantine: {reason}" for reason, count in reasons]
        if load.not_loaded:
            found.append(f"{where} columns that go nowhere: {', '.join(load.not_loaded)}")
        if not load.adds_up:
            found.append(f"{where} the rows do not add up")
        if load.verdict is not None:
            found += [f"{where} {line}" for line in _findings(load.verdict)]
    return found


def _findings(verdict: Verdict) -> list[str]:
    found = [f"{verdict.duplicates:,} keys come more than once in the file"] if verdict.duplicates else []
    for group, checks in groupby(verdict.checks, key=lambda check: check.group):
        found += [
            f"{group}, {check.name}: the file has {check.source}, the database {check.database}"
            for check in checks
            if not check.ok
        ]
    for difference in map(_short, verdict.differences[:SHOWN]):
        what = f"{difference.column}: " if difference.column else ""
        found.append(
            f"row {difference.rowid}, key {difference.key}, {what}"
            f"the file has {difference.source}, the database {difference.database}"
        )
    if verdict.differing > SHOWN:
        found.append(f"... and {verdict.differing - SHOWN:,} more differences")
    return found


def _verified(load: Loaded) -> str:
    if load.verdict is None:
        return "-"
    if load.ok:
        return "[green]yes[/green]"
    failed = sum(not check.ok for check in load.verdict.checks)
    return f"[red]no: {failed} checks, {load.verdict.differing:,} differences[/red]"


def _short(difference: Difference) -> Difference:
    return difference._replace(source=_cut(difference.source), database=_cut(difference.database))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}... ({len(text):,} characters)"
