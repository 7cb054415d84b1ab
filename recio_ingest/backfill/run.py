"""The command: files in, a report and an exit code out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import orjson
from rich.console import Console

from recio_ingest import ship, store
from recio_ingest.backfill import progress, report, snapshot
from recio_ingest.backfill.door import FEED, ROLE
from recio_ingest.backfill.load import Loader
from recio_ingest.backfill.report import Failed, Loaded
from recio_ingest.backfill.source import Found, Source
from recio_ingest.backfill.undo import NAMED, undo
from recio_ingest.backfill.verify import Load, second_read, verify
from recio_ingest.errors import EXIT_FAILED, RecioError
from recio_ingest.sql import statement

# A report that goes to a file or a pipe is not cut to somebody's window.
WIDTH_ELSEWHERE = 160

Explain = Callable[[RecioError], int]


class Wanted(NamedTuple):
    """What the command line asks for; `folder` takes the copies while they are needed."""

    paths: Sequence[Path]
    user: str
    dry_run: bool
    strict: bool
    report: Path | None
    folder: Path


async def run(dsn: str, wanted: Wanted, explain: Explain) -> int:
    """Load, verify and report every file; return the worst exit code. `explain` tells an error and gives its code."""
    loads: list[Loaded] = []
    failed: list[Failed] = []
    for path in wanted.paths:
        try:
            await _file(dsn, path, wanted, loads)
        except (RecioError, *store.ERRORS) as exc:
            error = ship.one_shot(exc)
            failed.append(Failed(path.name, str(error), explain(error)))
    worst = max((each.exit_code for each in failed), default=0)
    if any(not load.ok or (wanted.strict and load.quarantined) for load in loads):
        worst = max(worst, EXIT_FAILED)
    _show(loads)
    if wanted.report is not None:
        answer = {**report.as_json(loads, failed), "exit_code": worst, "dry_run": wanted.dry_run}
        try:
            wanted.report.write_bytes(orjson.dumps(answer, option=orjson.OPT_INDENT_2) + b"\n")
        except OSError as exc:
            worst = max(worst, explain(RecioError(f"{wanted.report} cannot be written: {exc.strerror}")))
    return worst


async def take_back(dsn: str, backfill_id: int) -> int:
    """Undo one load; return 1 where rows had to stay, or were gone before."""
    connection = await store.connect(dsn, role=ROLE)
    try:
        done = await undo(connection, backfill_id)
    finally:
        await connection.close()
    print(f"backfill {backfill_id}: {done.removed} rows removed from {done.target}")  # noqa: T201  # the command's output
    if done.gone:
        print(  # noqa: T201  # same
            f"{done.gone} rows were gone before; those of an archived month can come back by --restore-archive:"
            " undo once more then"
        )
    if done.stayed:
        more = "at least " if len(done.stayed) == NAMED else ""
        ids = ", ".join(map(str, done.stayed))
        print(f"{more}{len(done.stayed)} rows stay, changed or referred to since: {ids}")  # noqa: T201  # same
    return EXIT_FAILED if done.gone or done.stayed else 0


async def _file(dsn: str, path: Path, wanted: Wanted, loads: list[Loaded]) -> None:
    with snapshot.taken(path, wanted.folder) as copy, closing(Source(copy)) as source:
        source.check()
        for found in source.find():
            # What was loaded before an error belongs into the report, also what could not be verified then.
            loads.append(await _table(dsn, source, found, wanted))
            if not wanted.dry_run:
                loads[-1] = await _verified(dsn, source, found, wanted, loads[-1])


async def _table(dsn: str, source: Source, found: Found, wanted: Wanted) -> Loaded:
    copy, table = source.snapshot, found.table
    loader = Loader(dsn, source, found, wanted.user)
    target = f"{table.schema}.{table.leaf(wanted.user)}"
    begun = Loaded(copy.name, copy.sha256, table.name, target, None, found.rows, 0, 0, {}, 0.0, found.unknown)
    began_s = time.monotonic()
    with progress.shown(copy.name, table.name, found.rows) as told:
        if wanted.dry_run:
            tried, reasons = await loader.try_out(told)
            return begun._replace(
                inserted=tried.inserted,
                present=tried.present,
                quarantined=reasons,
                lasted_s=time.monotonic() - began_s,
            )
        done = (await loader.run(told)).progress
    return begun._replace(
        backfill_id=done.backfill_id,
        inserted=done.inserted,
        present=done.present,
        quarantined={"": done.quarantined},
        lasted_s=time.monotonic() - began_s,
    )


async def _verified(dsn: str, source: Source, found: Found, wanted: Wanted, loaded: Loaded) -> Loaded:
    assert loaded.backfill_id is not None
    counts = (loaded.rows, loaded.inserted, loaded.present, sum(loaded.quarantined.values()))
    load = Load(loaded.backfill_id, found.table, wanted.user, *counts)
    connection = await store.connect(dsn, role=ROLE)
    try:
        stream = f"{FEED}/{loaded.backfill_id}"
        reasons = Counter(
            {row["reason"]: row["rows"] for row in await connection.fetch(statement("backfill_reasons"), stream)}
        )
        verdict = await verify(connection, second_read(source, found), load)
        loaded = loaded._replace(quarantined=reasons, verdict=verdict)
        kept = orjson.dumps(loaded.as_json()).decode()
        await connection.execute(statement("backfill_verdict"), loaded.backfill_id, verdict.ok, kept)
    finally:
        connection.terminate()
    return loaded


def _show(loads: Sequence[Loaded]) -> None:
    if not loads:
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_ELSEWHERE)
    console.print(report.table(loads))
    for line in report.lines(loads):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
