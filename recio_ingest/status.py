"""`recio-ingest --status`: asks the running daemon and prints a table for people."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recio_ingest.errors import EXIT_FAILED
from recio_ingest.settings import Settings

TIMEOUT_S = 5


def show(settings: Settings) -> int:
    """Print the daemon's status; return 0 where it is healthy and 1 where it is not, or does not answer."""
    host = "127.0.0.1" if settings.http.host in ("0.0.0.0", "") else settings.http.host  # noqa: S104  # compared only
    address = f"http://{f'[{host}]' if ':' in host else host}:{settings.http.port}"
    console = Console()
    try:
        with urllib.request.urlopen(f"{address}/status.json", timeout=TIMEOUT_S) as answer:  # noqa: S310  # http, ours
            status = orjson.loads(answer.read())
    except (OSError, urllib.error.URLError, ValueError) as exc:
        console.print(f"[red]no answer[/red] from {address}: {escape(str(exc))}")
        console.print("is recio-ingest running, and with this configuration (http.host, http.port)?")
        return EXIT_FAILED
    console.print(_table(status))
    for problem in status["problems"]:
        console.print(f"[red]*[/red] {escape(problem)}")
    return 0 if status["healthy"] else EXIT_FAILED


def _table(status: dict[str, Any]) -> Table:
    verdict = "[green]healthy[/green]" if status["healthy"] else "[red]unhealthy[/red]"
    table = Table(
        title=f"recio-ingest {status['version']}: {verdict}, up {status['uptime_s']:,} s", title_justify="left"
    )
    table.add_column("what")
    table.add_column("state")
    table.add_column("figures", justify="right")
    for name, feed in status["feeds"].items():
        lacks = f", without {escape(feed['cause'])}" if feed["cause"] else ""
        state = (
            f"[green]connected[/green]{lacks}" if feed["connected"] else f"[red]{escape(feed['cause'] or 'down')}[/red]"
        )
        lag = "-" if feed["lag_s"] is None else f"lag {feed['lag_s']:.3f} s"
        table.add_row(f"feed {name}", state, f"{lag}, {feed['received']:,} received")
        if feed.get("rest", "ok") != "ok":
            table.add_row(f"feed {name}, REST", f"[red]{escape(feed['rest'])}[/red]", "")
    database, spool = status["database"], status["spool"]
    up = "[green]up[/green]" if database["up"] else f"[red]{escape(database['fault'] or 'not connected yet')}[/red]"
    table.add_row("database", up, f"epoch {database['epoch']}, frame {database['frame_no']}")
    table.add_row("spool", f"{spool['pending_frames']:,} waiting", f"{spool['size_bytes'] / 2**20:,.1f} MiB on disk")
    if counts := status.get("settlements"):
        state = f"[red]{counts['differs']:,} differ[/red]" if counts["differs"] else f"{counts['equal']:,} equal"
        others = ", ".join(f"{counts[name]:,} {name}" for name in ("incomplete", "unpublished"))
        table.add_row("settlements, 8 days", state, others)
    table.add_section()
    for name, count in status["books"].items():
        table.add_row(f"frames {name}", "", f"{count:,}")
    return table
