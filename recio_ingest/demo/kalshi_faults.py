"""What can be made to go wrong at the simulated Kalshi, while it runs.

Pages "WebSocket Commands" (errors of subscriptions and commands, sequences) and "API Keys" (docs.kalshi.com); a
stalled venue, a wrong clock and REST that does not answer are what people report, without a page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import orjson
from websockets.frames import CloseCode

from recio_ingest.demo import kalshi_messages as messages
from recio_ingest.demo.client import Client
from recio_ingest.demo.kalshi_auth import PublicKey
from recio_ingest.demo.kalshi_market import Exchange
from recio_ingest.demo.kalshi_rest import RestApi
from recio_ingest.demo.kalshi_rules import CHANNELS, ERRORS, TERMINAL, Order, Rules
from recio_ingest.demo.kalshi_session import Session, Subscription

LOOK_S = 0.01
EXPIRED = "the key has expired"  # why its connections are closed; invented
# No JSON, then JSON of a wrong shape, then types that nobody knows. None has a `seq` that could pass for a real one.
GARBAGE = (
    b"",
    b"<html>502 Bad Gateway</html>",
    b'{"type":"ticker","sid":1,"msg":{"market_ticker":"KXBTC',
    b'{"type":"ticker","sid":1,"msg":{"market_ticker":"A","price_dollars":NaN}}',
    b"[" * 2000,
    b"null",
    b"42",
    b'"ticker"',
    b"[]",
    b"{}",
    b'{"type":7,"sid":1,"msg":{}}',
    b'{"type":"ticker"}',
    b'{"type":"ticker","sid":1,"msg":[]}',
    b'{"type":"ticker","sid":1,"msg":{"market_ticker":7,"yes_bid_dollars":{},"ts_ms":"now"}}',
    b'{"type":"trade","sid":"two","seq":"next","msg":{"trade_id":null,"count_fp":"many"}}',
    b'{"type":"market_lifecycle_v2","sid":3,"msg":{"market_ticker":[],"event_type":{}}}',
    b'{"type":"cfbenchmarks_value","sid":4,"msg":{"index_id":"BRTI","data":{"value":1}}}',
    b'{"type":"candlestick","sid":1,"msg":{"market_ticker":"A"}}',
    b'{"type":"","sid":1,"msg":{}}',
)


class Faults:
    """The faults of a venue, each a method or an attribute of the venue itself.

    `clock_offset_s` is how far the venue's clock is ahead of this machine's: it judges the stamps of signatures,
    and every Date header tells it. The market's own time is not moved.
    """

    def __init__(self, public_keys: Mapping[str, PublicKey], exchange: Exchange) -> None:
        self.clock_offset_s = 0.0
        self._public_keys, self._exchange = public_keys, exchange
        self._expired: set[str] = set()
        self._rules = Rules()
        self._rest = RestApi(exchange)
        self._sessions: dict[Client, Session] = {}

    @property
    def most_markets(self) -> int | None:
        """How many markets a subscription may name; a command that would pass it is answered with error 26."""
        return self._rules.most_markets

    @most_markets.setter
    def most_markets(self, most: int | None) -> None:
        self._rules.most_markets = most

    async def expire(self, key_id: str) -> None:
        """Let a key expire: handshakes with it are answered 401; close its connections, and return when they are gone.

        Page "API Keys": a key may carry an expiry. The words of the answer are invented, its shape is not.
        """
        if key_id not in self._public_keys:
            raise ValueError(f"the venue has no key {key_id}")
        self._expired.add(key_id)
        theirs = [client for client, session in self._sessions.items() if session.key_id == key_id]
        await self._close(theirs, CloseCode.POLICY_VIOLATION, EXPIRED)

    def restore(self, key_id: str) -> None:
        """Let an expired key be good again."""
        self._expired.discard(key_id)

    async def fail(self, code: int, *, sid: int | None = None) -> None:
        """Send an error to every connection: for the subscription `sid`, or for all that it holds."""
        for session, held in self._held():
            if sid in (None, held.sid):
                session.fail(code, held)

    def answer_with(self, code: int, channel: str | None = None, times: int = 1) -> None:
        """Answer the next commands (those about `channel`, if given) with an error, and do not obey them.

        Several orders are served one after the other. Page "WebSocket Commands", its table of errors; those
        that end a subscription are no answers: see `fail`.
        """
        if code not in ERRORS or code in TERMINAL:
            raise ValueError(f"no command is answered with error {code}")
        if channel not in (None, *CHANNELS) or times < 1:
            raise ValueError("an order needs a channel of the venue, or none, and a time to be served")
        self._rules.orders.append(Order(code, channel, times))

    async def disconnect(self) -> None:
        """Close every connection, and return when they are gone."""
        await self._close(tuple(self._sessions), CloseCode.GOING_AWAY, "disconnected")

    def revoke(self, channel: str) -> None:
        """Take a channel away: subscriptions end with error 10, and new ones are refused with error 9."""
        self._rules.revoked.add(channel)
        for session, held in self._held():
            if held.channel == channel:
                session.fail(10, held)

    def grant(self, channel: str) -> None:
        """Give a revoked channel back."""
        self._rules.revoked.discard(channel)

    def skip_seq(self, n: int = 1, *, sid: int | None = None) -> None:
        """Lose `n` numbers of the sequence of the subscription `sid` of every connection, or of all that they hold."""
        for _, held in self._held():
            if sid in (None, held.sid):
                held.seq += n

    def hang(self) -> None:
        """Send no data any more, while connections stay open, pings are answered and commands obeyed.

        What happens meanwhile is lost, and takes no number of a sequence (for that, see `skip_seq`).
        """
        self._rules.silent = True

    def unhang(self) -> None:
        """Send data again, from now on."""
        self._rules.silent = False

    async def garbage(self, n: int) -> None:
        """Send `n` messages of GARBAGE in turn to every connection, as fast as it takes them."""
        async with asyncio.TaskGroup() as group:
            for client in self._sessions:
                group.create_task(_pour(client, (GARBAGE[i % len(GARBAGE)] for i in range(n))))

    async def flood(self, n: int) -> None:
        """Send `n` tickers of markets that it holds to every connection that holds any, as fast as it takes them.

        Returns when the last is on its way; no client is dropped for it, a client that does not read is waited for.
        """
        async with asyncio.TaskGroup() as group:
            for client, session in self._sessions.items():
                for held in session.held.values():
                    if held.channel == "ticker":
                        group.create_task(_pour(client, self._tickers(session, held, n)))

    def rest_busy(self, times: int) -> None:
        """Answer the next requests with 429, as if the bucket was empty. Page "Rate Limits": no Retry-After."""
        self._rest.busy = times

    def rest_down(self) -> None:
        """Answer every request with 503 until `rest_up`."""
        self._rest.down = True

    def rest_hang(self) -> None:
        """Take requests and do not answer them before `rest_up`."""
        self._rest.answering.clear()

    def rest_up(self) -> None:
        """End every fault of REST; requests that wait are answered."""
        self._rest.busy, self._rest.down = 0, False
        self._rest.answering.set()

    def _held(self) -> Iterator[tuple[Session, Subscription]]:
        return ((session, held) for session in self._sessions.values() for held in tuple(session.held.values()))

    def _tickers(self, session: Session, held: Subscription, n: int) -> Iterator[bytes]:
        """Write tickers of a subscription, until it has had `n` or is gone."""
        strikes = [strike for strike in self._exchange.strikes() if held.wants("ticker", strike.ticker)]
        for i in range(n if strikes else 0):
            if held.sid not in session.held:
                return
            body = messages.ticker(strikes[i % len(strikes)], self._exchange.now_s)
            yield orjson.dumps({"type": "ticker", **held.head(), "msg": body})

    async def _close(self, clients: Iterable[Client], code: CloseCode, cause: str) -> None:
        for client in clients:
            client.drop(code, cause)
        while not self._sessions.keys().isdisjoint(clients):
            await asyncio.sleep(LOOK_S)


async def _pour(client: Client, told: Iterable[bytes]) -> None:
    for message in told:
        if not await client.send(message):
            return
