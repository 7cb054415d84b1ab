"""What is said to Kalshi over one connection: a subscription for each channel, and what follows from every answer.

Source: the venue's AsyncAPI document, "WebSocket Commands". A channel is subscribed to by a command of its own, so that
a fault voids one and not all; a second `subscribe` to a channel would add to the first. A channel has one command under
way at a time. A `sid` belongs to its connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from recio_ingest.errors import BadMessageError, RefusedError
from recio_ingest.feeds import Notice
from recio_ingest.feeds.kalshi_errors import STUCK, Remedy, remedy
from recio_ingest.feeds.kalshi_markets import Markets

INDEX = "BRTI"
TICKER, LIFECYCLE = "ticker", "market_lifecycle_v2"
# The venue does not publish how many markets one command may name (code 26); others use 400, and halve on a refusal.
COMMAND_MARKETS = 400
ANSWER_WITHIN_S = 10.0
MAX_UNANSWERED = 3
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 60.0
# A right that a key lacks is given by a person: asking every five minutes finds out soon enough.
STUCK_DELAY_S = 300.0

_TYPE = re.compile(rb'"type"\s*:\s*"(\w+)"').search
_HEARD = frozenset({b"subscribed", b"unsubscribed", b"ok", b"error"})
_LIFECYCLE = LIFECYCLE.encode()


class _Command(NamedTuple):
    """One that waits for its answer."""

    channel: _Channel
    action: str
    markets: tuple[str, ...]
    sent_s: float


@dataclass(slots=True, eq=False)
class _Channel:
    """One subscription, or the wish for it."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    by_market: bool = False
    optional: bool = False
    sid: int | None = None
    held: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    most: int = COMMAND_MARKETS
    full: bool = False
    """Whether not one more market fits in, until others are taken out."""
    told_full: bool = False
    waiting: int = 0
    """The id of the command under way."""
    error: str = ""
    stuck: bool = False
    failures: int = 0
    failed_s: float = 0.0
    unanswered: int = 0
    retry_s: float = 0.0


