"""The daemon's venues, simulated on loopback: real websocket and REST servers in the daemon's own event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from recio_ingest.demo.coinbase import CoinbaseVenue
from recio_ingest.demo.kalshi import KalshiVenue
from recio_ingest.errors import ConfigError
from recio_ingest.settings import Settings

KEY_ID, KEY_FILE = "demo", "kalshi.pem"

log = structlog.get_logger()


@asynccontextmanager
async def venues(settings: Settings) -> AsyncIterator[Settings]:
    """Run the simulators in real time; yield the settings that lead to them, and to a database only of the demo.

    The key to Kalshi is made anew each time. Raises ConfigError where the settings leave nothing to simulate, or
    no place for the key.
    """
    feeds, state_dir = settings.feeds, settings.state_dir / "demo"
    if not feeds.coinbase.products or not feeds.kalshi.series:
        raise ConfigError(
            "there is nothing to simulate", hint="set feeds.coinbase.products and feeds.kalshi.series, or neither"
        )
    key_file = state_dir / KEY_FILE
    public_key = _new_key(key_file)
    async with (
        CoinbaseVenue(feeds.coinbase.products) as coinbase,
        KalshiVenue(feeds.kalshi.series, public_keys={KEY_ID: public_key}) as kalshi,
    ):
        log.info(
            "demo.started",
            coinbase=coinbase.url,
            kalshi=kalshi.url,
            hint="look: recio-ingest --status, or http.port in a browser",
        )
        simulated = {"enabled": True, "url": coinbase.url, "rest_url": coinbase.rest_url}
        signed = {"url": kalshi.url, "rest_url": kalshi.rest_url, "key_id": KEY_ID, "key_file": str(key_file)}
        yield settings.model_copy(
            update={
                "state_dir": state_dir,
                "database": settings.database.model_copy(update={"dsn": ""}),
                "feeds": feeds.model_copy(
                    update={
                        "coinbase": feeds.coinbase.model_copy(update=simulated),
                        "kalshi": feeds.kalshi.model_copy(update={"enabled": True} | signed),
                    }
                ),
            }
        )


def _new_key(file: Path) -> Ed25519PublicKey:
    """Write a new private key where only its owner can read it; return its public half."""
    key = Ed25519PrivateKey.generate()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # not written over: whatever mode an old one has, or who has it open
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except OSError as exc:
        raise ConfigError(
            f"the demo's key {file} cannot be written: {exc.strerror}",
            hint="give the daemon's account a state_dir that it owns",
        ) from exc
    return key.public_key()
