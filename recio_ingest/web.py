"""What the daemon says of itself over HTTP: metrics, health, readiness, status. Read only, loopback by default.

None of it shows a DSN, a host's name, a key, a path, SQL, or the text of an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from html import escape
from typing import Any

import orjson
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

log = structlog.get_logger()

# A page is answered in milliseconds: whoever has not read it by now never will. aiohttp waits this long more than once.
SHUTDOWN_TIMEOUT_S = 1.0
CLEANUP_TIMEOUT_S = 3.0

Status = Callable[[], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def serving(host: str, port: int, status: Status) -> AsyncIterator[int]:
    """Serve until left; yield the port. A port that is taken costs one line, never the recording."""
    runner = web.AppRunner(
        _application(status), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True)
        try:
            await site.start()
        except OSError as exc:
            log.error("http.not_served", port=port, error=exc.strerror, hint="set http.port; recording goes on")
            yield 0
        else:
            taken = runner.addresses[0][1]
            log.info("http.serving", host=host, port=taken)
            yield taken
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEANUP_TIMEOUT_S):
                await runner.cleanup()


def _application(status: Status) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        await status()  # moves the gauges that are read and not counted
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        healthy = (await status())["healthy"]
        return web.Response(text="healthy\n" if healthy else "unhealthy\n", status=200 if healthy else 503)

    async def readyz(_: web.Request) -> web.Response:
        ready = (await status())["ready"]
        return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)

    async def status_json(_: web.Request) -> web.Response:
        body = orjson.dumps(await status(), option=orjson.OPT_INDENT_2)
        return web.Response(body=body, content_type="application/json")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=_page(await status()), content_type="text/html")

    application = web.Application()
    application.router.add_get("/", page)
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/status.json", status_json)
    return application


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1rem; margin: 1.5rem 0 .25rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid #8884 }
td { font-variant-numeric: tabular-nums }
th { font-weight: 500; width: 40% }
.good { color: #1a7f37 } .bad { color: #cf222e }
"""


def _page(status: dict[str, Any]) -> str:
    """Return the status for people. Every text in it comes from configuration or code, and is escaped all the same."""
    verdict = "healthy" if status["healthy"] else "unhealthy"
    problems = "".join(f"<li>{escape(problem)}</li>" for problem in status["problems"])
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>recio-ingest: {verdict}</title><style>{_STYLE}</style>",
        f'<h1>recio-ingest {escape(status["version"])}: <span class="{"good" if status["healthy"] else "bad"}">',
        f"{verdict}</span></h1>",
        f"<ul>{problems}</ul>" if problems else "",
    ]
    sections = [(name, status[name]) for name in ("books", "spool", "database", "settlements") if status.get(name)]
    sections += [(f"feed {name}", feed) for name, feed in status["feeds"].items()]
    for name, facts in sections:
        parts.append(f"<h2>{escape(name)}</h2><table>")
        parts += [f"<tr><th>{escape(key)}</th><td>{escape(_words(value))}</td></tr>" for key, value in facts.items()]
        parts.append("</table>")
    return "".join(parts)


def _words(value: Any) -> str:  # noqa: ANN401  # any JSON value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
