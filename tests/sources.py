"""Messages in the venues' shapes, written for these tests, and frames made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from recio_ingest.records import Frame, Kind

RECV_NS = 1_790_000_000_123_456_789
PRODUCT = "BTC-USD"


def match(trade_id: int, price: str = "60000.10", size: str = "0.01000000", **changes: object) -> dict[str, Any]:
    """A match; `side` is the maker's, so the taker bought."""
    return {
        "type": "match",
        "trade_id": trade_id,
        "maker_order_id": "11111111-2222-3333-4444-555555555555",
        "taker_order_id": "66666666-7777-8888-9999-000000000000",
        "side": "sell",
        "size": size,
        "price": price,
        "product_id": PRODUCT,
        "sequence": trade_id * 3,
        "time": "2026-09-21T14:13:20.123456Z",
        **changes,
    }


def frames(messages: Sequence[object], first_no: int = 1, feed: str = "coinbase") -> list[Frame]:
    """Data frames, one a millisecond."""
    return [
        Frame(first_no + at, RECV_NS + at * 1_000_000, feed, Kind.DATA, json.dumps(message).encode())
        for at, message in enumerate(messages)
    ]


class Frames:
    """A source of frames that ends: what a file is to the shipper, without the file."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = list(frames)
        self.committed_no = 0

    async def read(self, after_no: int, max_frames: int) -> list[Frame]:
        """Return the next frames."""
        return [frame for frame in self._frames if frame.frame_no > after_no][:max_frames]

    def committed(self, frame_no: int) -> None:
        """Remember how far the shipper says it is."""
        self.committed_no = frame_no
