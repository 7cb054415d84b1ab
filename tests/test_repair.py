"""What is asked for again: the questions, the frames that answers become, the rows, the ledger, and the giving up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from harness.databases import execute
from harness.progress import scalar
from harness.rest_server import answering
from harness.waiting import until
from samples import START_NS, data, match
from structlog.testing import capture_logs

from recio_ingest import backoff, known, metrics, repair, rest, store
from recio_ingest.decode import Decoder
from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Missing, Request, coinbase
from recio_ingest.feeds import repair as frames
from recio_ingest.feeds.coinbase import CoinbaseParser
from recio_ingest.feeds.coinbase_repair import CoinbaseRepair
from recio_ingest.records import (
    COMPLETE,
    LIVE_STREAM,
    BtcPrice,
    Gap,
    Kind,
    Outcome,
    Quarantined,
    Repaired,
    is_repair,
)
from recio_ingest.repair import Repairer
from recio_ingest.replay import replay_quarantine
from recio_ingest.settings import Coinbase
from recio_ingest.ship import Shipper
from recio_ingest.spool import Spool

START_US = START_NS // 1000
MENDED = "UPDATE ingest.quarantine SET frame = convert_to(replace(convert_from(frame, 'UTF8'), '{}', '{}'), 'UTF8')"
HOLE = Missing(2, 1, "matches", START_US, START_US, 1002, 1004, ("BTC-USD",))


def page(*ids: int, **changes: Any) -> bytes:
    """An answer with these trades; REST names no product."""
    trades = [match(each, **changes) for each in ids]
    return orjson.dumps([{key: value for key, value in t.items() if key not in {"type", "product_id"}} for t in trades])


def with_a_hole() -> CoinbaseParser:
    """A parser that lacks 1002 to 1004, as frame 2 revealed."""
    parser = CoinbaseParser({})
    for number, trade_id in ((1, 1001), (2, 1005)):
        parser.decode(data(number, match(trade_id)))
    return parser


def test_pages_lead_back_to_the_oldest() -> None:
    """Each question is for what is older than the page before, and for no more than is missing."""
    asks = CoinbaseRepair()
    gap = HOLE._replace(from_seq=1, to_seq=2500)
    first = asks.first(gap)
    assert first == Request("/products/BTC-USD/trades", {"limit": "1000", "after": "2501"}, "BTC-USD")
    second = asks.take(gap, first, page(*range(2500, 1500, -1))).following
    assert second == first._replace(query={"limit": "1000", "after": "1501"})
    third = asks.take(gap, second, page(*range(1500, 500, -1))).following
    assert third == first._replace(query={"limit": "500", "after": "501"})
    assert asks.take(gap, third, page(*range(500, 0, -1))) == (None, COMPLETE)
    assert asks.take(gap, third, b"[]") == (None, "venue_has_no_more")


@pytest.mark.parametrize(
    "answer", [b"<html>", b"{}", b"[1]", b'[{"trade_id":"5"}]', page(1005), page(*range(1, 1003))], ids=repr
)
def test_another_shape_is_no_page(answer: bytes) -> None:
    """What is no list of trades, or not older than what was asked for, is refused, and never paged on from."""
    asks = CoinbaseRepair()
    with pytest.raises(BadMessageError):
        asks.take(HOLE, asks.first(HOLE), answer)


def test_an_answer_lies_in_its_frame_as_it_came() -> None:
    """The venue's bytes are in the frame, blanks and digits and all, and a frame is told from a message."""
    answer = b'[ {"trade_id": 1002, "price": "60123.40000"} ]'
    frame = data(3, frames.wrap(HOLE, "BTC-USD", COMPLETE, answer))
    assert answer in frame.data
    assert frames.read(frame)[:4] == ((2, 1), "BTC-USD", (1002, 1004), COMPLETE)
    assert is_repair(frame)
    assert not is_repair(data(3, match()))
    assert not is_repair(frame._replace(kind=Kind.DISCONNECTED))


def test_a_hole_is_filled() -> None:
    """Rows as by socket, but for the book; the hole is closed with its last trade; nothing has a venue's time."""
    parser = with_a_hole()
    parser.decode(data(3, match(1006)))
    decoded = parser.decode(data(4, frames.wrap(HOLE, "BTC-USD", COMPLETE, page(1004, 1003, 1002, 1001))))
    rows = [row for row in decoded.rows if isinstance(row, BtcPrice)]
    assert [(row.trade_id, row.row_no, row.side, row.best_bid) for row in rows] == [
        (1004, 0, "sell", None), (1003, 1, "sell", None), (1002, 2, "sell", None),
    ]  # fmt: skip
    (gap,) = (row for row in decoded.rows if isinstance(row, Gap))
    assert (gap.frame_no, gap.gap_no, gap.expected, gap.recovered) == (2, 1, 3, 3)
    assert gap.repaired_at == START_US + 4000
    assert decoded.rows[-1] == Repaired(2, 1, 4, "coinbase", START_US + 4000, counted=True, end=COMPLETE)
    assert (decoded.outcome, decoded.venue_time) == (Outcome.SHIPPED, None)
    again = parser.decode(data(5, frames.wrap(HOLE, "BTC-USD", COMPLETE, page(1004, 1003, 1002))))
    assert again.outcome is Outcome.DUPLICATE
    assert len(again.rows) == 1


