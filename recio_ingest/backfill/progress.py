"""How far a load is: a bar on a terminal, a line in the log every few seconds otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = structlog.get_logger()

EVERY_S = 10.0


@contextmanager
def shown(file: str, table: str, rows: int) -> Iterator[Callable[[int], None]]:
    """Show how far a load is; call what it yields with the rows that are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.speed:,.0f} rows/s"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(f"{file} {table}", total=rows)
            yield lambda done: progress.update(task, completed=done)
    else:
        yield _Lines(file, table, rows)
    sys.stderr.flush()


class _Lines:
    """Writes a line every ten seconds."""

    def __init__(self, file: str, table: str, rows: int) -> None:
        self._names = {"file": file, "table": table}
        self._rows = rows
        self._began: tuple[float, int] | None = None
        self._said_s = time.monotonic()

    def __call__(self, done: int) -> None:
        now_s = time.monotonic()
        # What an earlier run loaded is not of this run's rate.
        began_s, before = self._began = self._began or (now_s, done)
        if now_s - self._said_s < EVERY_S:
            return
        self._said_s = now_s
        rate = (done - before) / (now_s - began_s) if now_s > began_s else 0.0
        left_s = round((self._rows - done) / rate) if rate else None
        log.info("backfill.progress", **self._names, rows=done, of=self._rows, rows_per_s=round(rate), left_s=left_s)
