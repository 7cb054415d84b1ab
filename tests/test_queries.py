"""The queries of docs/queries.md: each runs as it stands there, and by the indexes that the page names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from documented_queries import documented

FROM = datetime(2026, 7, 1, 12, tzinfo=UTC)
UNTIL = FROM + timedelta(hours=1)
NO_SORT = {"Latest price", "Price n minutes ago"}
# Arguments, and by which columns each index is entered.
BTC, HOUR = ("BTC-USD", FROM, UNTIL), ("M", FROM, UNTIL)
LIVE_PRICES = "btc_price_log_default_symbol_timestamp"
BETWEEN = ('("timestamp" >= ', '("timestamp" < ')
MARKETS = ("websocket_market_data_default_ticker_timestamp", "market_history_default_ticker_timestamp", *BETWEEN)
STRIKES = ("btc_live_strikes_default_received_at", "btc_live_strikes_default_event_ticker_ticker_received_at")
ASKED: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "Latest price": (BTC[:1], (LIVE_PRICES, "(symbol = ")),
    "Price n minutes ago": (BTC[:2], (LIVE_PRICES, '("timestamp" <= ')),
    "Last minute's average": (BTC, (LIVE_PRICES, '("timestamp" > ', '("timestamp" <= ')),
    "Momentum series of a day": (BTC, ("momentum_history_default_symbol_timestamp", *BETWEEN)),
    "Ladder now": ((), STRIKES),
    "One market's quotes of an hour": (HOUR, MARKETS),
    "Candles of a month": (("BTC-USD", "coinbase", FROM, UNTIL), ("price_candles_1m_default_pkey", *BETWEEN)),
    "Trades around a settlement": (HOUR, MARKETS),
}


def test_the_page_has_the_eight() -> None:
    """Nothing on the page is left out here, and nothing here has left the page."""
    assert set(documented()) == set(ASKED)


@pytest.mark.parametrize("title", ASKED)
async def test_by_its_indexes(database: str, title: str) -> None:
    """It reads no table from end to end; the plan is the one that is kept for all arguments."""
    arguments, wanted = ASKED[title]
    connection = await asyncpg.connect(
        database, server_settings={"timezone": "UTC", "plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
    )
    try:
        await connection.fetch(documented()[title], *arguments)
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {documented()[title]}", *arguments))
    finally:
        await connection.close()
    assert "Seq Scan" not in plan
    assert [part for part in wanted if part not in plan] == []
    assert title not in NO_SORT or "Sort  " not in plan
