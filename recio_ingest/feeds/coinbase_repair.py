"""What is asked of Coinbase for trades that did not come: `GET /products/{product}/trades`, from the newest back.

Source: the venue's page "Get product trades". `after` gives trades older than an id, the newest of them first, and at
most 1000; `before` is of no use, as it gives the newest of all and not those next to the id.
"""

from __future__ import annotations

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Missing, Page, Request
from recio_ingest.records import COMPLETE

MAX_PAGE = 1000


class CoinbaseRepair:
    """Pages from the newest id that is missing back to the oldest."""

    GAPS = "coinbase_gaps"
    SETTLE_S = 1.0

    def first(self, gap: Missing) -> Request:
        """Return the question for the newest of the missing."""
        assert gap.from_seq is not None  # the statement finds no others
        assert gap.to_seq is not None
        return _older(gap.parts[0], gap.to_seq + 1, gap.from_seq)

    def take(self, gap: Missing, request: Request, answer: bytes) -> Page:
        """Return the question for what is older than this page, or the end."""
        assert gap.from_seq is not None
        try:
            trades = orjson.loads(answer)
        except orjson.JSONDecodeError as exc:
            raise BadMessageError("json", str(exc)) from None
        if not isinstance(trades, list) or not all(isinstance(trade, dict) for trade in trades):
            raise BadMessageError("schema", "trades are not a list of objects")
        if len(trades) > MAX_PAGE:
            raise BadMessageError("bounds", f"{len(trades)} trades in one page")
        if not trades:
            return Page(None, "venue_has_no_more")
        ids = [trade.get("trade_id") for trade in trades]
        if any(type(each) is not int for each in ids):
            raise BadMessageError("schema", "trade_id is not a whole number")
        oldest = min(ids)
        if max(ids) >= int(request.query["after"]):
            raise BadMessageError("order", "a page is not older than was asked for")
        if oldest <= gap.from_seq:
            return Page(None, COMPLETE)
        return Page(_older(request.about, oldest, gap.from_seq))


def _older(product: str, than: int, down_to: int) -> Request:
    limit = min(MAX_PAGE, than - down_to)
    return Request(f"/products/{product}/trades", {"limit": str(limit), "after": str(than)}, product)
