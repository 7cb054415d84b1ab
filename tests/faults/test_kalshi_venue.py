"""The fake Kalshi is a venue like the live one: signed, numbered, and every message can be computed again."""

from __future__ import annotations

import asyncio
import json
import stat
import time
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness.daemon import Daemon
from harness.kalshi_market import Exchange
from harness.kalshi_messages import number_of
from harness.kalshi_venue import KalshiOracle
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RECEIVE_WITHIN_S = 10.0
SKIPPED, REPEATED = 3, 5

Message = dict[str, Any]


@pytest.fixture
async def kalshi(tmp_path: Path) -> AsyncIterator[KalshiOracle]:
    """A venue of moderate speed, whose index is told on the second."""
    async with KalshiOracle(tmp_path, rate=1000, print_delay_ms=0) as kalshi:
        yield kalshi


def signed(kalshi: KalshiOracle, *, age_ms: int = 0, path: str = "/trade-api/ws/v2") -> dict[str, str]:
    """The headers of a handshake."""
    stamp = str(time.time_ns() // 1_000_000 - age_ms)
    signature = b64encode(kalshi.key.sign(f"{stamp}GET{path}".encode())).decode()
    return {
        "KALSHI-ACCESS-KEY": kalshi.key_id,
        "KALSHI-ACCESS-TIMESTAMP": stamp,
        "KALSHI-ACCESS-SIGNATURE": signature,
    }


def opened(kalshi: KalshiOracle) -> connect:
    """A signed connection."""
    return connect(kalshi.url, additional_headers=signed(kalshi), close_timeout=0.1)


async def ask(socket: ClientConnection, number: int, cmd: str, **params: object) -> None:
    """Send a command."""
    await socket.send(json.dumps({"id": number, "cmd": cmd, "params": params}))


async def receive(socket: ClientConnection) -> Message:
    """Take the next message."""
    message: Message = json.loads(await asyncio.wait_for(socket.recv(), RECEIVE_WITHIN_S))
    return message


async def receive_until(socket: ClientConnection, kind: str, count: int = 1, **fields: object) -> list[Message]:
    """Take messages until so many of a kind have come, and return all of them."""
    messages: list[Message] = []
    while count:
        messages.append(message := await receive(socket))
        count -= message["type"] == kind and fields.items() <= message.items()
    return messages


async def subscribe_all(socket: ClientConnection, markets: list[str]) -> None:
    """Ask for everything, one command per channel."""
    await ask(socket, 1, "subscribe", channels=["market_lifecycle_v2"])
    await ask(socket, 2, "subscribe", channels=["cfbenchmarks_value"], index_ids=["BRTI"])
    await ask(socket, 3, "subscribe", channels=["ticker"], market_tickers=markets, send_initial_snapshot=True)
    await ask(socket, 4, "subscribe", channels=["trade"], market_tickers=markets)


def of(messages: list[Message], kind: str) -> list[Message]:
    """The messages of a kind."""
    return [message for message in messages if message["type"] == kind]


def number(message: Message) -> int:
    """The number that a message is made from."""
    body = message["msg"]
    if message["type"] == "cfbenchmarks_value":
        return int(json.loads(body["data"])["time"]) // 1000
    return number_of(body["trade_id"]) if message["type"] == "trade" else int(body["volume_fp"][:-3])


def numbers(messages: list[Message], kind: str) -> list[int]:
    """Their numbers."""
    return [number(message) for message in of(messages, kind)]


async def get(kalshi: KalshiOracle, path: str) -> Message:
    """Ask by REST."""

    def read() -> Message:
        with urllib.request.urlopen(f"{kalshi.rest_url}{path}", timeout=RECEIVE_WITHIN_S) as answer:
            body: Message = json.load(answer)
            return body

    return await asyncio.to_thread(read)


async def test_handshake_is_signed(kalshi: KalshiOracle) -> None:
    """A handshake without signature, with a stale one, of another path or another key is refused with 401."""
    other = signed(kalshi) | {"KALSHI-ACCESS-KEY": "another"}
    for headers in ({}, signed(kalshi, age_ms=20_000), signed(kalshi, path="/trade-api/v2"), other):
        with pytest.raises(InvalidStatus) as refused:
            await connect(kalshi.url, additional_headers=headers)
        assert refused.value.response.status_code == 401
    async with opened(kalshi):
        assert (await kalshi.ledger()).unsigned == 4
    assert stat.S_IMODE(kalshi.key_file.stat().st_mode) == 0o600


async def test_every_message_can_be_computed(kalshi: KalshiOracle) -> None:
    """What two connections were sent is what the exchange makes, without a hole, and stands in the ledger."""
    received = []
    markets: list[str] = []
    for _ in range(2):
        async with opened(kalshi) as socket:
            markets = markets or (await kalshi.ledger()).exchange.tickers
            await subscribe_all(socket, markets)
            messages = await receive_until(socket, "subscribed", 4)
            messages += await receive_until(socket, "trade", 100)
            received.append(messages + await receive_until(socket, "cfbenchmarks_value"))
    ledger = await kalshi.ledger()

    for place, messages in enumerate(received):
        sent = ledger.connections[place]
        acknowledged = {each["msg"]["channel"]: each["msg"]["sid"] for each in of(messages, "subscribed")}
        assert acknowledged == {"market_lifecycle_v2": 1, "cfbenchmarks_value": 2, "ticker": 3, "trade": 4}
        for kind, channel in (("ticker", "ticker"), ("trade", "trade"), ("print", "cfbenchmarks_value")):
            data = of(messages, channel)
            assert [each["msg"] for each in data] == [ledger.exchange.body(kind, number(each)) for each in data]
            assert all(sent.sent(kind, number(each)) for each in data)
            if kind == "ticker":
                snapshot, data = data[: len(sent.snapshots)], data[len(sent.snapshots) :]
                assert [number(each) for each in snapshot] == sent.snapshots
                assert not any("seq" in each for each in snapshot + data)
            else:
                assert [each["seq"] for each in data] == list(range(1, len(data) + 1))
            live = [number(each) for each in data]
            assert live == ledger.numbers(kind, live[0], live[-1])
            assert len(getattr(sent, kind)) == 1
    assert len(ledger.connections[1].snapshots) == len(markets)
    assert ledger.connections[0].closed_ns <= ledger.connections[1].opened_ns
    assert ledger.connections[1].trade[0][0] > ledger.connections[0].trade[0][1]  # the market did not wait for us


async def test_markets_come_and_go(kalshi: KalshiOracle) -> None:
    """Markets are added to a subscription and taken away; its answers tell all it holds and share its numbers."""
    a, b, *_ = (await kalshi.ledger()).exchange.tickers
    async with opened(kalshi) as socket:
        await ask(socket, 1, "subscribe", channels=["trade"], market_tickers=[a])
        await ask(socket, 2, "subscribe", channels=["ticker"], market_tickers=[a])
        messages = await receive_until(socket, "trade", 2)
        await ask(socket, 3, "update_subscription", sids=[1], action="add_markets", market_tickers=[b])
        messages += await receive_until(socket, "ok")
        assert {each["msg"]["market_ticker"] for each in messages if "market_ticker" in each["msg"]} == {a}
        await ask(socket, 4, "update_subscription", sids=[2], action="add_markets", market_tickers=[b])
        messages += await receive_until(socket, "ok")
        messages += (more := await receive_until(socket, "trade", 4))
        assert {each["msg"]["market_ticker"] for each in of(more, "trade")} == {a, b}
        await ask(socket, 5, "update_subscription", sids=[1], action="delete_markets", market_tickers=[a])
        messages += await receive_until(socket, "ok")
        messages += (more := await receive_until(socket, "trade", 2))
        assert {each["msg"]["market_ticker"] for each in of(more, "trade")} == {b}
        await ask(socket, 6, "unsubscribe", sids=[1])
        messages += await receive_until(socket, "unsubscribed")
        assert not of(await receive_until(socket, "ticker", 20), "trade")
        ledger = await kalshi.ledger()

    by_id = {each["id"]: each for each in messages if "id" in each}
    assert by_id[3]["msg"] == by_id[4]["msg"] == {"market_tickers": [a, b]}
    assert by_id[5]["msg"] == {"market_tickers": [b]}
    assert "seq" not in by_id[4]
    seqs = [each["seq"] for each in messages if each.get("sid") == 1 and "seq" in each]
    assert seqs == list(range(1, len(seqs) + 1))
    assert all(ledger.connections[0].sent("trade", each) for each in numbers(messages, "trade"))
    assert len(ledger.sent_after("trade", 0)) == len(of(messages, "trade"))


@pytest.mark.parametrize(
    ("cmd", "params", "code"),
    [
        ("dance", {}, 5),
        ("subscribe", {}, 3),
        ("subscribe", {"channels": ["ticker_v2"]}, 8),
        ("subscribe", {"channels": ["cfbenchmarks_value"]}, 24),
        ("update_subscription", {"sids": [9], "action": "add_markets", "market_tickers": ["x"]}, 7),
        ("unsubscribe", {}, 4),
    ],
)
async def test_wrong_commands(kalshi: KalshiOracle, cmd: str, params: Message, code: int) -> None:
    """A command that cannot be obeyed is answered with the venue's code for it."""
    async with opened(kalshi) as socket:
        await ask(socket, 7, cmd, **params)
        answer = await receive(socket)
    assert (answer["id"], answer["type"], answer["msg"]["code"]) == (7, "error", code)


async def test_orders(kalshi: KalshiOracle) -> None:
    """Trades are lost with their numbers and repeated under new ones; a frozen exchange still sends what it owes."""
    markets = (await kalshi.ledger()).exchange.tickers
    async with opened(kalshi) as socket:
        await subscribe_all(socket, markets)
        await kalshi.live()
        await kalshi.skip(SKIPPED)
        await asyncio.sleep(0.1)
        newest = await kalshi.freeze()
        await asyncio.sleep(0.1)
        await kalshi.repeat(REPEATED)
        messages = await receive_until(socket, "cfbenchmarks_value", 2)
        trades = of(messages, "trade")
        while len(seen := {each["seq"] for each in trades if number(each) == newest["trade"]}) < 2:
            messages.append(await receive(socket))
            trades = of(messages, "trade")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.1)
        ledger = await kalshi.ledger()

        await kalshi.thaw()
        later = await receive_until(socket, "trade", 10)
        await kalshi.disconnect()
        with pytest.raises(ConnectionClosed):
            await receive_until(socket, "never")
    await kalshi.refuse()
    with pytest.raises(InvalidStatus, match="503"):
        await opened(kalshi)
    await kalshi.refuse(on=False)
    async with opened(kalshi):
        pass

    sent = ledger.connections[0]
    lost = [skipped for skipped, _, _ in sent.skipped]
    first = [each for each in trades if each["seq"] < min(seen) + 1]
    repeated = [each for each in trades if each["seq"] > min(seen)]
    assert len(lost) == SKIPPED
    assert sorted([*lost, *numbers(first, "trade")]) == ledger.numbers("trade", number(first[0]), newest["trade"])
    assert not set(lost) & set(numbers(messages, "trade"))
    assert numbers(repeated, "trade") == ledger.numbers("trade", 0, newest["trade"])[-REPEATED:]
    seqs = sorted([*(each["seq"] for each in trades), *(seq for _, _, seq in sent.skipped)])
    assert seqs == list(range(1, len(seqs) + 1))
    assert max(numbers(messages, "ticker")) == newest["ticker"]
    prints = numbers(messages, "cfbenchmarks_value")
    assert prints[-1] == prints[-2] == newest["print"]
    assert numbers(later, "trade") == ledger.numbers("trade", newest["trade"] + 1, numbers(later, "trade")[-1])


