"""What can be made to go wrong at the simulated Kalshi, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from harness.kalshi_client import START, Message, ask, connected, get, receive, send, signed, simulated
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from recio_ingest.demo import client
from recio_ingest.demo.kalshi import KalshiVenue
from recio_ingest.demo.kalshi_faults import GARBAGE
from recio_ingest.demo.kalshi_rules import ERRORS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ORDERABLE = sorted(ERRORS.keys() - {10, 25})


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Give an HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


async def _refused(venue: KalshiVenue, headers: Message) -> tuple[Message, Mapping[str, str]]:
    """Connect in vain; return the error and the headers of the 401."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(venue.url, additional_headers=headers)
    response = caught.value.response
    assert response.status_code == 401
    error: Message = json.loads(response.body or b"")["error"]
    return error, response.headers


def _ahead_s(headers: Mapping[str, str]) -> float:
    return (parsedate_to_datetime(headers["Date"]) - datetime.now(UTC)) / timedelta(seconds=1)


async def _status(http: aiohttp.ClientSession, venue: KalshiVenue) -> tuple[int, Any]:
    async with http.get(f"{venue.rest_url}/exchange/status") as response:
        assert "Retry-After" not in response.headers
        return response.status, await response.json()


async def test_expired_key_is_cut_off_and_refused() -> None:
    """A key that expires loses its connections and is answered 401, another key is not touched, until restored."""
    async with (
        simulated(3600) as venue,
        connected(venue) as theirs,
        connect(venue.url, additional_headers=signed("rsa")) as other,
    ):
        await ask(theirs, 1, "list_subscriptions")
        async with asyncio.timeout(5):
            await venue.expire("ed")
            await theirs.wait_closed()
        assert (theirs.close_code, theirs.close_reason) == (1008, "the key has expired")
        error, _ = await _refused(venue, signed())
        assert error == {"code": "authentication_error", "message": "API_KEY_EXPIRED"}
        assert (await ask(other, 1, "list_subscriptions"))["type"] == "ok"
        venue.restore("ed")
        async with connected(venue) as again:
            assert (await ask(again, 1, "list_subscriptions"))["type"] == "ok"
        with pytest.raises(ValueError, match="no key nobody"):
            await venue.expire("nobody")


