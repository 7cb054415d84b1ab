"""One websocket connection of the fake Coinbase, and the ledger of what was written to it."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from websockets.asyncio.server import ServerConnection

    from harness.venue_server import Venue

TICK_S = 0.005
HEARTBEAT_EVERY_S = 1.0
SUBSCRIBE_WITHIN_S = 5.0
# At most this many trades of a product in one write: a client that comes back from a stop is fed in slices.
MOST_AT_ONCE = 2000


def dump(message: object) -> bytes:
    """Write JSON as the venue does, without blanks."""
    return json.dumps(message, separators=(",", ":")).encode()


def text_frame(payload: bytes) -> bytes:
    """Frame a text message of a server (RFC 6455, 5.2); a write for many frames is what makes this fast."""
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload


class Session:
    """One connection: what it asked for, where it stands, what was written to it."""

    def __init__(self, venue: Venue, socket: ServerConnection) -> None:
        self.venue = venue
        self.socket = socket
        self.channels: dict[str, dict[str, None]] = {}  # products in the order of asking
        self.cursors: dict[str, int] = {}
        self.sent: dict[str, list[list[int]]] = {}
        self.opened_ns, self.closed_ns = time.time_ns(), 0

    def note(self, product: str, trade_id: int) -> None:
        """Enter a trade into the ledger, which is a list of ranges without holes."""
        ranges = self.sent.setdefault(product, [])
        if ranges and ranges[-1][0] <= trade_id <= ranges[-1][1]:
            return
        if ranges and ranges[-1][1] + 1 == trade_id:
            ranges[-1][1] = trade_id
        else:
            ranges.append([trade_id, trade_id])

    def matches(self, product: str, ids: Iterable[int]) -> list[bytes]:
        """Make the frames of these trades, tickers between them, and enter them."""
        frames = []
        every = self.venue.ticker_every if product in self.channels.get("ticker", {}) else 0
        for trade_id in ids:
            if any(trade_id in hole for hole in self.venue.holes[product]):
                continue
            trade = self.venue.markets[product].trade(trade_id)
            self.note(product, trade_id)
            frames.append(text_frame(dump(trade.message())))
            if every and trade_id % every == 0:
                frames.append(text_frame(dump(trade.ticker())))
        return frames

    def advance(self) -> list[bytes]:
        """Make the frames of all that was traded since the last look."""
        frames = []
        for product, cursor in self.cursors.items():
            newest = min(self.venue.newest(product), cursor + MOST_AT_ONCE)
            frames += self.matches(product, range(cursor + 1, newest + 1))
            self.cursors[product] = max(cursor, newest)
        return frames

    def heartbeats(self) -> list[bytes]:
        """Tell the number of the last trade, also where a hole hides it."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return [text_frame(dump(self.heartbeat(product, now))) for product in self.channels.get("heartbeat", {})]

    def heartbeat(self, product: str, now: str) -> dict[str, str | int]:
        """Make one heartbeat; before any match of its product it knows no trade."""
        last = self.cursors.get(product, 0)
        return {
            "type": "heartbeat",
            "sequence": 7 * last + 2,
            "last_trade_id": last,
            "product_id": product,
            "time": now,
        }

    def subscribe(self, order: dict[str, Any]) -> list[bytes]:
        """Acknowledge everything held now, and begin each new product with its last trade."""
        for channel in order["channels"]:
            self.channels.setdefault(channel, {}).update(dict.fromkeys(order["product_ids"]))
        held = [{"name": name, "product_ids": list(products)} for name, products in self.channels.items()]
        frames = [text_frame(dump({"type": "subscriptions", "channels": held}))]
        for product in self.channels.get("matches", {}):
            if product not in self.cursors:
                newest = self.cursors[product] = self.venue.newest(product)
                self.note(product, newest)
                last = self.venue.markets[product].trade(newest)
                frames.append(text_frame(dump(last.message("last_match"))))
        return frames

    def write(self, frames: list[bytes]) -> None:
        """Write at once; the buffer is bounded by the drain between two ticks."""
        self.socket.transport.write(b"".join(frames))

    async def stream(self) -> None:
        """Send what is traded until the socket closes."""
        heartbeat_at = time.monotonic() + HEARTBEAT_EVERY_S
        while self.socket.state is State.OPEN and not self.socket.transport.is_closing():
            frames = self.advance()
            if time.monotonic() >= heartbeat_at:
                heartbeat_at += HEARTBEAT_EVERY_S
                frames += self.heartbeats()
            if frames:
                self.write(frames)
                await self.socket.drain()
            await asyncio.sleep(TICK_S)

    async def run(self) -> None:
        """Serve the connection."""
        async with asyncio.TaskGroup() as tasks:
            streaming = None
            try:
                while True:
                    # The venue closes a connection that asks for nothing.
                    async with asyncio.timeout(None if streaming else SUBSCRIBE_WITHIN_S):
                        order = json.loads(await self.socket.recv())
                    if order["type"] == "subscribe":
                        self.write(self.subscribe(order))
                        streaming = streaming or tasks.create_task(self.stream(), name="stream")
            except (ConnectionClosed, TimeoutError):
                pass
            finally:
                self.closed_ns = time.time_ns()
                if streaming:
                    streaming.cancel()
