"""The simulated Coinbase Exchange, over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from recio_ingest.demo import client, coinbase, market
from recio_ingest.demo.coinbase import CoinbaseVenue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Message = dict[str, Any]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BOTH = ("BTC-USD", "ETH-USD")


def _no_float(text: str) -> None:
    pytest.fail(f"a number of the venue is not whole: {text}")


async def _next(ws: ClientConnection, kind: str | None = None) -> Message:
    """Return the next message, of one type if given."""
    async with asyncio.timeout(5):
        while True:
            message: Message = json.loads(await ws.recv(), parse_float=_no_float)
            if kind in (None, message["type"]):
                return message


async def _request(ws: ClientConnection, kind: str, channels: list[Any], *products: str) -> Message:
    """Send a request and return its answer, past whatever else is told."""
    await ws.send(json.dumps({"type": kind, "product_ids": products, "channels": channels}))
    return await _next(ws, "subscriptions")


@asynccontextmanager
async def _subscribed(
    venue: CoinbaseVenue, *channels: str, products: tuple[str, ...] = ("BTC-USD",)
) -> AsyncIterator[ClientConnection]:
    # A client that has stopped reading does not see the answer to its close: it need not wait for it.
    async with connect(venue.url, close_timeout=0.1) as ws:
        await _request(ws, "subscribe", list(channels), *products)
        yield ws


@asynccontextmanager
async def _unread(venue: CoinbaseVenue) -> AsyncIterator[ClientConnection]:
    """Connect with so small a buffer that a client which does not read stops its server at once."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", int(venue.url.rpartition(":")[2])))
    async with connect(venue.url, sock=narrow, max_queue=1, ping_interval=None, close_timeout=0.1) as ws:
        yield ws


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Give an HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


async def _trades(http: aiohttp.ClientSession, venue: CoinbaseVenue, **query: int) -> list[Message]:
    """Return one page of BTC-USD's trades."""
    async with http.get(f"{venue.rest_url}/products/BTC-USD/trades", params=query) as response:
        assert response.status == 200
        page: list[Message] = await response.json()
        return page


def _when(message: Message) -> datetime:
    return datetime.fromisoformat(message["time"])