def test_one_odd_trade_costs_one_trade() -> None:
    """Its neighbours are rows, and the whole answer lies in the quarantine."""
    parser = with_a_hole()
    answer = orjson.dumps([*orjson.loads(page(1004)), {"trade_id": 1003}, *orjson.loads(page(1002))])
    decoded = parser.decode(frame := data(3, frames.wrap(HOLE, "BTC-USD", COMPLETE, answer)))
    assert decoded.outcome is Outcome.QUARANTINED
    assert [row.trade_id for row in decoded.rows if isinstance(row, BtcPrice)] == [1004, 1002]
    (aside,) = (row for row in decoded.rows if isinstance(row, Quarantined))
    assert aside.frame == frame.data


@pytest.mark.parametrize(
    "body",
    [
        frames.wrap_unreadable(HOLE, "BTC-USD", b"<html>\xff"),
        b'{"repair":{},"answer":[]}',
        b'{"repair":1,"answer":[]}',
        b'{"repair":{"gap":[1,"x"],"part":"BTC-USD","numbers":[1,2],"end":""},"answer":[]}',
        b'{"repair":{"gap":[1,1],"part":"BTC-USD","numbers":null,"end":""},"answer":[]}',
        b'{"repair":{"gap":[1,1],"part":"BTC-USD","numbers":[1,2],"end":""},"answer":7}',
    ],
    ids=repr,
)
def test_a_frame_of_another_shape_is_refused(body: bytes) -> None:
    """It goes to the quarantine, and the parser's state stays as it was."""
    parser = with_a_hole()
    before = orjson.dumps(parser.state())
    with pytest.raises(BadMessageError):
        parser.decode(data(3, body))
    assert orjson.dumps(parser.state()) == before


async def stored(dsn: str) -> list[tuple[Any, ...]]:
    """The ledger, as far as repair changes it."""
    async with store.session(dsn) as opened:
        query = "SELECT expected, recovered, repaired_at IS NOT NULL, given_up_why FROM ingest.gaps ORDER BY frame_no"
        return [tuple(row) for row in await opened._connection.fetch(query)]


async def test_what_the_quarantine_gave_back_is_no_second_row(database: str) -> None:
    """A trade that the parser thinks missing and the table has is dropped, and the hole is closed all the same."""
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        decoder = Decoder({})
        batch = decoder.decode([data(1, match(1001)), data(2, match(1003, price="x")), data(3, match(1005))])
        position = await opened.commit(position, batch)
        await execute(database, MENDED.format('"x"', '"6.1"'))
        assert await replay_quarantine(database) == (1, 0)
        gap = HOLE._replace(frame_no=3)
        batch = decoder.decode([data(4, frames.wrap(gap, "BTC-USD", COMPLETE, page(1004, 1003, 1002)))])
        batch = await known.drop_repaired(opened, batch)
        await opened.commit(position, batch)
    ids = "SELECT array_agg(trade_id ORDER BY trade_id) FROM live_data.btc_price_log"
    assert await scalar(database, ids) == [1001, 1002, 1003, 1004, 1005]
    assert await stored(database) == [(3, 3, True, None)]


@pytest.mark.parametrize("frames_at_once", [1, 2, 3, 4])
async def test_the_ledger_does_not_depend_on_batches(database: str, frames_at_once: int) -> None:
    """A gap that was given up and then filled by a late trade says both, wherever the batches were cut."""
    answer = frames.wrap(HOLE._replace(frame_no=2), "BTC-USD", COMPLETE, page(1004, 1003))
    sent = [data(1, match(1001)), data(2, match(1005)), data(3, answer), data(4, match(1002))]
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        decoder = Decoder({})
        for at in range(0, len(sent), frames_at_once):
            position = await opened.commit(position, decoder.decode(sent[at : at + frames_at_once]))
    assert await stored(database) == [(3, 3, True, "venue_has_fewer")]


