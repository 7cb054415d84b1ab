"""What is asked of Kalshi for trades that did not come, and what becomes of the answers: `GET /markets/trades`.

Source: the venue's page "Get Trades". Trades of one market, or of all, between two seconds, the newest first; an empty
`cursor` is the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Missing, Page, Request, repair
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.feeds.kalshi_questions import MAX_PAGE, page
from recio_ingest.feeds.ledger import Recent
from recio_ingest.records import COMPLETE, Decoded, Frame, MarketEvent

# More markets than this are not asked for one by one, which would take more than a quarter of an hour.
MAX_MARKETS = 2000
# A gap's bounds are of this machine's clock, the trades' times of the venue's: what is asked for too much is known.
CLOCK_MARGIN_S = 5


class KalshiRepair:
    """Asks for the trades of each market that was open in the gap; where none is known, of all."""

    GAPS = "kalshi_gaps"
    # Messages of the margin have come by then.
    SETTLE_S = 2.0 * CLOCK_MARGIN_S

    def first(self, gap: Missing) -> Request:
        """Return the question for the first market."""
        return _trades(gap, _markets(gap)[0])

    def take(self, gap: Missing, request: Request, answer: bytes) -> Page:
        """Return the question for the next page, or the next market, or the end."""
        _, cursor = page(request, answer, "trades")
        if cursor:
            return Page(request._replace(query={**request.query, "cursor": cursor}))
        markets = _markets(gap)
        following = markets.index(request.about) + 1
        return Page(_trades(gap, markets[following])) if following < len(markets) else Page(None, COMPLETE)


def _markets(gap: Missing) -> Sequence[str]:
    return gap.parts if 0 < len(gap.parts) <= MAX_MARKETS else ("",)


def _trades(gap: Missing, market: str) -> Request:
    query = {
        "min_ts": str(gap.from_time // 1_000_000 - CLOCK_MARGIN_S),
        "max_ts": str(-(-gap.to_time // 1_000_000) + CLOCK_MARGIN_S),
        "limit": str(MAX_PAGE),
    }
    return Request("/markets/trades", query | ({"ticker": market} if market else {}), market)


def decode(frame: Frame, series: Sequence[str] | None, seen: Sequence[Recent]) -> Decoded:
    """Return the rows of those trades that none of `seen` knows; the last of these remembers them.

    An answer about all markets gives only those of the series that are followed.
    """
    answer = repair.read(frame)

    def take(place: int, trade: Any) -> tuple[MarketEvent, ...]:  # noqa: ANN401  # any JSON value
        row = rest_trade(frame, place, trade)
        followed = answer.part or series is None or str(row.ticker).partition("-")[0] in series
        known = any(str(row.trade_id) in names for names in seen)
        return (row,) if followed and not known and seen[-1].see(str(row.trade_id)) else ()

    return repair.decode(frame, answer, take)


def rest_trade(frame: Frame, place: int, trade: Any) -> MarketEvent:  # noqa: ANN401  # any JSON value
    """Return the row of one trade; its price is that of YES, its side the outcome that the taker took."""
    if not isinstance(trade, dict):
        raise BadMessageError("schema", "a trade is not an object")
    price, size = fields.price(trade, "yes_price_dollars"), fields.decimal(trade, "count_fp")
    moment = fields.time(trade, "created_time")
    if price is None or size is None or fields.is_zero(size) or moment is None:
        raise BadMessageError("schema", "a trade without yes_price_dollars, count_fp above zero, or created_time")
    side = trade.get("taker_outcome_side", trade.get("taker_side"))  # the latter is the former's deprecated name
    if type(side) is not str or side not in {"yes", "no"}:
        raise BadMessageError("schema", "taker_outcome_side is neither yes nor no")
    return MarketEvent(
        fields.not_future(moment, frame),
        frame.recv_ns // 1000,
        fields.VENUE,
        fields.name(trade, "ticker"),
        "rest_trade",
        frame.frame_no,
        place,
        last_price=price,
        last_size=size,
        side=side,
        trade_id=fields.name(trade, "trade_id"),
        raw_json=orjson.dumps(trade).decode(),
    )