async def test_silence_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not subscribed in time is closed with 1008; refused requests do not count; others stay."""
    assert coinbase.SUBSCRIBE_WITHIN_S == 5
    monkeypatch.setattr(coinbase, "SUBSCRIBE_WITHIN_S", 0.2)
    async with (
        CoinbaseVenue() as venue,
        connect(venue.url) as silent,
        connect(venue.url) as refused,
        _subscribed(venue, "matches") as subscriber,
    ):
        await refused.send('{"type":"subscribe","product_ids":["BTC-USD"],"channels":["nonsense"]}')
        assert (await _next(refused))["type"] == "error"
        async with asyncio.timeout(2):
            await asyncio.gather(silent.wait_closed(), refused.wait_closed())
        assert (silent.close_code, silent.close_reason) == (1008, "no subscribe within 0.2 s")
        assert refused.close_code == 1008
        assert (await _next(subscriber, "match"))["product_id"] == "BTC-USD"


async def test_answers_list_all_that_is_held() -> None:
    """Each answer lists all that is held now: requests add up, and products or whole channels come off."""
    async with CoinbaseVenue(BOTH) as venue, connect(venue.url) as ws:
        answer = await _request(ws, "subscribe", ["ticker"], "BTC-USD")
        assert answer == {
            "type": "subscriptions",
            "channels": [{"name": "ticker", "product_ids": ["BTC-USD"]}],
        }
        own = {"name": "matches", "product_ids": ["ETH-USD"]}
        answer = await _request(ws, "subscribe", ["heartbeat", own], "BTC-USD")
        assert answer["channels"] == [
            {"name": "ticker", "product_ids": ["BTC-USD"]},
            {"name": "heartbeat", "product_ids": ["BTC-USD"]},
            {"name": "matches", "product_ids": ["BTC-USD", "ETH-USD"]},
        ]
        answer = await _request(ws, "unsubscribe", ["matches", "ticker"], "BTC-USD")
        assert answer["channels"] == [
            {"name": "heartbeat", "product_ids": ["BTC-USD"]},
            {"name": "matches", "product_ids": ["ETH-USD"]},
        ]
        answer = await _request(ws, "unsubscribe", ["matches", "heartbeat"])
        assert answer == {"type": "subscriptions", "channels": []}


@pytest.mark.parametrize(
    ("request_text", "message", "reason"),
    [
        ("{not json", "Malformed JSON", "expected|unexpected|key"),
        ("[]", "subscribe or unsubscribe required", "None is not a valid type"),
        ('{"type":"hello"}', "subscribe or unsubscribe required", "hello is not a valid type"),
        ('{"type":"subscribe","product_ids":["BTC-USD"]}', "Failed to subscribe", "No channels provided"),
        (
            '{"type":"subscribe","product_ids":["BTC-USD"],"channels":["depth"]}',
            "Failed to subscribe",
            "depth is not a valid channel",
        ),
        (
            '{"type":"subscribe","product_ids":["BTC-USD"],"channels":["level2"]}',
            "Failed to subscribe",
            "level2 channel requires authentication",
        ),
        (
            '{"type":"subscribe","product_ids":["BTC-USD","DOGE-EUR"],"channels":["matches"]}',
            "Failed to subscribe",
            "DOGE-EUR is not a valid product",
        ),
        (
            '{"type":"subscribe","channels":["heartbeat"]}',
            "Failed to subscribe",
            "at least one product ID for channel heartbeat",
        ),
        ('{"type":"subscribe","product_ids":[7],"channels":["matches"]}', "Malformed JSON", "lists of names"),
        ('{"type":"subscribe","product_ids":"BTC-USD","channels":["ticker"]}', "Malformed JSON", "lists of"),
        (
            '{"type":"subscribe","product_ids":["BTC-USD"],"channels":[{}]}',
            "Malformed JSON",
            "lists of names",
        ),
        (
            '{"type":"unsubscribe","product_ids":["DOGE-EUR"],"channels":["matches"]}',
            "Failed to unsubscribe",
            "DOGE-EUR is not a valid product",
        ),
    ],
)
async def test_bad_request_is_refused(request_text: str, message: str, reason: str) -> None:
    """A request that cannot be met is answered with an error, changes nothing, and the connection stays."""
    async with CoinbaseVenue() as venue, connect(venue.url) as ws:
        await ws.send(request_text)
        error = await _next(ws)
        assert error.keys() == {"type", "message", "reason"}
        assert (error["type"], error["message"]) == ("error", message)
        assert re.search(reason, error["reason"])
        answer = await _request(ws, "subscribe", ["heartbeat"], "BTC-USD")
        assert answer["channels"] == [{"name": "heartbeat", "product_ids": ["BTC-USD"]}]


async def test_heartbeat_each_second() -> None:
    """Every subscribed product has a heartbeat each second, and its last_trade_id is the last match told."""
    async with (
        CoinbaseVenue(BOTH, trades_per_s=50) as venue,
        _subscribed(venue, "heartbeat", "matches", products=BOTH) as ws,
    ):
        last: dict[str, int] = {}
        beats: dict[str, list[datetime]] = {product: [] for product in BOTH}
        while min(map(len, beats.values())) < 2:
            message = await _next(ws)
            if message["type"] == "heartbeat":
                assert message.keys() == {"type", "last_trade_id", "product_id", "sequence", "time"}
                assert message["last_trade_id"] == last[message["product_id"]]
                beats[message["product_id"]].append(_when(message))
            else:
                last[message["product_id"]] = message["trade_id"]
        for first, second in beats.values():
            assert timedelta(seconds=0.9) < second - first < timedelta(seconds=1.5)


async def test_matches_are_contiguous() -> None:
    """Matches go on from one last_match per product without a hole, in the venue's shape, sequence rising."""
    async with (
        CoinbaseVenue(BOTH, trades_per_s=400) as venue,
        _subscribed(venue, "matches", products=BOTH) as ws,
    ):
        told: dict[str, list[Message]] = {product: [] for product in BOTH}
        while min(map(len, told.values())) < 200:
            message = await _next(ws)
            told[message["product_id"]].append(message)
    for matches in told.values():
        assert [m["type"] for m in matches] == ["last_match"] + ["match"] * (len(matches) - 1)
        ids, sequences = [m["trade_id"] for m in matches], [m["sequence"] for m in matches]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        steps = {later - earlier for earlier, later in pairwise(sequences)}
        assert min(steps) > 0
        assert len(steps) > 10
        assert matches == sorted(matches, key=_when)
        assert {m["side"] for m in matches} == {"buy", "sell"}
        assert len({m["price"] for m in matches}) > 10
        takers = {m["taker_order_id"]: m["time"] for m in matches}
        assert 150 < len(takers) < len(matches), "some takers, and only some, meet two makers"
        assert all(takers[m["taker_order_id"]] == m["time"] for m in matches), "and then at one time"
        for m in matches:
            assert list(m) == [
                *("type", "trade_id", "maker_order_id", "taker_order_id", "side"),
                *("size", "price", "product_id", "sequence", "time"),
            ]
            assert re.fullmatch(r"\d+(\.\d?[1-9])?", m["price"])
            assert re.fullmatch(r"\d+(\.\d{0,7}[1-9])?", m["size"])
            assert Decimal(m["size"]) > 0
            assert UUID4.fullmatch(m["maker_order_id"])
            assert UUID4.fullmatch(m["taker_order_id"])
            assert TIME.fullmatch(m["time"])


