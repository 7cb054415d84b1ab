"""A fake Kalshi in a process of its own, and the orders that a test can give it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from harness.kalshi_ledger import KalshiLedger
from harness.kalshi_market import KINDS
from harness.venue_process import VenueProcess
from harness.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIVE_WITHIN_S = 30.0


class KalshiOracle(VenueProcess):
    """`rate` is tickers and trades a second, of `trade_every` messages one a trade; the index is told once a second.

    The key that the handshake must be signed with is made for this venue alone and written into `folder`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rate: float = 500,
        markets: int = 40,
        trade_every: int = 4,
        series: str = "KXBTCD",
        print_delay_ms: int = 53,
    ) -> None:
        self.series, self.key_id, self.key = series, str(uuid4()), Ed25519PrivateKey.generate()
        self.key_file = folder / f"kalshi-{self.key_id}.pem"
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(self.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        settings = {
            "key_id": self.key_id,
            "public_key": self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex(),
            "series": series,
            "markets": markets,
            "trade_every": trade_every,
            "rate": rate,
            "print_delay_ms": print_delay_ms,
        }
        super().__init__("harness.kalshi_server", settings)

    @property
    def url(self) -> str:
        """Where the websocket is."""
        return f"ws://127.0.0.1:{self.port}/trade-api/ws/v2"

    @property
    def rest_url(self) -> str:
        """Where the markets are described."""
        return f"http://127.0.0.1:{self.port}/trade-api/v2"

    @property
    def section(self) -> dict[str, Any]:
        """The section of the configuration that makes a daemon record this venue."""
        return {
            "enabled": True,
            "url": self.url,
            "rest_url": self.rest_url,
            "series": [self.series],
            "key_id": self.key_id,
            "key_file": str(self.key_file),
        }

    async def rest(self, *, on: bool = True) -> None:
        """Answer REST requests for trades, or not."""
        await self.order("rest", on=on)

    async def ledger(self) -> KalshiLedger:
        """What was sent until now."""
        return KalshiLedger.from_venue(await self.order("ledger"))

    async def live(self, *kinds: str, within_s: float = LIVE_WITHIN_S) -> None:
        """Wait until a connection that is open was sent something of each of these kinds, or of all."""
        wanted: Sequence[str] = kinds or KINDS

        async def look() -> bool:
            told = await self.order("live")
            return all(told[kind] for kind in wanted)

        await until(look, within_s=within_s, what=f"{wanted} on an open connection", every_s=0.02)
