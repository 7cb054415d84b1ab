"""The simulated Kalshi, over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from harness.kalshi_client import ALL, KEYS, START, Message, ask, connected, get, receive, send, signed, simulated
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from recio_ingest.demo import kalshi
from recio_ingest.demo.kalshi import KalshiVenue
from recio_ingest.demo.kalshi_clock import Clock
from recio_ingest.demo.kalshi_market import Event, Exchange, Strike

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
EVENT, CLOSE = "KXBTCD-26SEP2516", START + 4200


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Give an HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize("key_id", ["rsa", "ed"])
async def test_signed_handshake_is_let_in(key_id: str) -> None:
    """RSA-PSS and Ed25519 signatures open the websocket, up to ten seconds late and with any stamp ahead."""
    async with simulated(3600) as venue:
        for ago_s in (0, 9, -60):
            async with connect(venue.url, additional_headers=signed(key_id, ago_s=ago_s)) as ws:
                assert await ask(ws, 1, "list_subscriptions") == {"id": 1, "type": "ok", "msg": []}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (signed, "header_timestamp_expired"),
        (lambda **_: {}, "authentication_error"),
        (lambda **_: signed() | {"KALSHI-ACCESS-KEY": "other"}, "authentication_error"),
        (lambda **_: signed() | {"KALSHI-ACCESS-KEY": "rsa"}, "authentication_error"),
        (lambda **_: signed() | {"KALSHI-ACCESS-SIGNATURE": "not base64"}, "authentication_error"),
        (lambda **_: signed() | {"KALSHI-ACCESS-TIMESTAMP": "now"}, "authentication_error"),
        (lambda **_: signed(text="GET/trade-api/v2"), "authentication_error"),
        (lambda **_: signed("rsa", padding=PSS(MGF1(SHA256()), PSS.MAX_LENGTH)), "authentication_error"),
        (lambda **_: signed("rsa", padding=PKCS1v15()), "authentication_error"),
    ],
)
async def test_other_handshakes_are_refused(headers: Any, code: str) -> None:
    """A stale stamp, an unknown key or a wrong signature is answered 401 with JSON and the venue's real time."""
    async with simulated() as venue:
        with pytest.raises(InvalidStatus) as caught:
            await connect(venue.url, additional_headers=headers(ago_s=11))
        response = caught.value.response
        assert response.status_code == 401
        assert response.headers["Content-Type"] == "application/json"
        assert json.loads(response.body or b"")["error"]["code"] == code
        age = datetime.now(UTC) - parsedate_to_datetime(response.headers["Date"])
        assert abs(age) < timedelta(seconds=3)


async def test_channel_is_no_path() -> None:
    """Another path of the websocket host is answered 404."""
    async with simulated() as venue:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{venue.url}/cfbenchmarks_value", additional_headers=signed())
        assert caught.value.response.status_code == 404


