"""Looking at a database from outside while the daemon writes into it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg

from harness.kalshi_messages import number_of
from harness.waiting import until

if TYPE_CHECKING:
    from harness.kalshi_ledger import KalshiLedger
    from harness.kalshi_venue import KalshiOracle
    from harness.ledger import Ledger
    from harness.venue import OracleVenue

OFFSET = "SELECT frame_no FROM ingest.offsets WHERE stream = 'live'"
NEWEST = "SELECT max(trade_id)::text FROM live_data.btc_price_log WHERE venue = 'coinbase' AND symbol = $1"
# Each is the highest of its kind, because numbers and times only rise.
KALSHI_NEWEST = """
    SELECT json_build_object(
        'ticker', (SELECT trunc(max(volume)) FROM live_data.websocket_market_data WHERE event_type = 'ticker'),
        'trade', (SELECT max(trade_id) FROM live_data.websocket_market_data WHERE event_type = 'trade'),
        'print', (SELECT extract(epoch FROM max("timestamp"))::bigint
                    FROM live_data.btc_price_log WHERE venue = 'cfbenchmarks'))::text
"""
LOOK_EVERY_S = 0.02
# After dozens of kills, each of which lets one batch through, a minute of frames waits, for cores that others use too.
SETTLED_WITHIN_S = 120.0


async def scalar(dsn: str, query: str, *arguments: object) -> Any:
    """Ask for one value; None also while the server or the table is not there."""
    try:
        connection = await asyncpg.connect(dsn)
    except (OSError, asyncpg.PostgresError):
        return None
    try:
        return await connection.fetchval(query, *arguments)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    finally:
        connection.terminate()


async def offset(dsn: str) -> int:
    """The last frame whose rows are committed, 0 before the first."""
    return int(await scalar(dsn, OFFSET) or 0)


async def commits_since(dsn: str, before: int, *, within_s: float = 30.0) -> int:
    """Wait for a commit behind `before` and return the new offset."""

    async def look() -> int:
        now = await offset(dsn)
        return now if now > before else 0

    return await until(look, within_s=within_s, what="a commit", every_s=LOOK_EVERY_S)


async def trades_stored(dsn: str, count: int = 1, *, within_s: float = 30.0) -> None:
    """Wait until the live table has so many trades."""

    async def look() -> bool:
        return int(await scalar(dsn, "SELECT count(*) FROM live_data.btc_price_log") or 0) >= count

    await until(look, within_s=within_s, what=f"{count} trades to be rows", every_s=LOOK_EVERY_S)


async def market_rows_stored(dsn: str, count: int = 1, *, within_s: float = 30.0) -> None:
    """Wait until the live table has so many tickers and trades of markets."""

    async def look() -> bool:
        return int(await scalar(dsn, "SELECT count(*) FROM live_data.websocket_market_data") or 0) >= count

    await until(look, within_s=within_s, what=f"{count} market messages to be rows", every_s=LOOK_EVERY_S)


async def settle(dsn: str, venue: OracleVenue, *, within_s: float = SETTLED_WITHIN_S) -> Ledger:
    """Freeze the markets, wait until the last trade of each is a row, and return the final ledger."""
    newest = await venue.freeze()

    async def look() -> bool:
        stored = {product: await scalar(dsn, NEWEST, product) for product in newest}
        return all(int(stored[product] or 0) == trade_id for product, trade_id in newest.items())

    await until(look, within_s=within_s, what=f"the last trades {newest} to be rows", every_s=0.1)
    return await venue.ledger()


async def settle_kalshi(dsn: str, kalshi: KalshiOracle, *, within_s: float = SETTLED_WITHIN_S) -> KalshiLedger:
    """Freeze the exchange, wait until the last message of each kind is a row, and return the final ledger."""
    # What a connection was sent live it is sent until the freeze; without one the last messages would reach nobody.
    await kalshi.live()
    newest = await kalshi.freeze()

    async def look() -> bool:
        return await kalshi_newest(dsn) == newest

    await until(look, within_s=within_s, what=f"the last messages {newest} to be rows", every_s=0.1)
    return await kalshi.ledger()


async def kalshi_newest(dsn: str) -> dict[str, int]:
    """The highest number that is a row, of each kind that has one."""
    found = json.loads(await scalar(dsn, KALSHI_NEWEST) or "{}")
    return {kind: number_of(value) if kind == "trade" else int(value) for kind, value in found.items() if value}