async def test_subscribing_again_tells_no_second_last_match() -> None:
    """A product that is already held has its last_match only once."""
    async with CoinbaseVenue(BOTH) as venue, _subscribed(venue, "matches") as ws:
        assert (await _next(ws, "last_match"))["product_id"] == "BTC-USD"
        await _request(ws, "subscribe", ["matches"], *BOTH)
        assert (await _next(ws, "last_match"))["product_id"] == "ETH-USD"
        await _request(ws, "subscribe", ["matches"], *BOTH)
        assert (await _next(ws))["type"] == "match"


async def test_ticker_follows_matches() -> None:
    """A ticker tells the newest match, several at once share one, and its side and book fit that match."""
    async with (
        CoinbaseVenue(trades_per_s=400) as venue,
        _subscribed(venue, "matches", "ticker") as ws,
    ):
        last, tickers = await _next(ws, "last_match"), list[Message]()
        while len(tickers) < 40:
            message = await _next(ws)
            if message["type"] == "match":
                last = message
                continue
            tickers.append(message)
            same = ("trade_id", "price", "sequence", "time", "product_id")
            assert {key: message[key] for key in same} == {key: last[key] for key in same}
            assert message["last_size"] == last["size"]
            assert {message["side"], last["side"]} == {"buy", "sell"}
            bid, ask = Decimal(message["best_bid"]), Decimal(message["best_ask"])
            assert bid < ask
            assert Decimal(last["price"]) == (bid if last["side"] == "buy" else ask)
            low, high = Decimal(message["low_24h"]), Decimal(message["high_24h"])
            assert low <= Decimal(message["open_24h"]) <= high
            assert low <= Decimal(message["price"]) <= high
    steps = [later["trade_id"] - earlier["trade_id"] for earlier, later in pairwise(tickers)]
    assert min(steps) >= 1
    assert max(steps) > 1, "several matches share a ticker"


async def test_market_moves_without_anybody(http: aiohttp.ClientSession) -> None:
    """Trades go on while nobody is connected, and who comes back can ask for every one of them."""
    async with CoinbaseVenue(trades_per_s=200) as venue:
        async with _subscribed(venue, "matches") as ws:
            before = (await _next(ws, "last_match"))["trade_id"]
        await asyncio.sleep(0.2)
        async with _subscribed(venue, "matches") as ws:
            now = (await _next(ws, "last_match"))["trade_id"]
        assert 20 <= now - before <= 400
        page = await _trades(http, venue, before=before)
        assert {t["trade_id"] for t in page} >= set(range(before + 1, now + 1))


async def test_slow_client_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read is cut off, while another misses nothing and the market does not pause."""
    monkeypatch.setattr(client, "QUEUE_MESSAGES", 500)
    async with (
        CoinbaseVenue(trades_per_s=1000) as venue,
        _unread(venue) as slow,
        _subscribed(venue, "matches") as fast,
    ):
        await _request(slow, "subscribe", ["matches", "ticker"], "BTC-USD")
        assert len(venue._clients) == 2
        last = await _next(fast, "last_match")
        for _ in range(20_000):
            match = await _next(fast)
            assert match["trade_id"] == last["trade_id"] + 1
            last = match
            if len(venue._clients) == 1:
                break
        assert len(venue._clients) == 1, "the slow client is gone"
        behind = datetime.now(tz=_when(last).tzinfo) - _when(last)
        assert behind < timedelta(seconds=2), "and the market on time"
        with pytest.raises(ConnectionClosed):
            await _next(slow, "nothing")


async def test_full_queue_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that falls behind, but reads on, learns from code 1008 that it was too slow."""
    monkeypatch.setattr(client, "QUEUE_MESSAGES", 2)
    async with CoinbaseVenue(BOTH, trades_per_s=1000) as venue, connect(venue.url) as ws:
        await ws.send(json.dumps({"type": "subscribe", "product_ids": BOTH, "channels": ["matches", "ticker"]}))
        with pytest.raises(ConnectionClosed):
            await _next(ws, "nothing")
        assert (ws.close_code, ws.close_reason) == (1008, "slow consumer")


