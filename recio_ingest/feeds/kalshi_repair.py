"""What is asked of Kalshi for what did not come, and what becomes of the answers: trades, by `GET /markets/trades`.

Source: the venue's page "Get Trades". Trades of one market, or of all, between two seconds, the newest first; an empty
`cursor` is the end. How the markets stand: `kalshi_states`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Missing, Page, Request, kalshi_states, repair
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.feeds.kalshi_answers import Answers
from recio_ingest.feeds.kalshi_questions import MAX_PAGE, page
from recio_ingest.feeds.ledger import Recent
from recio_ingest.records import COMPLETE, Decoded, Frame, MarketEvent

# More markets than this are not asked for one by one, which would take more than a quarter of an hour.
MAX_MARKETS = 2000
# A gap's bounds are of this machine's clock, the trades' times of the venue's: what is asked for too much is known.
CLOCK_MARGIN_S = 5


class KalshiRepair:
    """Asks for the trades of a gap in them, of all markets at once where that is less to ask; else how markets stand.

    Some seconds of all the venue's trades are a page or two, where the markets that were open are two hundred; of an
    hour they may be more pages than that. How many, the first page shows by the time that it reaches back.
    """

    GAPS = "kalshi_gaps"
    # Messages of the margin have come by then.
    SETTLE_S = 2.0 * CLOCK_MARGIN_S

    def __init__(self, series: Sequence[str]) -> None:
        self._series = tuple(series)

    def first(self, gap: Missing) -> Request:
        """Return the question for all markets, or for how they stand."""
        return _trades(gap, "") if gap.channel == "trade" else kalshi_states.first(gap, self._series)

    def take(self, gap: Missing, request: Request, answer: bytes) -> Page:
        """Return the question for the next page, or the next market, or the end."""
        if gap.channel != "trade":
            return kalshi_states.take(gap, self._series, request, answer)
        found, cursor = page(request, answer, "trades")
        markets = gap.parts if len(gap.parts) <= MAX_MARKETS else ()
        if cursor and markets and not request.about and _is_longer(gap, found, than=len(markets)):
            return Page(_trades(gap, markets[0]))
        if cursor:
            return Page(request._replace(query={**request.query, "cursor": cursor}))
        following = markets.index(request.about) + 1 if request.about else len(markets)
        return Page(_trades(gap, markets[following])) if following < len(markets) else Page(None, COMPLETE)


def _is_longer(gap: Missing, found: Sequence[Any], than: int) -> bool:
    """Tell whether, after this page of all markets' trades, more of them are to be expected than so many."""
    try:
        newest, oldest = (fields.time(trade, "created_time") for trade in (found[0], found[-1]))
    except (BadMessageError, AttributeError, IndexError):
        return True
    if newest is None or oldest is None:
        return True
    return oldest - _from_s(gap) * 1_000_000 > (newest - oldest) * than


def _from_s(gap: Missing) -> int:
    return gap.from_time // 1_000_000 - CLOCK_MARGIN_S


def _trades(gap: Missing, market: str) -> Request:
    query = {
        "min_ts": str(_from_s(gap)),
        "max_ts": str(-(-gap.to_time // 1_000_000) + CLOCK_MARGIN_S),
        "limit": str(MAX_PAGE),
    }
    return Request("/markets/trades", query | ({"ticker": market} if market else {}), market)


def decode(frame: Frame, series: Sequence[str] | None, seen: Sequence[Recent], answers: Answers) -> Decoded:
    """Return the rows of what an answer tells that is not known.

    Of trades, those that none of `seen` knows; the last of these remembers them. An answer about all markets gives
    only those of the series that are followed. How markets stand is compared with `answers`.
    """
    answer = repair.read(frame)
    if kalshi_states.is_about(answer):
        return kalshi_states.decode(frame, answer, answers)

    def take(place: int, trade: Any) -> tuple[MarketEvent, ...] | None:  # noqa: ANN401  # any JSON value
        if not answer.part and series is not None and not _is_of(series, trade):
            return None
        row = rest_trade(frame, place, trade)
        known = any(str(row.trade_id) in names for names in seen)
        return (row,) if not known and seen[-1].see(str(row.trade_id)) else ()

    return repair.decode(frame, answer, take)


def _is_of(series: Sequence[str], trade: Any) -> bool:  # noqa: ANN401  # any JSON value
    """Tell whether a trade is of these series; one without a name may be."""
    ticker = trade.get("ticker") if isinstance(trade, dict) else None
    return type(ticker) is not str or ticker.partition("-")[0] in series


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
