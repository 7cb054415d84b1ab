"""What the tables hold of each of Kalshi's messages, said a second time and from its number alone."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from harness.kalshi_messages import EPOCH, INDEX, dollars, hundredths, number_of

if TYPE_CHECKING:
    from harness.kalshi_market import Exchange
    from harness.kalshi_messages import Print, Ticker, Trade

Key = tuple[str, int]  # kind and number

# `sid` and `seq` belong to the frame and not to the message, so they are compared with the spool.
MARKET_ROWS = """
    SELECT replace(event_type, 'rest_', '') AS kind, event_type = 'rest_trade' AS by_rest, frame_no, sid, seq,
           "timestamp" AS time, ticker, market_id, yes_bid::text AS yes_bid,
           yes_bid_size::text AS yes_bid_size, yes_ask::text AS yes_ask, yes_ask_size::text AS yes_ask_size,
           no_bid::text AS no_bid, no_ask::text AS no_ask, last_price::text AS last_price,
           last_size::text AS last_size, side, volume::text AS volume, open_interest::text AS open_interest, trade_id
    FROM live_data.websocket_market_data WHERE venue = 'kalshi' AND event_type IN ('ticker', 'trade', 'rest_trade')
"""
INDEX_ROWS = """
    SELECT 'print' AS kind, false AS by_rest, frame_no, NULL AS sid, NULL AS seq, "timestamp" AS time, symbol,
           price::text AS price, size::text AS size, side, trade_id::text AS trade_id
    FROM live_data.btc_price_log WHERE venue = 'cfbenchmarks'
"""


def ticker(made: Ticker) -> dict[str, Any]:
    """An empty side is no price, also not on the other outcome's scale; its size of 0 was sent, so it stays."""
    bid, ask, one = made.bid, made.ask, made.one
    return {
        "time": EPOCH + timedelta(milliseconds=made.ts_ms),
        "ticker": made.market,
        "market_id": made.market_id,
        "yes_bid": None if bid is None else dollars(bid, made.decimals),
        "yes_bid_size": hundredths(made.bid_size),
        "yes_ask": None if ask is None else dollars(ask, made.decimals),
        "yes_ask_size": hundredths(made.ask_size),
        "no_bid": None if ask is None else dollars(one - ask, made.decimals),
        "no_ask": None if bid is None else dollars(one - bid, made.decimals),
        "last_price": dollars(made.last, made.decimals),
        "last_size": hundredths(made.last_size),
        "side": None,
        "volume": hundredths(made.number * 100),
        "open_interest": hundredths(made.open_interest),
        "trade_id": None,
    }


def trade(made: Trade) -> dict[str, Any]:
    """A trade says nothing about quotes or totals."""
    nothing = ("market_id", "yes_bid", "yes_bid_size", "yes_ask", "yes_ask_size", "no_bid", "no_ask")
    return {
        **dict.fromkeys((*nothing, "volume", "open_interest")),
        "time": EPOCH + timedelta(milliseconds=made.ts_ms),
        "ticker": made.market,
        "last_price": dollars(made.price, made.decimals),
        "last_size": hundredths(made.size),
        "side": made.taker,
        "trade_id": made.trade_id,
    }


def index_print(made: Print) -> dict[str, Any]:
    """A print is a price and nothing else."""
    return {
        "time": EPOCH + timedelta(seconds=made.second),
        "symbol": INDEX,
        "price": hundredths(made.cents),
        "size": None,
        "side": None,
        "trade_id": None,
    }


def expected(exchange: Exchange, key: Key) -> dict[str, Any]:
    """Every column of the row that a message gives."""
    kind, number = key
    if kind == "ticker":
        return ticker(exchange.ticker(number))
    return trade(exchange.trade(number)) if kind == "trade" else index_print(exchange.print(number))


def key_of_row(row: Any) -> Key:
    """Read the number of a message back from its row; 0 if there is none."""
    kind: str = row["kind"]
    if kind == "ticker":
        whole, _, rest = (row["volume"] or "0").partition(".")
        return kind, 0 if rest.strip("0") else int(whole)
    return kind, number_of(row["trade_id"] or "") if kind == "trade" else seconds(row["time"] - EPOCH)


def seconds(since: timedelta) -> int:
    """Whole seconds; 0 for anything else."""
    return 0 if since.microseconds else since // timedelta(seconds=1)