async def test_rest_tells_the_same_trades(http: aiohttp.ClientSession) -> None:
    """REST tells each trade as the feed did, with the same numbers at eight decimals."""
    async with CoinbaseVenue(trades_per_s=400) as venue, _subscribed(venue, "matches") as ws:
        matches = [await _next(ws) for _ in range(50)]
        page = await _trades(http, venue, after=matches[-1]["trade_id"] + 1, limit=50)
    for match, trade in zip(reversed(matches), page, strict=True):
        assert list(trade) == ["trade_id", "side", "size", "price", "time"]
        for key in ("trade_id", "side", "time"):
            assert trade[key] == match[key]
        for key in ("size", "price"):
            assert re.fullmatch(r"\d+\.\d{8}", trade[key])
            assert Decimal(trade[key]) == Decimal(match[key])


async def test_rest_pages(http: aiohttp.ClientSession) -> None:
    """Pages are newest first, at most 1000; `after` is older, `before` the newest page of what is newer."""
    async with CoinbaseVenue(trades_per_s=1) as venue:
        url = f"{venue.rest_url}/products/BTC-USD/trades"
        async with http.get(url) as response:
            ids = [t["trade_id"] for t in await response.json()]
            assert response.content_type == "application/json"
            assert response.headers["CB-BEFORE"] == str(ids[0])
            assert response.headers["CB-AFTER"] == str(ids[-1])
        newest = ids[0]
        assert ids == list(range(newest, newest - 1000, -1))

        async def page(**query: int) -> list[int]:
            return [t["trade_id"] for t in await _trades(http, venue, **query)]

        assert len(await page(limit=5000)) == 1000
        assert await page(limit=3, after=newest - 10) == [newest - 11, newest - 12, newest - 13]
        assert (await page(limit=3, after=newest + 99))[0] in range(newest, newest + 5)
        assert (await page(limit=3, before=newest - 500))[-1] in range(newest - 2, newest + 5)
        assert await page(after=newest - 3, before=newest - 6) == [newest - 4, newest - 5]
        assert await page(before=newest + 99) == []
        assert await page(limit=0) == []
        assert len(await page(after=newest - 100_000)) == 1000, "100,000 trades back and more can be asked for"


async def test_paging_back_closes_a_gap(http: aiohttp.ClientSession) -> None:
    """Walking CB-AFTER from the first trade after a gap brings every trade in it, each once."""
    async with CoinbaseVenue() as venue:
        first_after = (await _trades(http, venue, limit=1))[0]["trade_id"]
        last_before, cursor, found = first_after - 2500, first_after, list[int]()
        while cursor > last_before + 1:
            query = {"after": cursor, "before": last_before}
            async with http.get(f"{venue.rest_url}/products/BTC-USD/trades", params=query) as response:
                found += [t["trade_id"] for t in await response.json()]
                cursor = int(response.headers["CB-AFTER"])
    assert found == list(range(first_after - 1, last_before, -1))


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/products/DOGE-EUR/trades", 404, {"message": "NotFound"}),
        ("/nowhere", 404, {"message": "NotFound"}),
        (
            "/products/BTC-USD/trades?after=x",
            400,
            {"message": "limit, after and before are whole numbers"},
        ),
    ],
)
async def test_rest_refuses(http: aiohttp.ClientSession, path: str, status: int, body: Message) -> None:
    """What REST does not have, or cannot read, is answered with the venue's JSON and status."""
    async with CoinbaseVenue() as venue, http.get(venue.rest_url + path) as response:
        assert (response.status, await response.json()) == (status, body)


async def test_rest_is_rationed(http: aiohttp.ClientSession) -> None:
    """Fifteen requests at once pass, more are answered 429, and a tenth of a second buys the next."""
    async with CoinbaseVenue() as venue:

        async def status() -> int:
            async with http.get(f"{venue.rest_url}/products/BTC-USD/trades?limit=1") as response:
                return response.status

        answers = [await status() for _ in range(20)]
        assert answers[:15] == [200] * 15
        assert 429 in answers[15:]
        await asyncio.sleep(0.11)
        assert await status() == 200


