"""All that is asked of Kalshi by REST: about markets, and now and then whether anything trades at all.

Source: the venue's page "Get Exchange Status". Thursdays from 3 to 5 in New York trading pauses, at other times without
a word; what is silent then has not stalled.
"""

from __future__ import annotations

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Request
from recio_ingest.feeds.kalshi_markets import Markets

PATH = "/exchange/status"
EVERY_S = 60.0


class Exchange:
    """Asks about markets first: what they are is recorded, whether they trade only explains a silence."""

    def __init__(self, markets: Markets) -> None:
        self.markets = markets
        self._asked_s: float | None = None

    @property
    def trouble(self) -> str:
        """What the answers lack."""
        return self.markets.trouble

    def due(self, now_s: float) -> Request | None:
        """Return what to ask now, if anything."""
        request = self.markets.due(now_s)
        if request is not None:
            return request
        if self._asked_s is None:
            self._asked_s = now_s
        if now_s - self._asked_s < EVERY_S:
            return None
        self._asked_s = now_s
        return Request(PATH, {}, PATH)

    def take(self, request: Request, answer: bytes, now_s: float) -> Request | None:
        """Take an answer in; return the request for its next page. Raises BadMessageError for another shape."""
        if request.path != PATH:
            return self.markets.take(request, answer, now_s)
        try:
            status = orjson.loads(answer)
            self.markets.exchange_trades = status["exchange_active"] is True and status["trading_active"] is True
        except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
            raise BadMessageError("schema", f"no status of the exchange: {exc!r}"[:200]) from None
        return None
