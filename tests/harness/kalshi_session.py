"""One websocket connection of the fake Kalshi: its subscriptions, and the ledger of what was written to it.

Each subscription has a `sid` of this connection, and numbers with `seq`, from 1, everything that it sends: data,
`ok` and `error` alike. Only the tickers' has no numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.kalshi_messages import CHANNELS, CHANNELS_OF, INDEX
from harness.venue_host import MOST_AT_ONCE, HostedSession, dump, note, text_frame

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from harness.kalshi_server import KalshiVenue


class RefusedError(Exception):
    """A command cannot be obeyed; the arguments are the code and the words of the answer."""


@dataclass
class Subscription:
    """One channel of a connection; `markets` is None for all of them."""

    sid: int
    channel: str
    markets: dict[str, None] | None
    since: int  # the last number, or second, made before it began
    seq: int = 0
    to_skip: int = 0

    def head(self) -> dict[str, int]:
        """Return what exactly one message carries."""
        if self.channel == "ticker":
            return {"sid": self.sid}
        self.seq += 1
        return {"sid": self.sid, "seq": self.seq}

    def frame(self, kind: str, body: object, **echo: int) -> bytes:
        """Make a frame of this subscription."""
        return text_frame(dump({**echo, "type": kind, **self.head(), "msg": body}))

    def wants(self, market: str) -> bool:
        """Tell whether a market was asked for."""
        return self.markets is None or market in self.markets


@dataclass
class Sent:
    """The ledger: live messages as ranges within which every one of the kind was sent, and what came besides."""

    ticker: list[list[int]] = field(default_factory=list)
    trade: list[list[int]] = field(default_factory=list)
    print: list[list[int]] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)
    skipped: list[list[int]] = field(default_factory=list)  # number, sid, seq


class Session(HostedSession):
    """One connection."""

    def __init__(self, venue: KalshiVenue, socket: ServerConnection) -> None:
        super().__init__(socket)
        self.venue, self.exchange = venue, venue.exchange
        self.held: dict[str, Subscription] = {}  # by channel
        self.last_sid = 0
        self.sent = Sent()
        self.cursor = self.exchange.newest(venue.now_ns())
        self.second = self.exchange.newest_second(venue.now_ns())

    def advance(self) -> list[bytes]:
        """Make the frames of everything since the last look, in the order in which it was made."""
        frames: list[bytes] = []
        now_ns = self.venue.now_ns()
        newest = self.exchange.newest(now_ns)
        upto = min(newest, self.cursor + MOST_AT_ONCE)
        for number in range(self.cursor + 1, upto + 1):
            frames += self.prints(self.exchange.time_ns(number))
            frames += self.live(self.exchange.kind(number), number)
        self.cursor = max(self.cursor, upto)
        return frames if upto < newest else frames + self.prints(now_ns)

    def prints(self, now_ns: int) -> list[bytes]:
        """Make the frames of the index that are told by then."""
        frames: list[bytes] = []
        while self.second < self.exchange.newest_second(now_ns):
            self.second += 1
            frames += self.live("print", self.second)
        return frames

    def live(self, kind: str, number: int) -> list[bytes]:
        """Make the frame of a message that happens now, if it was asked for and is not to be lost."""
        held = self.held.get(CHANNELS_OF[kind])
        if held is None or number <= held.since or (kind != "print" and not held.wants(self.exchange.market(number))):
            return []
        if held.to_skip:
            held.to_skip -= 1
            self.sent.skipped.append([number, held.sid, held.head()["seq"]])
            return []
        note(getattr(self.sent, kind), number, self.exchange.before(kind, number))
        return [self.data(held, kind, number)]

    def data(self, held: Subscription, kind: str, number: int) -> bytes:
        """Make the frame of a message."""
        return held.frame(held.channel, self.exchange.body(kind, number))

    def again(self, count: int) -> list[bytes]:
        """Make the last trades and the last print of this connection once more."""
        frames = []
        for kind, most in (("trade", count), ("print", 1)):
            held = self.held.get(CHANNELS_OF[kind])
            numbers: list[int] = []
            number = self.second if kind == "print" else self.cursor
            while held and len(numbers) < most and number > held.since:
                if kind == "print" or self.exchange.kind(number) == kind:
                    numbers.append(number)
                number -= 1
            for each in reversed(numbers):
                assert held is not None
                note(getattr(self.sent, kind), each, self.exchange.before(kind, each))
                frames.append(self.data(held, kind, each))
        return frames

    def obey(self, order: dict[str, Any]) -> list[bytes]:
        """Carry out a command and answer it."""
        echo = {"id": order["id"]} if order.get("id") else {}
        try:
            return self.command(order.get("cmd"), echo, order.get("params") or {})
        except RefusedError as refused:
            code, words = refused.args
            return [text_frame(dump({**echo, "type": "error", "msg": {"code": code, "msg": words}}))]

    def command(self, name: object, echo: dict[str, int], params: dict[str, Any]) -> list[bytes]:
        """Carry out a command, or refuse it."""
        match name:
            case "subscribe":
                return self.subscribe(echo, params)
            case "update_subscription":
                return self.update(echo, params)
            case "unsubscribe":
                return self.unsubscribe(echo, params)
        raise RefusedError(5, "Unknown command")

    def subscribe(self, echo: dict[str, int], params: dict[str, Any]) -> list[bytes]:
        """Begin channels, or add to those that are held."""
        channels, markets = params.get("channels") or [], params.get("market_tickers")
        if not channels:
            raise RefusedError(3, "Channels required")
        if not CHANNELS.issuperset(channels):
            raise RefusedError(8, "Unknown channel name")
        if "cfbenchmarks_value" in channels and params.get("index_ids") != [INDEX]:
            raise RefusedError(24, "Index IDs required")
        frames: list[bytes] = []
        for channel in channels:
            by_market = channel in {"ticker", "trade"}
            wanted = dict.fromkeys(markets) if by_market and markets is not None else None
            if channel in self.held:
                frames += self.add(self.held[channel], wanted, echo)
            else:
                count = self.exchange.newest_second if channel == "cfbenchmarks_value" else self.exchange.newest
                self.last_sid += 1
                self.held[channel] = Subscription(self.last_sid, channel, wanted, count(self.venue.now_ns()))
                told = {"type": "subscribed", "msg": {"channel": channel, "sid": self.last_sid}}
                frames.append(text_frame(dump({**echo, **told})))
            if channel == "ticker" and params.get("send_initial_snapshot") is True:
                frames += self.snapshot(self.held[channel], wanted)
        return frames

    def add(self, held: Subscription, wanted: dict[str, None] | None, echo: dict[str, int]) -> list[bytes]:
        """Add markets to a subscription and tell all that it holds."""
        held.markets = None if held.markets is None or wanted is None else {**held.markets, **wanted}
        return [held.frame("ok", self.listing(held), **echo)]

    def listing(self, held: Subscription) -> dict[str, list[str]]:
        """All that a subscription holds."""
        if held.channel == "cfbenchmarks_value":
            return {"index_ids": [INDEX]}
        return {"market_tickers": self.exchange.tickers if held.markets is None else list(held.markets)}

    def snapshot(self, held: Subscription, wanted: dict[str, None] | None) -> list[bytes]:
        """Repeat the latest ticker of each market."""
        frames, newest = [], self.exchange.newest(self.venue.now_ns())
        for place, market in enumerate(self.exchange.tickers):
            if wanted is None or market in wanted:
                number = self.exchange.latest(place, newest)
                if number >= self.exchange.first:
                    self.sent.snapshots.append(number)
                    frames.append(self.data(held, "ticker", number))
        return frames

    def update(self, echo: dict[str, int], params: dict[str, Any]) -> list[bytes]:
        """Add markets to a subscription, or take some away."""
        held, *more = self.named(params)
        if more:
            raise RefusedError(12, "Exactly one subscription ID is required")
        wanted = dict.fromkeys(params.get("market_tickers") or [])
        if not wanted:
            raise RefusedError(14, "Market ticker required")
        if held.channel not in {"ticker", "trade"}:
            raise RefusedError(13, "Unsupported action")
        match params.get("action"):
            case "add_markets":
                return self.add(held, wanted, echo)
            case "delete_markets":
                kept = self.listing(held)["market_tickers"]
                held.markets = {market: None for market in kept if market not in wanted}
                return [held.frame("ok", self.listing(held), **echo)]
        raise RefusedError(13, "Unsupported action")

    def unsubscribe(self, echo: dict[str, int], params: dict[str, Any]) -> list[bytes]:
        """End subscriptions."""
        frames = []
        for held in self.named(params):
            del self.held[held.channel]
            frames.append(text_frame(dump({**echo, "type": "unsubscribed", **held.head()})))
        return frames

    def named(self, params: dict[str, Any]) -> list[Subscription]:
        """Return the subscriptions that a command is about."""
        sids = params.get("sids") or ([params["sid"]] if "sid" in params else [])
        if not sids:
            raise RefusedError(4, "Subscription IDs required")
        found = [held for held in self.held.values() if held.sid in sids]
        if len(found) != len(set(sids)):
            raise RefusedError(7, "Unknown subscription ID")
        return found
