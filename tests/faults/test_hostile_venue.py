"""The daemon at a venue that does one thing after another wrong, beside a good one: what stands in the database."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
from harness.daemon import Daemon
from harness.kalshi_live import CALM, Venue, at, more_rows
from harness.metrics import Metrics, metric
from harness.progress import scalar
from harness.raw_venue import Line, Script, closing, frame, messages, playing
from harness.venue_host import dump

if TYPE_CHECKING:
    from pathlib import Path

RESIDENT_BYTES = 32 * 2**20
STORED = "SELECT count(*) FROM live_data.btc_price_log WHERE venue = 'coinbase'"


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _match(trade_id: int, **other: Any) -> bytes:
    ids = {"maker_order_id": "a" * 36, "taker_order_id": "b" * 36, "product_id": "BTC-USD", "sequence": trade_id}
    message = {"type": "match", "trade_id": trade_id, "side": "buy", "size": "0.01", "price": "84000.01"}
    return dump(message | ids | {"time": _stamp()} | other)


def _odd() -> list[bytes]:
    """Messages that are each of no use in another way (W10 to W17), of which none is a row."""
    return [
        b'{"type":"match"',
        b'{"type":"\xff"}',
        dump({"type": "new_channel", "n": 1}),
        dump({"type": "match", "trade_id": 7}),
        b'{"type":"match","price":NaN}',
        b'{"type":"match","price":1e999}',
        _match(900, price="-1.00"),
        _match(901, price=None),
        _match(902, time="9999-12-31T23:59:59.999999Z"),
    ]


class Hostile:
    """Sends a trade over each connection, and then what is next on its list."""

    def __init__(self) -> None:
        self.trades, self.gone_s = 0, [0.0]
        faults: list[Script] = [self._reset, *(self._sending(part) for part in PARTS)]
        self.scripts = [self._after_a_trade(each) for each in [*faults, self._odd]]

    def _after_a_trade(self, then: Script) -> Script:
        async def script(line: Line) -> None:
            await line.confirm()
            self.trades += 1
            await line.write(messages(_match(1000 + self.trades))[0])
            self.gone_s.append(time.time())
            await then(line)
            await line.read_on()

        return script

    async def _reset(self, line: Line) -> None:
        await line.writer.drain()
        line.writer.write_eof()

    def _sending(self, part: bytes) -> Script:
        async def send(line: Line) -> None:
            await line.write(part)

        return send

    async def _odd(self, line: Line) -> None:
        """At last: odd messages, a trade twice, two trades the wrong way round."""
        for message in [*_odd(), _match(1011), _match(1011), _match(1010), _match(1012)]:
            await line.write(messages(message)[0])


PARTS = [closing(1012), frame(0x81, b"x", 2**62), frame(0x89) * 20_000]
CAUSES = ["reset", "going_away", "oversize", "protocol"]


async def _gaps(dsn: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        query = """SELECT cause, extract(epoch FROM from_time)::float8 AS begin_s, extract(epoch FROM to_time)::float8
                   AS end_s FROM ingest.gaps WHERE feed = 'coinbase' AND scope = 'connection' ORDER BY from_time"""
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def test_one_fault_after_another(database: str, tmp_path: Path) -> None:
    """Each fault is a closed gap with its bounds and its cause; odd messages are put aside; the other feed is whole."""
    hostile = Hostile()
    async with (
        playing(*hostile.scripts) as raw,
        Venue(**CALM) as kalshi,
        Daemon(tmp_path, database, kalshi=at(kalshi, tmp_path)) as daemon,
    ):
        daemon.settings["feeds.coinbase"] = {"url": raw.url, "products": ["BTC-USD"]}
        await daemon.start()
        await daemon.wait_ready()
        resident_bytes = daemon.rss_bytes()
        await metric(daemon, 9, "frames_total", feed="coinbase", outcome="quarantined", within_s=30)
        await more_rows(database, "event_type = 'ticker'")
        assert daemon.rss_bytes() - resident_bytes < RESIDENT_BYTES
        figures = await Metrics.of(daemon)
        for cause in CAUSES:
            assert figures("reconnects_total", feed="coinbase", cause=cause) == 1
            assert figures("gaps_total", feed="coinbase", cause=cause) == 1
        assert figures("gap_open", feed="coinbase") == 0
        assert figures("feed_connected", feed="coinbase") == 1
        for reason, count in {"json": 4, "unknown_type": 1, "schema": 1, "bounds": 2, "future": 1}.items():
            assert figures("quarantined_total", feed="coinbase", reason=reason) == count
        assert await daemon.terminate() == 0
    gaps = await _gaps(database)
    assert [gap["cause"] for gap in gaps[:4]] == CAUSES
    for gap, gone_s, came_s in zip(gaps[:4], hostile.gone_s[1:], hostile.gone_s[2:], strict=False):
        assert abs(gap["begin_s"] - gone_s) < 0.5  # the trade before the fault
        assert abs(gap["end_s"] - came_s) < 0.5  # the first message after it
    assert await scalar(database, STORED) == 5 + 3
    assert await scalar(database, "SELECT count(*) FROM ingest.gaps WHERE feed = 'kalshi' AND cause <> 'shutdown'") == 0
    assert await scalar(database, "SELECT duplicate_frames FROM ingest.offsets WHERE stream = 'live'") == 1
