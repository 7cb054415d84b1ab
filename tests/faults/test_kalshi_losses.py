"""What Kalshi does to a feed: it repeats itself, loses messages behind their numbers, and hangs up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness.daemon import Daemon
from harness.kalshi_oracle import check
from harness.kalshi_venue import KalshiOracle
from harness.progress import market_rows_stored, scalar, settle_kalshi
from harness.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

DUPLICATES = "SELECT duplicate_frames FROM ingest.offsets WHERE stream = 'live'"
ENOUGH, REPEATED, SKIPPED = 200, 30, 7


async def test_repeats_are_dropped(database: str, tmp_path: Path) -> None:
    """Trades and a print sent again under new numbers are no rows, and no gaps."""
    async with KalshiOracle(tmp_path) as kalshi, Daemon(tmp_path, database, None, kalshi=kalshi) as daemon:
        await daemon.start()
        await market_rows_stored(database, ENOUGH)
        await settle_kalshi(database, kalshi)
        await kalshi.repeat(REPEATED)

        async def dropped() -> bool:
            return int(await scalar(database, DUPLICATES)) >= REPEATED + 1

        await until(dropped, within_s=10, what="the repeated trades to be dropped", every_s=0.05)
        await kalshi.thaw()
        ledger = await settle_kalshi(database, kalshi)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    report.assert_clean()
    assert report.duplicates == await scalar(database, DUPLICATES) == REPEATED + 1
    assert report.declared_missing == 0


@pytest.mark.parametrize("fault", ["skip", "disconnect", "refuse"])
async def test_losses_are_declared(database: str, tmp_path: Path, fault: str) -> None:
    """What Kalshi did not send to us is declared missing: by its number where it had one, else by its time."""
    async with KalshiOracle(tmp_path) as kalshi, Daemon(tmp_path, database, None, kalshi=kalshi) as daemon:
        await daemon.start()
        await market_rows_stored(database, ENOUGH)
        await kalshi.live()

        async def refused() -> int:
            return (await kalshi.ledger()).refused

        if fault == "skip":
            await kalshi.skip(SKIPPED)
        if fault == "refuse":
            await kalshi.refuse()
        if fault != "skip":
            await kalshi.disconnect()
        if fault == "refuse":
            await until(refused, within_s=20, what="an attempt to be refused")
            await kalshi.refuse(on=False)

        async def went_on() -> bool:
            connections = (await kalshi.ledger()).connections
            return len(connections[-1].trade) > 1 if fault == "skip" else len(connections) > 1

        await until(went_on, within_s=20, what="trades behind the loss")
        ledger = await settle_kalshi(database, kalshi)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    report.assert_clean()
    if fault == "skip":
        assert report.declared_of == {"ticker": 0, "trade": SKIPPED, "print": 0}
    else:
        assert report.declared_of["ticker"] > report.declared_of["trade"] > 0
