"""The daemon's venues, simulated on loopback: real websocket and REST servers in the daemon's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from recio_ingest.demo.coinbase import CoinbaseVenue
from recio_ingest.settings import Settings

log = structlog.get_logger()


@asynccontextmanager
async def venues(settings: Settings) -> AsyncIterator[Settings]:
    """Run the simulators; yield the settings that lead to them, and to a database that is only the demo's."""
    async with CoinbaseVenue(settings.feeds.coinbase.products) as coinbase:
        log.info("demo.started", coinbase=coinbase.url, hint="look: recio-ingest --status, or http.port in a browser")
        simulated = {"enabled": True, "url": coinbase.url, "rest_url": coinbase.rest_url}
        yield settings.model_copy(
            update={
                "state_dir": settings.state_dir / "demo",
                "database": settings.database.model_copy(update={"dsn": ""}),
                "feeds": settings.feeds.model_copy(
                    update={"coinbase": settings.feeds.coinbase.model_copy(update=simulated)}
                ),
            }
        )