async def test_key_may_expire_during_a_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose key expires after it was let in, and before it is served, is closed like the others."""

    def expire(venue: KalshiVenue, *_: object) -> None:
        venue._expired.add("ed")

    monkeypatch.setattr(KalshiVenue, "_date", expire)
    async with simulated(3600) as venue, connected(venue) as ws, asyncio.timeout(5):
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1008, "the key has expired")


async def test_wrong_clock_judges_signatures(http: aiohttp.ClientSession) -> None:
    """By a wrong clock, stamps older than ten seconds are refused and others not, and every Date tells that clock."""
    async with simulated(3600) as venue:
        for offset_s in (-3600, 8):
            venue.clock_offset_s = offset_s
            async with connect(venue.url, additional_headers=signed()) as ws:
                assert ws.response
                assert abs(_ahead_s(ws.response.headers) - offset_s) < 3
        for offset_s in (12, 3600):
            venue.clock_offset_s = offset_s
            error, headers = await _refused(venue, signed())
            assert error["code"] == "header_timestamp_expired"
            assert abs(_ahead_s(headers) - offset_s) < 3
            async with connect(venue.url, additional_headers=signed(ago_s=-offset_s)) as ws:
                assert ws.response, "a stamp by the venue's clock is let in"
            async with http.get(f"{venue.rest_url}/exchange/status") as response:
                assert abs(_ahead_s(response.headers) - offset_s) < 3
        venue.clock_offset_s = 0
        async with connect(venue.url, additional_headers=signed()) as ws:
            assert ws.response


@pytest.mark.parametrize("code", ORDERABLE)
async def test_command_is_answered_with_the_ordered_error(code: int) -> None:
    """A command that meets an order is answered with its code and changes nothing; the next one is obeyed."""
    async with simulated(3600) as venue, connected(venue) as ws:
        venue.answer_with(code)
        answer = await ask(ws, 1, "subscribe", channels=["trade"], market_tickers=["A"])
        assert answer == {"id": 1, "type": "error", "msg": {"code": code, "msg": ERRORS[code]}}
        assert (await ask(ws, 2, "list_subscriptions"))["msg"] == []
        answer = await ask(ws, 3, "subscribe", channels=["trade"], market_tickers=["A"])
        assert (answer["type"], answer["msg"]["sid"]) == ("subscribed", 1)


async def test_order_may_wait_for_its_channel() -> None:
    """An order for a channel meets the commands about it, by name or sid, as often as ordered, and no others."""
    async with simulated(3600) as venue, connected(venue) as ws:
        await ask(ws, 1, "subscribe", channels=["ticker", "trade"], market_tickers=["A"])
        venue.answer_with(27, "trade", times=3)
        venue.answer_with(18, "ticker")

        async def answer(number: int, cmd: str, **params: Any) -> int:
            told = await ask(ws, number, cmd, **params)
            return int(told["msg"]["code"]) if told["type"] == "error" else 0

        add = {"market_tickers": ["B"], "action": "add_markets"}
        assert await answer(2, "list_subscriptions") == 0
        assert await answer(3, "update_subscription", sid=2, **add) == 27
        assert await answer(4, "update_subscription", sids=[1], **add) == 18
        assert await answer(5, "update_subscription", sids=[1], **add) == 0
        assert await answer(6, "subscribe", channels=["ticker", "trade"], market_ticker="C") == 27
        assert await answer(7, "unsubscribe", sids=[1, 2]) == 27
        assert await answer(8, "unsubscribe", sids=[1, 2]) == 0


@pytest.mark.parametrize(
    ("code", "channel", "times"), [(10, None, 1), (25, None, 1), (6, None, 1), (27, "depth", 1), (27, None, 0)]
)
async def test_impossible_order_is_refused(code: int, channel: str | None, times: int) -> None:
    """Errors that end a subscription or do not exist, unknown channels and no times at all cannot be ordered."""
    with pytest.raises(ValueError, match=r"answered with|order needs"):
        simulated().answer_with(code, channel, times)


async def test_subscription_has_a_limit_of_markets() -> None:
    """What would pass the limit is answered with error 26 and changes nothing, for any channel of the command."""
    async with simulated(3600) as venue, connected(venue) as ws:
        venue.most_markets = 2
        answer = await ask(ws, 1, "subscribe", channels=["ticker"], market_tickers=["A", "B", "A"])
        assert answer["type"] == "subscribed"
        for number, cmd, params in (
            (2, "update_subscription", {"sid": 1, "market_ticker": "C", "action": "add_markets"}),
            (3, "subscribe", {"channels": ["trade", "ticker"], "market_ticker": "C"}),
            (4, "subscribe", {"channels": ["trade"], "market_tickers": ["A", "B", "C"]}),
        ):
            answer = await ask(ws, number, cmd, **params)
            assert (answer["type"], answer["msg"]["code"]) == ("error", 26)
        assert (await ask(ws, 5, "list_subscriptions"))["msg"] == [{"channel": "ticker", "sid": 1}]
        answer = await ask(ws, 6, "update_subscription", sid=1, market_ticker="B", action="add_markets")
        assert answer["msg"] == {"market_tickers": ["A", "B"]}
        assert (await ask(ws, 7, "subscribe", channels=["trade"]))["type"] == "subscribed", "all is no list"
        venue.most_markets = None
        answer = await ask(ws, 8, "update_subscription", sid=1, market_ticker="C", action="add_markets")
        assert answer["msg"] == {"market_tickers": ["A", "B", "C"]}


async def test_rest_fails_on_demand(http: aiohttp.ClientSession) -> None:
    """REST answers 429 as often as ordered, 503 while it is down, nothing while it hangs, and all that waits later."""
    async with simulated(3600) as venue:
        venue.rest_busy(2)
        answers = [await _status(http, venue) for _ in range(3)]
        assert answers[:2] == [(429, {"error": "too many requests"})] * 2
        assert answers[2][0] == 200
        venue.rest_down()
        for _ in range(2):
            status, body = await _status(http, venue)
            assert (status, body["error"]["code"]) == (503, "service_unavailable")
        venue.rest_up()
        assert (await _status(http, venue))[0] == 200
        venue.rest_hang()
        waiting = {asyncio.create_task(_status(http, venue)) for _ in range(3)}
        assert not (await asyncio.wait(waiting, timeout=0.2))[0]
        venue.rest_up()
        async with asyncio.timeout(5):
            assert [(await task)[0] for task in waiting] == [200] * 3


async def test_venue_ends_while_rest_hangs(http: aiohttp.ClientSession) -> None:
    """Requests that wait for an answer do not hold up the venue's end."""
    async with asyncio.timeout(5):
        async with simulated(3600) as venue:
            venue.rest_hang()
            task = asyncio.create_task(_status(http, venue))
            assert not (await asyncio.wait({task}, timeout=0.2))[0]
        with pytest.raises(aiohttp.ClientError):
            await task


