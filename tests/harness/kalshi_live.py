"""The daemon at the simulated Kalshi: a venue that counts who knocks, key files, and a witness of what was told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from harness.kalshi_client import ED, KEYS, START, ask, signed
from harness.progress import scalar
from harness.waiting import until
from recio_ingest.demo.kalshi import KalshiVenue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from recio_ingest.demo.kalshi_session import Session, Subscription

Body = dict[str, Any]
# Ten venue-seconds a second: quotes change between two polls, and nothing opens or closes during a test.
CALM = {"hour_s": 360.0, "start_s": START + 1200}


class Venue(KalshiVenue):
    """A simulated Kalshi that lets a test look at what is held, and counts handshakes; `refusing` them with 503."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(public_keys=KEYS, **({"start_s": START} | settings))
        self.handshakes: list[tuple[float, str]] = []
        self.refusing = False

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append((time.monotonic(), request.headers.get("KALSHI-ACCESS-KEY", "")))
        return connection.respond(503, "refusing") if self.refusing else super()._admit(connection, request)

    @property
    def now_s(self) -> float:
        """The venue's time."""
        return self._clock.now_ms() / 1000

    def skip_to(self, moment_s: int) -> None:
        """Let the venue's time jump forward. Nobody is told what happens on the way, but for the last half minute."""
        ahead_ms = moment_s * 1000 - self._clock.now_ms()
        assert ahead_ms > 0, "time does not go back"
        self._clock._start_ms += ahead_ms

    def knocks(self, key_id: str) -> int:
        """How many handshakes there were with a key."""
        return sum(1 for _, name in self.handshakes if name == key_id)

    def sessions(self, key_id: str) -> list[Session]:
        """The connections of a key."""
        return [session for session in self._sessions.values() if session.key_id == key_id]

    def holds(self, key_id: str) -> dict[str, Subscription]:
        """What the connections of a key are subscribed to, by channel."""
        return {held.channel: held for session in self.sessions(key_id) for held in session.held.values()}

    def markets(self, status: str) -> set[str]:
        """The markets in one of the answers' states."""
        return {s.ticker for s in self._exchange.strikes() if s.event.status(self._exchange.now_s) == status}

    async def subscribed(self, key_id: str = "ed", *, channels: int = 4, within_s: float = 20.0) -> None:
        """Wait until a key holds so many channels, those by market with every open market."""

        async def look() -> bool:
            held = self.holds(key_id)
            by_market = [each for name, each in held.items() if name in {"ticker", "trade"}]
            wanted = self.markets("active")
            return len(held) >= channels and all(wanted <= set(each.keys or ()) for each in by_market)

        await until(look, within_s=within_s, what=f"{channels} channels to be subscribed to", every_s=0.02)


def write_key(path: Path, key: Ed25519PrivateKey | RSAPrivateKey = ED, mode: int = 0o600) -> Path:
    """Write a private key where `mode` says who may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(mode)
    return path


def at(venue: KalshiVenue, folder: Path, key_id: str = "ed", key: Ed25519PrivateKey | RSAPrivateKey = ED) -> Body:
    """Return the section of a configuration that leads to a venue with a key; without `key_id` it has none."""
    section = {"url": venue.url, "rest_url": venue.rest_url, "series": ["KXBTCD"]}
    return section | ({"key_id": key_id, "key_file": str(write_key(folder / f"{key_id}.pem", key))} if key_id else {})


class Witness:
    """What one connection was told, message by message."""

    def __init__(self) -> None:
        self.told: list[Body] = []
        self.lost = ""

    def of(self, kind: str) -> list[Body]:
        """The bodies of one type."""
        return [message["msg"] for message in self.told if message["type"] == kind]


@asynccontextmanager
async def witness(venue: KalshiVenue, key_id: str = "rsa") -> AsyncIterator[Witness]:
    """Write down everything that the venue tells, about all markets, from here to the end."""
    seen = Witness()
    async with connect(venue.url, additional_headers=signed(key_id), max_queue=None, close_timeout=0.1) as ws:
        for number, channel in enumerate(("market_lifecycle_v2", "cfbenchmarks_value", "ticker", "trade"), 1):
            more = {"index_ids": ["BRTI"]} if channel == "cfbenchmarks_value" else {}
            assert (await ask(ws, number, "subscribe", channels=[channel], **more))["type"] == "subscribed"

        async def listen() -> None:
            try:
                async for text in ws:
                    seen.told.append(json.loads(text))
            except ConnectionClosed as exc:
                seen.lost = str(exc)

        task = asyncio.create_task(listen())
        try:
            yield seen
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def content(body: Body) -> str:
    """Write a body so that equal ones are equal."""
    return json.dumps(body, sort_keys=True)


def counted(bodies: list[Body]) -> Counter[str]:
    """Count bodies by their content."""
    return Counter(content(body) for body in bodies)


async def rows(dsn: str, where: str, table: str = "websocket_market_data") -> int:
    """Count rows of a live table."""
    return int(await scalar(dsn, f"SELECT count(*) FROM live_data.{table} WHERE {where}") or 0)


async def more_rows(dsn: str, where: str, table: str = "websocket_market_data", *, within_s: float = 20.0) -> int:
    """Wait until there are more rows than now; return how many more."""
    before = await rows(dsn, where, table)

    async def look() -> int:
        return await rows(dsn, where, table) - before

    return await until(look, within_s=within_s, what=f"more rows of {table} where {where}", every_s=0.05)
