"""One websocket connection of the fake Coinbase, and the ledger of what was written to it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.venue_host import MOST_AT_ONCE, HostedSession, dump, note, text_frame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from websockets.asyncio.server import ServerConnection

    from harness.venue_server import Venue

HEARTBEAT_EVERY_S = 1.0


class Session(HostedSession):
    """One connection: what it asked for, where it stands, what was written to it."""

    def __init__(self, venue: Venue, socket: ServerConnection) -> None:
        super().__init__(socket)
        self.venue = venue
        self.channels: dict[str, dict[str, None]] = {}  # products in the order of asking
        self.cursors: dict[str, int] = {}
        self.sent: dict[str, list[list[int]]] = {}
        self.heartbeat_at = time.monotonic() + HEARTBEAT_EVERY_S

    def note(self, product: str, trade_id: int) -> None:
        """Enter a trade into the ledger."""
        note(self.sent.setdefault(product, []), trade_id, trade_id - 1)

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
        """Make the frames of all that was traded since the last look, and of the heartbeats."""
        frames = []
        for product, cursor in self.cursors.items():
            newest = min(self.venue.newest(product), cursor + MOST_AT_ONCE)
            frames += self.matches(product, range(cursor + 1, newest + 1))
            self.cursors[product] = max(cursor, newest)
        if time.monotonic() >= self.heartbeat_at:
            self.heartbeat_at += HEARTBEAT_EVERY_S
            frames += self.heartbeats()
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

    def obey(self, order: dict[str, Any]) -> list[bytes]:
        """Answer a subscription; nothing else is asked of this venue."""
        return self.subscribe(order) if order["type"] == "subscribe" else []

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