async def test_hanging_venue_sends_no_data() -> None:
    """While it hangs, pings and commands are answered and nothing else is sent; after it, data has a hole in time."""
    async with simulated(36) as venue, connected(venue) as ws:
        await send(ws, 1, "subscribe", channels=["cfbenchmarks_value"], index_ids=["BRTI"])
        last = await receive(ws, "cfbenchmarks_value")
        venue.hang()
        await send(ws, 2, "list_subscriptions")
        while (message := await receive(ws)).get("id") != 2:
            last = message
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ws.recv()
        async with asyncio.timeout(5):
            await (await ws.ping())
        venue.unhang()
        after = await receive(ws)
        assert after["seq"] == last["seq"] + 1
        assert after["msg"]["received_at"] - last["msg"]["received_at"] > 20_000


async def test_garbage_is_sent_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage of every kind comes in order, however long a client's queue is, and the connection stays."""
    monkeypatch.setattr(client, "QUEUE_MESSAGES", 8)
    n = 3 * len(GARBAGE) + 1
    async with simulated(3600) as venue, connected(venue) as ws, asyncio.timeout(5):
        await ask(ws, 1, "list_subscriptions")
        await venue.garbage(n)
        told = [await ws.recv(decode=False) for _ in range(n)]
        assert told == [*GARBAGE * 3, GARBAGE[0]]
        assert (await ask(ws, 2, "list_subscriptions"))["type"] == "ok"


async def _tickers(ws: ClientConnection, n: int) -> Counter[str]:
    """Read so many tickers; return how many each market had."""
    told: Counter[str] = Counter()
    while told.total() < n:
        told[(await receive(ws, "ticker"))["msg"]["market_ticker"]] += 1
    return told


async def test_flood_is_as_fast_as_the_client(http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood waits for a client that does not read, drops nobody, and tells only tickers of held markets."""
    monkeypatch.setattr(client, "QUEUE_MESSAGES", 100)
    n = 20_000  # more than the buffers on the way take
    async with simulated(3600, start_s=START + 700) as venue, connected(venue) as other:
        mine = [market["ticker"] for market in (await get(http, venue, "/markets", status="open"))["markets"][:3]]
        await ask(other, 1, "subscribe", channels=["trade"], market_tickers=mine)
        async with connect(venue.url, additional_headers=signed(), max_queue=1) as ws:
            await ask(ws, 1, "subscribe", channels=["ticker"], market_tickers=mine)
            flood = asyncio.create_task(venue.flood(n))
            assert not (await asyncio.wait({flood}, timeout=0.3))[0]
            told = await _tickers(ws, n)
            assert told.keys() == set(mine)
            assert min(told.values()) >= n // 3
            async with asyncio.timeout(5):
                await flood
            assert (await ask(ws, 2, "list_subscriptions"))["type"] == "ok"
        assert (await ask(other, 2, "list_subscriptions"))["type"] == "ok"


async def test_flood_ends_with_its_client(http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood ends when its client goes, or holds nothing any more."""
    monkeypatch.setattr(client, "QUEUE_MESSAGES", 100)
    async with simulated(3600, start_s=START + 700) as venue, asyncio.timeout(10):
        mine = (await get(http, venue, "/markets", status="open", limit=1))["markets"][0]["ticker"]
        async with connected(venue) as ws:
            await ask(ws, 1, "subscribe", channels=["ticker"], market_tickers=[mine])
            flood = asyncio.create_task(venue.flood(1_000_000))
            await _tickers(ws, 200)
        await flood
        async with connected(venue) as ws:
            await ask(ws, 1, "subscribe", channels=["ticker"], market_tickers=[mine])
            flood = asyncio.create_task(venue.flood(1_000_000))
            await _tickers(ws, 200)
            await ask(ws, 2, "unsubscribe", sids=[1])
            await flood
            await venue.flood(1)