async def test_markets_are_described(kalshi: KalshiOracle) -> None:
    """REST tells all markets of the open event page by page, none that is not open, and filters by name."""
    status = await get(kalshi, "/exchange/status")
    first = await get(kalshi, "/markets?series_ticker=KXBTCD&status=open&limit=25&unknown=1")
    rest = await get(kalshi, f"/markets?series_ticker=KXBTCD&status=open&limit=25&cursor={first['cursor']}")
    unopened = await get(kalshi, "/markets?series_ticker=KXBTCD&status=unopened")
    other = await get(kalshi, "/markets?series_ticker=KXBTC&status=open")
    exchange = (await kalshi.ledger()).exchange
    two = await get(kalshi, f"/markets?event_ticker={exchange.event}&tickers={','.join(exchange.tickers[:2])}")

    assert status["exchange_active"]
    assert [market["ticker"] for market in first["markets"] + rest["markets"]] == exchange.tickers
    assert (len(first["markets"]), rest["cursor"]) == (25, "")
    assert unopened == other == {"markets": [], "cursor": ""}
    assert [market["ticker"] for market in two["markets"]] == exchange.tickers[:2]
    assert {market["status"] for market in first["markets"]} == {"active"}


def test_latest_ticker() -> None:
    """The latest ticker of a market is the highest number of its tickers."""
    exchange = Exchange("S", "E", markets=3, trade_every=4, first=0, start_ns=0, step_ns=1, print_delay_ms=0, close_s=0)
    for newest in range(24, 40):
        for place in range(3):
            of_market = [n for n in range(newest + 1) if exchange.kind(n) == "ticker" and exchange.place(n) == place]
            assert exchange.latest(place, newest) == of_market[-1]


async def test_daemon_is_told(kalshi: KalshiOracle, tmp_path: Path) -> None:
    """A daemon that is given a Kalshi has its address and its key in the configuration, one without has it off."""
    daemon = Daemon(tmp_path, "postgresql://", None, kalshi=kalshi)
    text = daemon.write_config().read_text()
    assert f'url = "{kalshi.url}"' in text
    assert f'key_file = "{kalshi.key_file}"' in text
    assert daemon.settings["feeds.coinbase"] == {"enabled": False}
    assert Daemon(tmp_path, "", None).settings["feeds.kalshi"] == {"enabled": False}