@pytest.mark.parametrize("frames_at_once", [1, 2])
async def test_what_is_answered_twice_is_stored_once(database: str, frames_at_once: int) -> None:
    """A daemon that was killed asks again: trades that the parser knows nothing of are one row, in one batch or two."""
    answer = frames.wrap(HOLE, "BTC-USD", COMPLETE, page(1004, 1003, 1002))
    sent = [data(1, answer), data(2, answer)]
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        decoder = Decoder({})
        for at in range(0, len(sent), frames_at_once):
            batch = await known.drop_repaired(opened, decoder.decode(sent[at : at + frames_at_once]))
            position = await opened.commit(position, batch)
    assert (position.counts[Outcome.SHIPPED], position.counts[Outcome.DUPLICATE]) == (1, 1)
    ids = "SELECT array_agg(trade_id ORDER BY trade_id) FROM live_data.btc_price_log"
    assert await scalar(database, ids) == [1002, 1003, 1004]


async def test_an_answers_odd_trade_comes_back_alone(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Today's parser reads a quarantined answer: only the trade that was of no use is a new row."""
    async with store.session(database) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        decoder = Decoder({})
        batch = decoder.decode([data(1, match(1001)), data(2, match(1005))])
        position = await opened.commit(position, batch)
        answer = orjson.dumps([*orjson.loads(page(1004, 1002)), *orjson.loads(page(1003, size="soon"))])
        batch = decoder.decode([data(3, frames.wrap(HOLE, "BTC-USD", COMPLETE, answer))])
        await opened.commit(position, batch)
    assert await stored(database) == [(3, 2, False, "venue_has_fewer")]
    monkeypatch.setattr(coinbase, "_POSITIVE", lambda text: text)
    await execute(database, MENDED.format("soon", "0.5"))
    assert await replay_quarantine(database) == (1, 0)
    ids = "SELECT array_agg(trade_id ORDER BY trade_id) FROM live_data.btc_price_log"
    assert await scalar(database, ids) == [1001, 1002, 1003, 1004, 1005]


@asynccontextmanager
async def repairing(tmp_path: Path, dsn: str, rest_url: str) -> AsyncIterator[Spool]:
    """A spool, a shipper and a repairer, until left."""
    feed = coinbase.feed(Coinbase(rest_url=rest_url))
    assert feed.repair is not None
    with Spool(tmp_path / "spool", ["coinbase"], sync_interval_s=0) as spool:

        async def acquire(opened: store.Store, epoch: int) -> store.Position:
            return await opened.acquire(LIVE_STREAM, spool.spool_id, start_no=spool.oldest_no - 1, epoch=epoch)

        shipper = Shipper(spool, dsn, acquire, min_interval_s=0, refine=known.drop_repaired)
        shipper.progress.schema_ready = True
        repairer = Repairer(feed, feed.repair, spool, dsn, shipper.progress)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in (spool.run(), shipper.run(), repairer.run())]
            try:
                yield spool
            finally:
                for task in tasks:
                    task.cancel()