async def test_commands_and_their_answers() -> None:
    """Each channel has a sid; adding, deleting, subscribing again and unsubscribing answer with what is held."""
    async with simulated(3600) as venue, connected(venue) as ws:
        await send(ws, 1, "subscribe", channels=["ticker", "trade"], market_tickers=["A"])
        for sid, channel in ((1, "ticker"), (2, "trade")):
            assert await receive(ws) == {"id": 1, "type": "subscribed", "msg": {"channel": channel, "sid": sid}}
        answer = await ask(ws, 2, "update_subscription", sid=2, market_tickers=["B"], action="add_markets")
        assert answer == {"id": 2, "sid": 2, "seq": 1, "type": "ok", "msg": {"market_tickers": ["A", "B"]}}
        answer = await ask(ws, 3, "update_subscription", sids=[2], market_ticker="A", action="delete_markets")
        assert answer == {"id": 3, "sid": 2, "seq": 2, "type": "ok", "msg": {"market_tickers": ["B"]}}
        answer = await ask(ws, 4, "update_subscription", sid=1, market_tickers=["B"], action="add_markets")
        assert answer == {"id": 4, "sid": 1, "type": "ok", "msg": {"market_tickers": ["A", "B"]}}
        answer = await ask(ws, 5, "subscribe", channels=["trade"], market_tickers=["B", "C"])
        assert answer == {"id": 5, "sid": 2, "seq": 3, "type": "ok", "msg": {"market_tickers": ["B", "C"]}}
        answer = await ask(ws, 6, "list_subscriptions")
        assert answer["msg"] == [{"channel": "ticker", "sid": 1}, {"channel": "trade", "sid": 2}]
        assert await ask(ws, 7, "unsubscribe", sids=[2]) == {"id": 7, "sid": 2, "seq": 4, "type": "unsubscribed"}
        answer = await ask(ws, 8, "subscribe", channels=["market_lifecycle_v2"])
        assert answer["msg"] == {"channel": "market_lifecycle_v2", "sid": 3}
        async with connected(venue) as other:
            answer = await ask(other, 1, "subscribe", channels=["trade"])
            assert answer["msg"]["sid"] == 1, "sids are the connection's"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("{not json", 1),
        ("[]", 1),
        ('{"cmd":"hello","params":{"a":1}}', 5),
        ('{"cmd":"subscribe"}', 2),
        ('{"cmd":"subscribe","params":{"market_ticker":"A"}}', 3),
        ('{"cmd":"subscribe","params":{"channels":["depth"]}}', 8),
        ('{"cmd":"subscribe","params":{"channels":"ticker"}}', 11),
        ('{"cmd":"subscribe","params":{"channels":["trade"],"market_ticker":"A","market_tickers":["A"]}}', 11),
        ('{"cmd":"subscribe","params":{"channels":["cfbenchmarks_value"]}}', 24),
        ('{"cmd":"unsubscribe","params":{"sids":[]}}', 4),
        ('{"cmd":"unsubscribe","params":{"sids":[99]}}', 7),
        ('{"cmd":"update_subscription","params":{"sids":[1,2],"action":"add_markets"}}', 12),
        ('{"cmd":"update_subscription","params":{"sid":1,"market_ticker":"A"}}', 15),
        ('{"cmd":"update_subscription","params":{"sid":1,"market_ticker":"A","action":"jump"}}', 13),
        ('{"cmd":"update_subscription","params":{"sid":1,"action":"add_markets"}}', 14),
    ],
)
async def test_bad_command_is_refused(command: str, code: int) -> None:
    """A command that cannot be obeyed is answered with its code, changes nothing, and the connection stays."""
    async with simulated(3600) as venue, connected(venue) as ws:
        await ask(ws, 1, "subscribe", channels=["ticker", "market_lifecycle_v2"], market_tickers=["A"])
        await ws.send(command)
        error = await receive(ws, "error")
        assert error.keys() == {"type", "msg"}
        assert error["msg"]["code"] == code
        assert error["msg"]["msg"]
        assert len((await ask(ws, 2, "list_subscriptions"))["msg"]) == 2


@pytest.fixture(scope="module")
def whole_hour() -> tuple[list[Message], list[Message], list[Message]]:
    """All that is told from before an event opens until it is settled, and what REST then says."""

    async def record() -> tuple[list[Message], list[Message], list[Message]]:
        told: list[Message] = []
        async with aiohttp.ClientSession() as http, simulated() as venue, connected(venue) as ws:
            await send(ws, 1, "subscribe", channels=ALL, index_ids=["BRTI"])
            async with asyncio.timeout(15):
                while not told or told[-1].get("msg", {}).get("received_at", 0) < (CLOSE + 153) * 1000:
                    told.append(await receive(ws))
            markets = await get(http, venue, "/markets", event_ticker=EVENT)
            trades = await get(http, venue, "/markets/trades", limit=1000, min_ts=CLOSE - 900, max_ts=CLOSE - 1)
        return told, markets["markets"], trades["trades"]

    return asyncio.run(record())


Hour = tuple[list[Message], list[Message], list[Message]]


def _of(told: list[Message], kind: str) -> list[Message]:
    return [message["msg"] for message in told if message["type"] == kind]


def test_sequences_have_no_hole(whole_hour: Hour) -> None:
    """Every channel but ticker counts its messages from 1 without a hole; ticker does not count."""
    told = whole_hour[0][4:]
    for sid in (2, 3, 4):
        seqs = [message["seq"] for message in told if message["sid"] == sid]
        assert seqs == list(range(1, len(seqs) + 1))
    assert all("seq" not in message for message in told if message["sid"] == 1)