async def test_restart_goes_on(http: aiohttp.ClientSession) -> None:
    """A venue started again with its seed has the same trades as before, and those of the time between."""
    async with CoinbaseVenue(trades_per_s=100) as venue:
        old = await _trades(http, venue, limit=20)
    await asyncio.sleep(0.1)
    async with CoinbaseVenue(trades_per_s=100) as venue:
        again = await _trades(http, venue, after=old[0]["trade_id"] + 1, limit=20)
        assert again == old
        newest = (await _trades(http, venue, limit=1))[0]["trade_id"]
        assert 5 <= newest - old[0]["trade_id"] <= 200
    async with CoinbaseVenue(trades_per_s=100, seed=2) as venue:
        other = await _trades(http, venue, after=old[0]["trade_id"] + 1, limit=20)
        assert [t["price"] for t in other] != [t["price"] for t in old]


async def test_end_closes_everything() -> None:
    """Leaving closes clients with 1001 and both ports, promptly even with a client that answers nothing."""
    reader = None
    async with asyncio.timeout(4), CoinbaseVenue() as venue:
        host, port = "127.0.0.1", int(venue.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        ws = await connect(venue.url).__aenter__()
        await _request(ws, "subscribe", ["matches"], "BTC-USD")
    async with asyncio.timeout(1):
        await ws.wait_closed()
    assert ws.close_code == 1001
    writer.close()
    for url in (venue.url, venue.rest_url):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(url.rpartition(":")[2]))
    assert len(asyncio.all_tasks()) == 1, "only this test is left"


async def test_end_does_not_wait_for_a_stuck_client() -> None:
    """Leaving is prompt even while a client that does not read has the sender stopped in the middle."""
    async with AsyncExitStack() as clients, asyncio.timeout(4), CoinbaseVenue(trades_per_s=2000) as venue:
        stuck = await clients.enter_async_context(_unread(venue))
        await _request(stuck, "subscribe", ["matches"], "BTC-USD")
        (served,) = venue._clients
        reader = await clients.enter_async_context(_subscribed(venue, "matches"))
        while served._queue.qsize() < 200:
            await _next(reader)


async def test_error_leaves_as_it_is() -> None:
    """An error inside the block comes out of it unwrapped."""
    with pytest.raises(LookupError, match="mine"):
        async with CoinbaseVenue():
            raise LookupError("mine")


async def test_cancelled_while_told() -> None:
    """A task that is cancelled inside the block gets its own cancellation back, and nothing keeps running."""

    async def run() -> None:
        async with CoinbaseVenue(trades_per_s=200) as venue, _subscribed(venue, "matches") as ws:
            await _next(ws, "nothing")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await asyncio.sleep(0.2)
        task.cancel()
    assert task.cancelled()
    assert len(asyncio.all_tasks()) == 1


async def test_broken_market_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the market ends the block with its cause instead of leaving a dead feed."""

    def broken(*_: object) -> range:
        raise ZeroDivisionError

    async def run() -> None:
        async with asyncio.timeout(5), CoinbaseVenue():
            monkeypatch.setattr(market.Market, "advance", broken)
            await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(ZeroDivisionError)


def test_clock_set_back_repeats_nothing() -> None:
    """Trades are announced once, in order: none for a clock set back, the newest 1500 after a long sleep."""
    btc = market.Market("BTC-USD", 1, 250_000)
    start, now = btc.last_id, btc.time_us(btc.last_id)
    assert list(btc.advance(now + 2_500_000))[:3] == [start + 1, start + 2, start + 3]
    told = btc.last_id
    assert not btc.advance(now - 3_600_000_000)
    assert btc.last_id == told
    late = btc.advance(now + 3_600_000_000)
    assert (len(late), late[-1]) == (1500, btc.last_id)
    assert market.CATCH_UP_TRADES < client.QUEUE_MESSAGES


def test_price_keeps_near_its_base() -> None:
    """A year of prices stays within 6 % of the base, moves, and does not jump from one trade to the next."""
    btc = market.Market("BTC-USD", 1, 250_000)
    hourly = [btc.price_cents(n) for n in range(btc.last_id - 126_144_000, btc.last_id, 14_400)]
    assert max(abs(price - 11_250_000) for price in hourly) < 675_000
    assert max(hourly) - min(hourly) > 200_000
    close = [btc.price_cents(n) for n in range(btc.last_id - 1000, btc.last_id)]
    assert 0 < max(abs(later - earlier) for earlier, later in pairwise(close)) < 5_000


@pytest.mark.parametrize(("products", "rate"), [((), 4.0), (("BTC-USD",), 0.0)])
def test_impossible_market_is_refused(products: tuple[str, ...], rate: float) -> None:
    """A venue without products or without trades is refused where it is made."""
    with pytest.raises(ValueError, match="needs a product"):
        CoinbaseVenue(products, trades_per_s=rate)
