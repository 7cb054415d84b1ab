"""What venues do to a feed: they repeat themselves, lose messages, and hang up."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.daemon import Daemon
from harness.oracle import check
from harness.progress import commits_since, offset, scalar, settle, trades_stored
from harness.venue import OracleVenue
from harness.waiting import until

DUPLICATES = "SELECT duplicate_frames FROM ingest.offsets WHERE stream = 'live'"
REPEATED, SKIPPED = 30, 7


async def test_repeats_are_dropped(database: str, tmp_path: Path) -> None:
    """Trades sent again, by the venue's mistake or because a connection begins with the last one, are no rows."""
    async with OracleVenue(rate=500) as venue, Daemon(tmp_path, database, venue) as daemon:
        await daemon.start()
        await trades_stored(database, 2 * REPEATED)
        await settle(database, venue)
        await venue.repeat(REPEATED)
        await venue.disconnect()  # in a frozen market, so that the last trade is one that is stored

        async def dropped() -> bool:
            return int(await scalar(database, DUPLICATES)) >= REPEATED + 1

        await until(dropped, within_s=10, what="the repeated trades to be dropped", every_s=0.05)
        books = (await daemon.status())["books"]
        assert books.pop("received") == sum(books.values())
        ledger = await settle(database, venue)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    report.assert_clean()
    assert report.unshipped_frames == 0  # it was asked to end, and drained first
    assert len(ledger.connections) == 2
    assert await scalar(database, DUPLICATES) == REPEATED + 1


@pytest.mark.parametrize("fault", ["skip", "disconnect", "refuse"])
async def test_losses_are_declared(database: str, tmp_path: Path, fault: str) -> None:
    """Trades that the venue did not send to us are declared missing, to the trade."""
    async with OracleVenue(rate=2000) as venue, Daemon(tmp_path, database, venue) as daemon:
        await daemon.start()
        await trades_stored(database)
        if fault == "skip":
            await venue.skip(SKIPPED)
        if fault == "refuse":
            await venue.refuse()
        if fault != "skip":
            await venue.disconnect()
        await commits_since(database, await offset(database))
        await venue.refuse(on=False)

        async def went_on() -> bool:
            return len((await venue.ledger()).sent["BTC-USD"]) > 1

        await until(went_on, within_s=20, what="trades behind the loss")
        ledger = await settle(database, venue)
        assert await daemon.terminate() == 0

    report = await check(database, daemon.spool, ledger)
    report.assert_clean()
    assert len(ledger.connections) == (1 if fault == "skip" else 2)
    missing = ledger.highest("BTC-USD") - ledger.sent["BTC-USD"][0][0] + 1 - ledger.count("BTC-USD")
    assert report.declared_missing == missing
    assert missing == SKIPPED if fault == "skip" else missing > 0