def test_index_prints_each_second(whole_hour: Hour) -> None:
    """The index comes once a second of the venue's time with two decimals, and its means cover what they say."""
    prints = _of(whole_hour[0], "cfbenchmarks_value")
    inner = [json.loads(message["data"]) for message in prints]
    values = [Decimal(each["value"]) for each in inner]
    assert {b["time"] - a["time"] for a, b in pairwise(inner)} == {1000}
    assert all(re.fullmatch(r"\d+\.\d\d", each["value"]) and each["id"] == "BRTI" for each in inner)
    assert 0 < max(abs(b - a) for a, b in pairwise(values)) < 100
    assert len(set(values)) > 1000
    for n, message in enumerate(prints):
        mean = message["avg_60s_data"]
        assert mean["window_size"] == min(n, 60)
        seen = values[max(0, n - 60) : n] or values[:1]
        assert Decimal(mean["value"]) == (Decimal(sum(seen)) / len(seen)).quantize(Decimal("1e-8"), ROUND_HALF_UP)
        quarter = message.get("last_60s_windowed_average_15min")
        assert (quarter is not None) == ((inner[n]["time"] // 1000 - 1) % 900 >= 840)
        if quarter and n > 60:
            seen = values[n + 1 - quarter["window_size"] : n + 1]
            assert Decimal(quarter["value"]) == (Decimal(sum(seen)) / len(seen)).quantize(
                Decimal("1e-8"), ROUND_HALF_UP
            )


def test_event_settles_at_the_mean_of_its_last_minute(whole_hour: Hour) -> None:
    """The expiration value is the mean of the 60 prints in [T - 60 s, T), half up, and decides every strike."""
    told, markets, _ = whole_hour
    inner = [json.loads(message["data"]) for message in _of(told, "cfbenchmarks_value")]
    last = [Decimal(each["value"]) for each in inner if CLOSE - 60 <= each["time"] // 1000 < CLOSE]
    assert len(last) == 60
    value = (Decimal(sum(last)) / 60).quantize(Decimal("0.01"), ROUND_HALF_UP)
    determined = {m["market_ticker"]: m for m in _of(told, "market_lifecycle_v2") if m["event_type"] == "determined"}
    assert len(markets) == 20
    assert {market["result"] for market in markets} == {"yes", "no"}
    for market in markets:
        result = "yes" if value > market["floor_strike"] else "no"
        assert market["status"] == "finalized"
        assert (market["expiration_value"], market["result"]) == (str(value), result)
        assert market["settlement_value_dollars"] == ("1.0000" if result == "yes" else "0.0000")
        assert determined[market["ticker"]]["result"] == result
        assert determined[market["ticker"]]["settlement_value"] == market["settlement_value_dollars"]


def test_life_of_an_event(whole_hour: Hour) -> None:
    """Markets are created, activated, determined and settled three times in time; that they close is not told."""
    told = whole_hour[0]
    lives: dict[str, list[Message]] = {}
    for message in _of(told, "market_lifecycle_v2"):
        lives.setdefault(message["market_ticker"], []).append(message)
    ours = [life for ticker, life in lives.items() if ticker.startswith(EVENT)]
    assert len(ours) == 20
    for life in ours:
        assert [m["event_type"] for m in life] == ["activated", "determined", "settled", "settled", "settled"]
        assert life[1]["determination_ts"] == CLOSE + 90
        assert [m["settled_ts"] for m in life[2:]] == [CLOSE + 150, CLOSE + 150, CLOSE + 152]
    created = [m for m in _of(told, "market_lifecycle_v2") if m["event_type"] == "created"]
    assert len(created) == 40, "two events, one at 19:00 and one at 20:00"
    assert created[0]["open_ts"] == CLOSE, "the one that opens when this one closes"
    assert created[0]["close_ts"] == CLOSE + 3600
    floors = [m["additional_metadata"]["floor_strike"] for m in created[:20]]
    assert {b - a for a, b in pairwise(floors)} == {100}
    assert all(m["market_ticker"].endswith(f"-T{floor}") for m, floor in zip(created[:20], floors, strict=True))
    events = _of(told, "event_lifecycle")
    assert [event["event_ticker"] for event in events] == ["KXBTCD-26SEP2517", "KXBTCD-26SEP2518"]


def test_tickers_tell_what_changed(whole_hour: Hour) -> None:
    """A ticker differs from the one before, quotes do not cross, and the close leaves 0.0000 and 1.0000."""
    tickers = [m for m in _of(whole_hour[0], "ticker") if m["market_ticker"].startswith(EVENT)]
    by_market: dict[str, list[Message]] = {}
    for message in tickers:
        by_market.setdefault(message["market_ticker"], []).append(message)
        for name, text in message.items():
            if name.endswith("_dollars"):
                assert re.fullmatch(r"[01]\.\d{4}", text)
            if name.endswith("_fp"):
                assert re.fullmatch(r"\d+\.\d\d", text)
        assert message["yes_bid_dollars"] < message["yes_ask_dollars"]
        assert (message["yes_bid_dollars"] == "0.0000") == (message["yes_bid_size_fp"] == "0.00")
        assert (message["yes_ask_dollars"] == "1.0000") == (message["yes_ask_size_fp"] == "0.00")
    assert len(by_market) == 20
    for messages in by_market.values():
        timeless = [{k: v for k, v in m.items() if k not in ("ts", "ts_ms", "time")} for m in messages]
        assert all(a != b for a, b in pairwise(timeless[:-1]))
        assert (messages[-1]["yes_bid_dollars"], messages[-1]["yes_ask_dollars"]) == ("0.0000", "1.0000")
        assert messages[-1]["ts"] == CLOSE
    assert len(tickers) > 1000


def test_trades_add_up(whole_hour: Hour) -> None:
    """Trades have ids of their own, prices that make a dollar, end with the close and add up to the volume."""
    told, markets, by_rest = whole_hour
    trades = [m for m in _of(told, "trade") if m["market_ticker"].startswith(EVENT)]
    assert len({m["trade_id"] for m in trades}) == len(trades) > 500
    assert all(UUID4.fullmatch(m["trade_id"]) for m in trades)
    assert all(Decimal(m["yes_price_dollars"]) + Decimal(m["no_price_dollars"]) == 1 for m in trades)
    assert {(m["taker_side"], m["taker_book_side"]) for m in trades} == {("yes", "bid"), ("no", "ask")}
    assert (CLOSE - 3600) * 1000 <= trades[0]["ts_ms"] <= trades[-1]["ts_ms"] < CLOSE * 1000
    assert trades == sorted(trades, key=lambda m: m["ts_ms"])
    counted = dict.fromkeys((market["ticker"] for market in markets), Decimal(0))
    for m in trades:
        counted[m["market_ticker"]] += Decimal(m["count_fp"])
    assert counted == {market["ticker"]: Decimal(market["volume_fp"]) for market in markets}
    late = [m["trade_id"] for m in trades if m["ts"] >= CLOSE - 900 and m["ts_ms"] <= (CLOSE - 1) * 1000]
    assert [m["trade_id"] for m in reversed(by_rest)] == late
    assert by_rest[0].keys() >= {"ticker", "created_time", "count_fp", "taker_side", "is_block_trade"}


async def test_only_the_asked_markets_are_told(http: aiohttp.ClientSession) -> None:
    """A snapshot comes on request, then only the subscription's markets are told, until they are deleted."""
    async with simulated(8, start_s=START + 700) as venue, connected(venue) as ws:
        markets = (await get(http, venue, "/markets", status="open"))["markets"]
        mine = [market["ticker"] for market in markets[8:12]]
        await send(ws, 1, "subscribe", channels=["ticker"], market_tickers=mine, send_initial_snapshot=True)
        assert (await receive(ws))["type"] == "subscribed"
        assert [(await receive(ws))["msg"]["market_ticker"] for _ in mine] == mine
        assert {(await receive(ws))["msg"]["market_ticker"] for _ in range(100)} <= set(mine)
        await ask(ws, 2, "update_subscription", sid=1, market_tickers=mine, action="delete_markets")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ws.recv()


async def test_faults_on_demand() -> None:
    """Errors of a subscription count and may end it, a revoked channel is refused, numbers can be skipped."""
    async with simulated(36) as venue, connected(venue) as ws:
        await send(ws, 1, "subscribe", channels=["trade", "cfbenchmarks_value"], index_ids=["BRTI"])
        last = await receive(ws, "cfbenchmarks_value")
        await venue.fail(27, sid=2)
        while (message := await receive(ws))["type"] != "error":
            last = message if message["sid"] == 2 else last
        assert (message["sid"], message["seq"], message["msg"]["code"]) == (2, last["seq"] + 1, 27)
        before = (await receive(ws, "cfbenchmarks_value"))["seq"]
        venue.skip_seq(5, sid=2)
        seqs = [before, *[(await receive(ws, "cfbenchmarks_value"))["seq"] for _ in range(40)]]
        assert sorted({b - a for a, b in pairwise(seqs)}) == [1, 6]
        await venue.fail(25, sid=1)
        assert (await receive(ws, "error"))["msg"]["code"] == 25
        venue.revoke("cfbenchmarks_value")
        error = await receive(ws, "error")
        assert (error["sid"], error["msg"]["code"]) == (2, 10)
        assert (await ask(ws, 2, "list_subscriptions"))["msg"] == []
        answer = await ask(ws, 3, "subscribe", channels=["cfbenchmarks_value"], index_ids=["BRTI"])
        assert answer["msg"]["code"] == 9
        venue.grant("cfbenchmarks_value")
        answer = await ask(ws, 4, "subscribe", channels=["cfbenchmarks_value"], index_ids=["BRTI"])
        assert answer["msg"]["sid"] == 3
        await venue.disconnect()
        with pytest.raises(ConnectionClosed):
            await receive(ws, "nothing")


async def test_ping_says_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The venue pings with its word every ten seconds, and drops a client that does not answer."""
    assert kalshi.PING_S == 10
    monkeypatch.setattr(kalshi, "PING_S", 0.2)
    async with simulated(3600) as venue, connected(venue) as alive:
        host, port = venue.url.removeprefix("ws://").partition("/")[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed().items())
        writer.write(
            f"GET /trade-api/ws/v2 HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{lines}"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        async with asyncio.timeout(4):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(11) == b"\x89\x09heartbeat"
            assert (await reader.read())[:1] == b"\x88"
        writer.close()
        assert (await ask(alive, 1, "list_subscriptions"))["type"] == "ok"


async def test_rest_finds_markets(http: aiohttp.ClientSession) -> None:
    """Filters use their own words, pages end with an empty cursor, and one market is found by its name."""
    async with simulated(3600, start_s=START + 700) as venue:
        counts = {}
        for word in ("unopened", "open", "paused", "closed", "settled"):
            markets = (await get(http, venue, "/markets", series_ticker="KXBTCD", status=word))["markets"]
            counts[word] = Counter(market["status"] for market in markets)
        assert counts == {
            "unopened": {"initialized": 20},
            "open": {"active": 20},
            "paused": {},
            "closed": {"determined": 20},
            "settled": {"finalized": 20},
        }
        everything = (await get(http, venue, "/markets", limit=1000))["markets"]
        paged, cursor = [], None
        while cursor != "":
            page = await get(http, venue, "/markets", limit=33, **({"cursor": cursor} if cursor else {}))
            paged += page["markets"]
            cursor = page["cursor"]
        assert [m["ticker"] for m in paged] == [m["ticker"] for m in everything]
        assert len({m["ticker"] for m in paged}) == 80
        two = [paged[3]["ticker"], paged[70]["ticker"]]
        assert [m["ticker"] for m in (await get(http, venue, "/markets", tickers=",".join(two)))["markets"]] == two
        assert (await get(http, venue, f"/markets/{two[0]}"))["market"] == paged[3]
        assert (await get(http, venue, "/markets", series_ticker="KXOTHER"))["markets"] == []


async def test_rest_finds_markets_by_time(http: aiohttp.ClientSession) -> None:
    """Bounds of the close and of the settlement are included, 0 is none, and what is open was not settled yet."""
    async with simulated(3600, start_s=START + 700) as venue:

        async def hours(**query: int) -> dict[str, int]:
            markets = (await get(http, venue, "/markets", limit=1000, **query))["markets"]
            return dict(Counter(market["close_time"][11:13] for market in markets))

        settled_ts = CLOSE - 7200 + 150  # 18:02:30; the hour that closed at 19:00 is determined, not settled
        assert await hours() == {"21": 20, "20": 20, "19": 20, "18": 20}
        assert await hours(min_close_ts=CLOSE - 3600, max_close_ts=CLOSE) == {"20": 20, "19": 20}
        assert await hours(min_close_ts=CLOSE + 1, max_close_ts=0) == {"21": 20}
        assert await hours(min_close_ts=CLOSE, max_close_ts=CLOSE - 3600) == {}
        assert await hours(min_settled_ts=settled_ts) == {"18": 20}
        assert await hours(max_settled_ts=settled_ts) == {"18": 20}
        assert await hours(min_settled_ts=settled_ts + 1) == {}
        assert await hours(max_settled_ts=settled_ts - 1) == {}
        assert await hours(min_settled_ts=settled_ts, max_close_ts=CLOSE) == {"18": 20}
        assert len(await hours(min_settled_ts=0)) == 4


async def test_rest_market_has_the_venues_shape(http: aiohttp.ClientSession) -> None:
    """An open market leaves out what is null, keeps open results empty, and has decimals only as text."""
    async with simulated(3600, start_s=START + 700) as venue:
        market = (await get(http, venue, "/markets", status="open", limit=1))["markets"][0]
    assert (market["result"], market["expiration_value"]) == ("", "")
    assert not market.keys() & {"settlement_ts", "settlement_value_dollars", "cap_strike"}
    assert None not in market.values()
    assert [name for name, value in market.items() if isinstance(value, Decimal)] == ["floor_strike"]
    assert market["ticker"] == f"{EVENT}-T{market['floor_strike']}"
    assert market["subtitle"] == f"${market['floor_strike'] + Decimal('0.01'):,.0f} or above"
    assert (market["open_time"], market["close_time"]) == ("2026-09-25T19:00:00Z", "2026-09-25T20:00:00Z")
    assert "before 4 PM EDT is above" in market["rules_primary"]
    for side, other in (("bid", "ask"), ("ask", "bid")):
        assert Decimal(market[f"no_{side}_dollars"]) == 1 - Decimal(market[f"yes_{other}_dollars"])


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/markets/KXBTCD-NONE", 404, "not_found"),
        ("/series/KXNONE", 404, "not_found"),
        ("/nothing", 404, "not_found"),
        ("/markets?status=active", 400, "bad_request"),
        ("/markets?limit=1001", 400, "bad_request"),
        ("/markets?limit=many", 400, "bad_request"),
        ("/markets?cursor=x", 400, "bad_request"),
        ("/markets?min_settled_ts=now", 400, "bad_request"),
        ("/markets/trades?min_ts=now", 400, "bad_request"),
    ],
)
async def test_rest_refuses(http: aiohttp.ClientSession, path: str, status: int, code: str) -> None:
    """What REST does not know or understand is told in JSON."""
    async with simulated(3600) as venue, http.get(f"{venue.rest_url}{path}") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_rest_pages_trades(http: aiohttp.ClientSession) -> None:
    """The trades of one market come in pages, the newest first, none twice and none left out."""
    async with simulated(3600, start_s=START + 2000) as venue:
        ticker = (await get(http, venue, "/markets", status="open"))["markets"][10]["ticker"]
        everything = (await get(http, venue, "/markets/trades", ticker=ticker, limit=1000))["trades"]
        first = await get(http, venue, "/markets/trades", ticker=ticker, limit=20)
        rest = await get(http, venue, "/markets/trades", ticker=ticker, limit=1000, cursor=first["cursor"])
    assert first["trades"] + rest["trades"] == everything
    assert rest["cursor"] == ""
    assert len({trade["trade_id"] for trade in everything}) == len(everything) > 40
    times = [datetime.fromisoformat(trade["created_time"]) for trade in everything]
    assert times == sorted(times, reverse=True)


async def test_rest_is_rationed(http: aiohttp.ClientSession) -> None:
    """Sixty requests at once pass, more are answered 429 without a Retry-After, and a moment buys the next."""
    async with simulated(3600) as venue:

        async def status() -> int:
            async with http.get(f"{venue.rest_url}/exchange/status") as response:
                if response.status == 429:
                    assert await response.json() == {"error": "too many requests"}
                    assert "Retry-After" not in response.headers
                else:
                    assert await response.json() == {"exchange_active": True, "trading_active": True}
                return response.status

        answers = [await status() for _ in range(100)]
        assert answers[:60] == [200] * 60
        assert 429 in answers[60:]
        await asyncio.sleep(0.1)
        assert await status() == 200
        series = await get(http, venue, "/series/KXBTCD")
        assert (series["series"]["ticker"], series["series"]["frequency"]) == ("KXBTCD", "hourly")


def test_same_seed_same_market() -> None:
    """A venue started later with its seed has the trades of one that ran on; another seed has others."""
    ran, late = Exchange(["KXBTCD"], 1, START + 3000), Exchange(["KXBTCD"], 1, START + 3600)
    while ran.now_s < late.now_s:
        ran.step()

    def trades(exchange: Exchange) -> list[Any]:
        return [(s.ticker, s.market_id, s.bid, s.ask, s.volume_e2, s.trades) for s in exchange.strikes()]

    assert trades(ran) == trades(late)
    assert trades(ran) != trades(Exchange(["KXBTCD"], 2, START + 3600))


def test_half_a_cent_is_rounded_up() -> None:
    """A mean of 100.5 cents settles at 101, and one that only equals the strike is not above it."""
    event = Event("KXBTCD", CLOSE, lambda s: 100 + s % 2, 1)
    assert event.value_cents == 101
    assert event.result(Strike(event, 101, "", "")) == "no"
    assert event.result(Strike(event, 100, "", "")) == "yes"


def test_names_follow_new_york() -> None:
    """Names are New York's hour of the close on both sides of the change; the repeated hour has no event."""
    day = datetime(2026, 11, 1, tzinfo=UTC)
    exchange = Exchange(["KXBTCD"], 1, int(day.timestamp()) + 6 * 3600)
    hours = [(event.close_s - int(day.timestamp())) // 3600 for event in exchange.events]
    assert hours == [5, 7, 8]
    assert [event.ticker[7:] for event in exchange.events] == ["26NOV0101", "26NOV0102", "26NOV0103"]


def test_compressed_time_starts_a_week_back() -> None:
    """Real hours run by the real clock; compressed ones start a week back, ten minutes before a full hour."""
    assert abs(Clock(3600).now_ms() - time.time() * 1000) < 1000
    start_s = Clock(3600.5 - 0.25).now_ms() // 1000
    assert 3000 <= start_s % 3600 <= 3001
    assert 7 * 24 * 3600 <= time.time() - start_s <= 7 * 24 * 3600 + 4200
    clock = Clock(1.0, START)
    time.sleep(0.1)
    assert 360_000 <= clock.now_ms() - START * 1000 < 1_800_000
    assert clock.real_s(3_600_000) == 1.0


async def test_end_and_cancellation_leave_nothing() -> None:
    """Leaving closes clients with 1001, an error leaves as it is, a cancelled task is cancelled, no task is left."""
    async with asyncio.timeout(4), simulated() as venue:
        ws = await connect(venue.url, additional_headers=signed(), max_queue=None)
        await ask(ws, 1, "subscribe", channels=ALL, index_ids=["BRTI"])
    await ws.wait_closed()
    assert ws.close_code == 1001
    with pytest.raises(LookupError, match="mine"):
        async with simulated():
            raise LookupError("mine")

    async def run() -> None:
        async with simulated() as venue, connected(venue) as ws:
            await ask(ws, 1, "subscribe", channels=ALL, index_ids=["BRTI"])
            await asyncio.sleep(60)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await asyncio.sleep(0.5)
        task.cancel()
    assert task.cancelled()
    assert len(asyncio.all_tasks()) == 1


async def test_broken_market_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the market ends the block with its cause instead of leaving a dead feed."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        async with asyncio.timeout(5), simulated():
            monkeypatch.setattr(Exchange, "step", broken)
            await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(ZeroDivisionError)


def test_impossible_venue_is_refused() -> None:
    """A venue without series, or whose hours do not last, is refused where it is made."""
    with pytest.raises(ValueError, match="needs a series"):
        KalshiVenue((), public_keys=KEYS)
    with pytest.raises(ValueError, match="needs to last"):
        KalshiVenue(public_keys=KEYS, hour_s=0)
