"""A client of the simulated Kalshi: its keys, its signed handshakes, its commands."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from websockets.asyncio.client import ClientConnection, connect

from recio_ingest.demo.kalshi import KalshiVenue
from recio_ingest.demo.kalshi_auth import PublicKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Message = dict[str, Any]

RSA = generate_private_key(public_exponent=65537, key_size=2048)
ED = Ed25519PrivateKey.generate()
KEYS: dict[str, PublicKey] = {"rsa": RSA.public_key(), "ed": ED.public_key()}
ALL = ["ticker", "trade", "market_lifecycle_v2", "cfbenchmarks_value"]
HOUR_S = 4.0
START = 1_790_362_200  # 2026-09-25 18:50 UTC: an event opens at 19:00 and closes at 20:00, four in New York


def signed(key_id: str = "ed", *, ago_s: float = 0, padding: Any = None, text: str = "GET/trade-api/ws/v2") -> Message:
    """Sign a handshake as the venue's documentation says, or wrongly."""
    stamp = str(round((time.time() - ago_s) * 1000))
    message = f"{stamp}{text}".encode()
    if key_id == "rsa":
        signature = RSA.sign(message, padding or PSS(MGF1(SHA256()), PSS.DIGEST_LENGTH), SHA256())
    else:
        signature = ED.sign(message)
    return {
        "KALSHI-ACCESS-KEY": key_id,
        "KALSHI-ACCESS-TIMESTAMP": stamp,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
    }


def simulated(hour_s: float = HOUR_S, **more: Any) -> KalshiVenue:
    """Return a venue that knows the keys; its time is compressed and starts at START unless told otherwise."""
    return KalshiVenue(public_keys=KEYS, hour_s=hour_s, **({"start_s": START} | more))


@asynccontextmanager
async def connected(venue: KalshiVenue) -> AsyncIterator[ClientConnection]:
    """Connect with the Ed25519 key."""
    async with connect(venue.url, additional_headers=signed(), close_timeout=0.1, max_queue=None) as ws:
        yield ws


async def receive(ws: ClientConnection, kind: str | None = None) -> Message:
    """Return the next message, of one type if given."""
    async with asyncio.timeout(5):
        while True:
            message: Message = json.loads(await ws.recv(), parse_float=Decimal)
            if kind in (None, message["type"]):
                return message


async def send(ws: ClientConnection, number: int, cmd: str, **params: Any) -> None:
    """Send a command."""
    await ws.send(json.dumps({"id": number, "cmd": cmd} | ({"params": params} if params else {})))


async def ask(ws: ClientConnection, number: int, cmd: str, **params: Any) -> Message:
    """Send a command and return its first answer, past whatever else is told."""
    await send(ws, number, cmd, **params)
    while True:
        if (message := await receive(ws)).get("id") == number:
            return message


async def get(http: aiohttp.ClientSession, venue: KalshiVenue, path: str, **query: Any) -> Message:
    """Return what REST answers."""
    async with http.get(f"{venue.rest_url}{path}", params=query) as response:
        assert response.status == 200, await response.text()
        body: Message = json.loads(await response.text(), parse_float=Decimal)
        return body