class KalshiSession:
    """Keeps four subscriptions: each market's quotes and trades, the life of all, and the index."""

    def __init__(self, markets: Markets) -> None:
        self._markets = markets
        self._series = [name.encode() for name in markets.series]
        self._channels = (
            _Channel(LIFECYCLE),
            _Channel("cfbenchmarks_value", {"index_ids": [INDEX]}, optional=True),
            _Channel(TICKER, {"send_initial_snapshot": True}, by_market=True),
            _Channel("trade", by_market=True),
        )
        self._waiting: dict[int, _Command] = {}
        self._last_id = 0

    @property
    def ready(self) -> bool:
        """Whether every channel is subscribed to that must be."""
        return not any(self._lacks(channel) for channel in self._channels if not channel.optional)

    @property
    def trouble(self) -> str:
        """Which channels are missing, and why."""
        lacking = [channel for channel in self._channels if self._lacks(channel)]
        return ", ".join(f"{channel.name}: {channel.error or 'not confirmed yet'}" for channel in lacking)

    def say(self, now_s: float) -> Sequence[bytes]:
        """Return the commands that are due. Raises RefusedError where the venue has stopped answering."""
        for command in [each for each in self._waiting.values() if now_s - each.sent_s > ANSWER_WITHIN_S]:
            self._unanswered(command.channel, now_s)
        due = [channel for channel in self._channels if not channel.waiting and now_s >= channel.retry_s]
        return [message for channel in due if (message := self._command(channel, now_s)) is not None]

    def listens(self, data: bytes) -> bool:
        """Tell whether this is an answer, or about the life of a market that is followed."""
        kind = _TYPE(data)
        if kind is None:
            return False
        return kind[1] in _HEARD or (kind[1] == _LIFECYCLE and any(name in data for name in self._series))

    def hear(self, data: bytes, now_s: float) -> Sequence[Notice]:
        """Take an answer in, or a step of a market's life; what has another shape is for the parser to tell."""
        try:
            message = orjson.loads(data)
            kind, about = message["type"], message.get("msg")
            if kind == LIFECYCLE:
                if str(about["market_ticker"]).partition("-")[0] in self._markets.series:
                    self._markets.hear(about, now_s)
                return ()
            command = self._waiting.get(message.get("id"))
        except (BadMessageError, ValueError, KeyError, TypeError, AttributeError):
            return ()
        about = about if isinstance(about, dict) else {}
        if kind == "error":
            return self._error(message, about, command, now_s)
        if kind == "unsubscribed":
            channel = self._holding(message.get("sid"))
            return self._failed(channel, Remedy.AGAIN, (None, "unsubscribed"), now_s) if channel else ()
        return self._confirmed(message, about, command, now_s) if command else ()

    def end(self) -> None:
        """Take in that the connection is gone: quotes come by REST until there is another."""
        self._markets.quoted = False

    def _lacks(self, channel: _Channel) -> bool:
        if channel.sid is not None:
            return channel.stuck
        return not channel.by_market or channel.stuck or not self._markets.asked or bool(self._markets.wanted)

    def _command(self, channel: _Channel, now_s: float) -> bytes | None:
        wanted = self._markets.wanted - channel.left_out if channel.by_market else frozenset()
        if channel.sid is None:
            if channel.by_market and not wanted:
                return None  # without a market it would be a subscription to all markets of the venue
            return self._write(channel, "subscribe", wanted, now_s)
        if wanted and (over := channel.held - wanted):  # first, so that there is room for others
            return self._write(channel, "delete_markets", over, now_s)
        if not channel.full and (missing := wanted - channel.held):
            return self._write(channel, "add_markets", missing, now_s)
        return None

    def _write(self, channel: _Channel, action: str, markets: frozenset[str], now_s: float) -> bytes:
        some = self._markets.in_order(markets)[: channel.most]
        self._last_id = channel.waiting = self._last_id + 1
        self._waiting[self._last_id] = _Command(channel, action, some, now_s)
        params: dict[str, Any] = {"market_tickers": some} if some else {}
        if action == "subscribe":
            params |= {"channels": [channel.name], **channel.params}
        else:
            params |= {"sids": [channel.sid], "action": action}
        name = "subscribe" if action == "subscribe" else "update_subscription"
        return orjson.dumps({"id": self._last_id, "cmd": name, "params": params})

    def _confirmed(
        self, message: Mapping[str, Any], about: Mapping[str, Any], command: _Command, now_s: float
    ) -> Sequence[Notice]:
        channel, asked = command.channel, frozenset(command.markets)
        sid = message.get("sid", about.get("sid"))
        if type(sid) is not int:
            self._unanswered(channel, now_s)
            return ()
        self._answered(channel)
        channel.sid, channel.unanswered = sid, 0
        # `ok` lists all that is held now: what was to be added and is not in the list, the venue does not know.
        listed = about.get("market_tickers")
        if command.action == "delete_markets":
            channel.held -= asked
            channel.full, channel.most = False, COMMAND_MARKETS
        elif isinstance(listed, list) and all(isinstance(name, str) for name in listed):
            channel.held = frozenset(listed)
            channel.left_out |= asked - channel.held
        else:
            channel.held |= asked
        if channel.name == TICKER:
            self._markets.quoted = True
        again, channel.error, channel.stuck = channel.error, "", False
        return (Notice("info", "channel.confirmed", {"channel": channel.name}),) if again else ()

    def _error(
        self, message: Mapping[str, Any], about: Mapping[str, Any], command: _Command | None, now_s: float
    ) -> Sequence[Notice]:
        why = (about.get("code"), str(about.get("msg", ""))[:200])
        todo = remedy(why[0])
        channel = command.channel if command else self._holding(message.get("sid"))
        if channel is None or (command is None and todo is not Remedy.AGAIN):
            facts = {"channel": channel.name if channel else None, "code": why[0], "error": why[1]}
            return (Notice("warning", "channel.error", facts),)
        if command is None or todo not in {Remedy.FEWER, Remedy.FULL} or not command.markets:
            return self._failed(channel, todo, why, now_s)
        if len(command.markets) > 1:
            self._answered(channel)
            channel.most = len(command.markets) // 2
            return ()
        if todo is Remedy.FULL and not channel.held:
            return self._failed(channel, todo, why, now_s)
        self._answered(channel)
        if todo is Remedy.FULL:
            return self._filled(channel, why)
        channel.left_out |= frozenset(command.markets)
        facts = {"channel": channel.name, "market": command.markets[0], "code": why[0], "error": why[1]}
        return (Notice("error", "market.refused", facts | {"hint": todo.value}),)

    def _filled(self, channel: _Channel, why: tuple[Any, str]) -> Sequence[Notice]:
        told, channel.full, channel.told_full = channel.told_full, True, True
        facts = {"channel": channel.name, "markets": len(channel.held), "code": why[0], "error": why[1]}
        return () if told else (Notice("error", "channel.full", facts | {"hint": Remedy.FULL.value}),)

    def _failed(self, channel: _Channel, todo: Remedy, why: tuple[Any, str], now_s: float) -> Sequence[Notice]:
        self._answered(channel)
        if todo is Remedy.AGAIN:
            channel.sid, channel.held = None, frozenset()
            channel.full, channel.most = False, COMMAND_MARKETS
            if channel.name == TICKER:
                self._markets.quoted = False
        # Not set back by a confirmation: a venue that confirms and then takes it away again is not to be hammered.
        channel.failures = 0 if now_s - channel.failed_s > MAX_DELAY_S else channel.failures + 1
        channel.failed_s = now_s
        channel.stuck = todo in STUCK
        channel.retry_s = now_s + (STUCK_DELAY_S if channel.stuck else _delay_s(channel.failures))
        known, channel.error = channel.error, f"{why[1]} (code {why[0]})"
        if channel.error == known:
            return ()
        level = "error" if channel.stuck and not channel.optional else "warning"
        facts = {"channel": channel.name, "code": why[0], "error": why[1], "hint": todo.value}
        return (Notice(level, "channel.refused", facts),)

    def _unanswered(self, channel: _Channel, now_s: float) -> None:
        self._answered(channel)
        channel.unanswered += 1
        if channel.unanswered >= MAX_UNANSWERED:
            raise RefusedError(f"{channel.unanswered} commands about {channel.name} were not answered")
        channel.retry_s = now_s + _delay_s(channel.unanswered)

    def _answered(self, channel: _Channel) -> None:
        self._waiting.pop(channel.waiting, None)
        channel.waiting = 0

    def _holding(self, sid: Any) -> _Channel | None:  # noqa: ANN401  # any JSON value
        return next((channel for channel in self._channels if sid is not None and channel.sid == sid), None)


def _delay_s(failures: int) -> float:
    return float(min(FIRST_DELAY_S * 2**failures, MAX_DELAY_S))