def miss(spool: Spool) -> None:
    """Receive two trades of five."""
    for trade_id in (1001, 1005):
        spool.append("coinbase", Kind.DATA, time.time_ns(), orjson.dumps(match(trade_id)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits a hundred times as short as they are."""
    monkeypatch.setattr(repair, "WAITS_S", (0.01, 0.02))
    monkeypatch.setattr(repair, "ASIDE_S", (0.05, 0.1))
    monkeypatch.setattr(repair, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(rest, "PER_S", 200)
    monkeypatch.setattr(CoinbaseRepair, "SETTLE_S", 0.05)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("given", "asked", "why"),
    [
        ((404, b"{}"), repair.MAX_ATTEMPTS, "refused"),
        ((200, b"<html>"), repair.MAX_ATTEMPTS, "shape"),
        ((200, b"[]"), 1, "venue_has_no_more"),
    ],
)
async def test_giving_up_is_written_down(
    database: str, tmp_path: Path, given: tuple[int, bytes], asked: int, why: str
) -> None:
    """What the venue refuses, or no longer has, is asked for so often and no more, and the ledger says why."""
    times = 0

    async def answer(_request: web.Request) -> web.Response:
        nonlocal times
        times += 1
        return web.Response(status=given[0], body=given[1])

    async with answering(answer) as url, repairing(tmp_path, database, url) as spool:
        miss(spool)
        query = "SELECT given_up_why FROM ingest.gaps WHERE given_up_at IS NOT NULL"
        await until(lambda: scalar(database, query), within_s=20, what="the giving up", every_s=0.02)
        await asyncio.sleep(0.3)
    assert times == asked
    assert await stored(database) == [(3, 0, False, why)]


@pytest.mark.usefixtures("quick")
async def test_a_venue_that_is_down_is_waited_for(database: str, tmp_path: Path) -> None:
    """However often it does not answer; then the hole is filled."""
    times = 0

    async def answer(_request: web.Request) -> web.Response:
        nonlocal times
        times += 1
        return (
            web.Response(status=503) if times <= 2 * repair.MAX_ATTEMPTS else web.Response(body=page(1004, 1003, 1002))
        )

    async with answering(answer) as url, repairing(tmp_path, database, url) as spool:
        miss(spool)
        query = "SELECT recovered FROM ingest.gaps WHERE repaired_at IS NOT NULL"
        assert await until(lambda: scalar(database, query), within_s=20, what="the repair", every_s=0.02) == 3
    assert await stored(database) == [(3, 3, True, None)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [503, 403])
async def test_one_gap_does_not_hold_up_the_others(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A question that is never answered is put aside and told once; another gap is filled, and in the end this one."""
    monkeypatch.setattr(backoff, "_BY_CAUSE_S", {})
    times, answers = 0, False

    async def answer(request: web.Request) -> web.Response:
        nonlocal times
        newest = int(request.query["after"]) - 1
        if newest == 1004 and not answers:
            times += 1
            return web.Response(status=status)
        return web.Response(body=page(*range(newest, newest - int(request.query["limit"]), -1)))

    with capture_logs() as lines:
        async with answering(answer) as url, repairing(tmp_path, database, url) as spool:
            miss(spool)
            spool.append("coinbase", Kind.DATA, time.time_ns(), orjson.dumps(match(1007)))
            query = "SELECT to_seq FROM ingest.gaps WHERE repaired_at IS NOT NULL"
            assert await until(lambda: scalar(database, query), within_s=20, what="the other gap", every_s=0.02) == 1006
            await until(lambda: asyncio.sleep(0, times > 2 * repair.MAX_ATTEMPTS), within_s=20, what="more attempts")
            answers = True
            query = "SELECT count(*) > 1 FROM ingest.gaps WHERE repaired_at IS NOT NULL"
            await until(lambda: scalar(database, query), within_s=20, what="the repair", every_s=0.02)
    assert await stored(database) == [(3, 3, True, None), (1, 1, True, None)]
    assert sum(line["event"] == "repair.put_aside" for line in lines) == 1


@pytest.mark.usefixtures("quick")
async def test_what_nobody_foresaw_ends_nothing(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap on which asking breaks is counted, told once, and behind the others; later it is asked for again."""
    monkeypatch.setattr(repair, "RETRY_S", 0.05)
    monkeypatch.setattr(repair, "LOOK_EVERY_S", 0.2)
    broken, first = 3, CoinbaseRepair.first

    def breaks(self: CoinbaseRepair, gap: Missing) -> Request:
        nonlocal broken
        if gap.to_seq == 1004 and broken:
            broken -= 1
            raise LookupError("nobody foresaw this")
        return first(self, gap)

    async def answer(request: web.Request) -> web.Response:
        newest = int(request.query["after"]) - 1
        return web.Response(body=page(*range(newest, newest - int(request.query["limit"]), -1)))

    monkeypatch.setattr(CoinbaseRepair, "first", breaks)
    failures = metrics.REST_FAILURES.labels("coinbase", "bug")
    before = failures._value.get()
    with capture_logs() as lines:
        async with answering(answer) as url, repairing(tmp_path, database, url) as spool:
            miss(spool)
            spool.append("coinbase", Kind.DATA, time.time_ns(), orjson.dumps(match(1007)))

            async def both() -> bool:  # each is told after its row says it
                return bool(sum(line["event"] == "repair.ended" for line in lines) == 2)

            await until(both, within_s=20, what="both repairs", every_s=0.02)
    ended = [line["event"] for line in lines if line["event"] in {"repair.interrupted", "repair.ended"}]
    assert ended[:2] == ["repair.interrupted", "repair.ended"]  # the other gap did not wait for this one
    assert ended.count("repair.ended") == 2
    assert (broken, failures._value.get() - before) == (0, 3)
    assert await stored(database) == [(3, 3, True, None), (1, 1, True, None)]


@pytest.mark.usefixtures("quick")
async def test_a_ledger_that_cannot_be_read_ends_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database lacks a column it is counted and told once; when it has it, the hole is filled."""
    monkeypatch.setattr(repair, "RETRY_S", 0.02)
    failures = metrics.REST_FAILURES.labels("coinbase", "database")
    before = failures._value.get()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=page(1004, 1003, 1002))

    with capture_logs() as lines:
        async with answering(answer) as url, repairing(tmp_path, database, url) as spool:
            await execute(database, "ALTER TABLE ingest.gaps RENAME given_up_at TO gone")
            miss(spool)
            await until(lambda: asyncio.sleep(0, failures._value.get() - before > 2), within_s=20, what="failures")
            await execute(database, "ALTER TABLE ingest.gaps RENAME gone TO given_up_at")
            query = "SELECT recovered FROM ingest.gaps WHERE repaired_at IS NOT NULL"
            assert await until(lambda: scalar(database, query), within_s=20, what="the repair", every_s=0.02) == 3
    assert len([line for line in lines if line["event"] == "repair.interrupted"]) == 1
