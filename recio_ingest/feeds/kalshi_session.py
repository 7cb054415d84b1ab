"""What is said to Kalshi over one connection: a subscription for each channel, and what follows from every answer.

Source: the venue's AsyncAPI document, "WebSocket Commands". A channel is subscribed to by a command of its own, so that
a fault voids one and not all; a second `subscribe` to a channel would add to the first. A channel has one command under
way at a time. A `sid` belongs to its connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError, RefusedError
from recio_ingest.feeds import Notice
from recio_ingest.feeds.kalshi_channels import COMMAND_MARKETS, DELETE, FIRST_DELAY_S, SUBSCRIBE, Channel, Command
from recio_ingest.feeds.kalshi_errors import STUCK, Remedy, remedy
from recio_ingest.feeds.kalshi_markets import Markets
from recio_ingest.feeds.kalshi_stall import Stalls

INDEX = "BRTI"
TICKER, LIFECYCLE = "ticker", "market_lifecycle_v2"
ANSWER_WITHIN_S = 10.0
MAX_UNANSWERED = 3
# There are some thirty codes and four channels; a venue that invents more is not listened to.
MAX_TOLD = 100

_TYPE = re.compile(rb'"type"\s*:\s*"(\w+)"').search
_HEARD = frozenset({b"subscribed", b"unsubscribed", b"ok", b"error"})
_LIFECYCLE = LIFECYCLE.encode()

_Why = tuple[int | None, str]
"""The code and the words of an error."""


class KalshiSession:
    """Keeps four subscriptions: each market's quotes and trades, the life of all, and the index."""

    def __init__(self, markets: Markets) -> None:
        self._markets = markets
        self._series = [name.encode() for name in markets.series]
        self._channels = (
            Channel(LIFECYCLE),
            Channel("cfbenchmarks_value", {"index_ids": [INDEX]}, optional=True),
            Channel(TICKER, {"send_initial_snapshot": True}, by_market=True),
            Channel("trade", by_market=True),
        )
        self._waiting: dict[int, Command] = {}
        self._last_id = 0
        self._stalls = Stalls()
        self._told: set[tuple[str, str, int | None]] = set()
        self._untold: list[Notice] = []
        self._unwanted: list[bytes] = []

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
        for channel, silent_s in self._stalls.silent(self._channels, now_s, trading=self._markets.trading):
            self._stalled(channel, silent_s, now_s)
        for channel in self._channels:
            if channel.announced and not self._lacks(channel):  # it was confirmed, and now brings something
                self._untold.extend(self._well(channel))
        wanted = self._markets.wanted
        due = [(channel, todo) for channel in self._channels if (todo := channel.due(wanted, now_s)) is not None]
        unwanted, self._unwanted = self._unwanted, []
        return [*unwanted, *(self._write(channel, *todo, now_s) for channel, todo in due)]

    def listens(self, data: bytes) -> bool:
        """Tell whether this is an answer, or about the life of a market that is followed, or people are to be told."""
        kind = _TYPE(data)
        if kind is None:
            return False
        self._stalls.kinds.add(kind[1])
        if kind[1] in _HEARD or self._untold:
            return True
        return kind[1] == _LIFECYCLE and any(name in data for name in self._series)

    def hear(self, data: bytes, now_s: float) -> Sequence[Notice]:
        """Take an answer in, or a step of a market's life; what has another shape is for the parser to tell."""
        untold, self._untold = self._untold, []
        return [*untold, *self._take(data, now_s)]

    def resumed(self, paused_s: float) -> None:
        """Take in that for so long nothing was read, answers to commands among it."""
        self._stalls.resumed(paused_s)
        waiting = self._waiting.items()
        self._waiting = {name: each._replace(sent_s=each.sent_s + paused_s) for name, each in waiting}

    def end(self) -> None:
        """Take in that the connection is gone: quotes come by REST until there is another."""
        self._markets.quoted = False

    def _take(self, data: bytes, now_s: float) -> Sequence[Notice]:
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

    def _lacks(self, channel: Channel) -> bool:
        if channel.sid is not None:
            return channel.stuck or (channel.optional and self._stalls.doubts(channel))
        return not channel.by_market or channel.stuck or not self._markets.asked or bool(self._markets.wanted)

    def _write(self, channel: Channel, action: str, markets: frozenset[str], now_s: float) -> bytes:
        some = self._markets.in_order(markets)[: COMMAND_MARKETS if action == DELETE else channel.most]
        self._last_id = channel.waiting = self._last_id + 1
        self._waiting[self._last_id] = Command(channel, action, some, now_s)
        params: dict[str, Any] = {"market_tickers": some} if some else {}
        if action == SUBSCRIBE:
            params |= {"channels": [channel.name], **channel.params}
        else:
            params |= {"sids": [channel.sid], "action": action}
        name = SUBSCRIBE if action == SUBSCRIBE else "update_subscription"
        return orjson.dumps({"id": self._last_id, "cmd": name, "params": params})

    def _confirmed(
        self, message: Mapping[str, Any], about: Mapping[str, Any], command: Command, now_s: float
    ) -> Sequence[Notice]:
        channel = command.channel
        sid = message.get("sid", about.get("sid", channel.sid))
        if type(sid) is not int:
            self._unanswered(channel, now_s)
            return ()
        self._answered(channel)
        listed: Any = about.get("market_tickers")
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            listed = None
        channel.confirm(command, sid, None if listed is None else frozenset(listed), now_s)
        if channel.name == TICKER:
            self._markets.quoted = bool(channel.held)
        elif channel.name == LIFECYCLE:
            self._markets.listen(now_s)
        channel.stuck = False
        return () if self._lacks(channel) else self._well(channel)

    def _well(self, channel: Channel) -> Sequence[Notice]:
        """Take in that nothing is wrong with a channel any more; return the notice, where people know of a fault."""
        announce, channel.announced, channel.error = channel.announced, False, ""
        return (Notice("info", "channel.confirmed", {"channel": channel.name}),) if announce else ()

    def _error(
        self, message: Mapping[str, Any], about: Mapping[str, Any], command: Command | None, now_s: float
    ) -> Sequence[Notice]:
        code = about.get("code")
        why = (code if type(code) is int else None, str(about.get("msg", ""))[:200])
        todo = remedy(why[0])
        channel = command.channel if command else self._holding(message.get("sid"))
        if channel is None or (command is None and todo is not Remedy.AGAIN):
            return self._once("warning", "channel.error", channel, why)
        if command is None or todo not in {Remedy.FEWER, Remedy.FULL} or not command.markets:
            return self._failed(channel, todo, why, now_s)
        self._answered(channel)
        channel.unanswered = 0
        return self._fewer(command, todo, why, now_s)

    def _fewer(self, command: Command, todo: Remedy, why: _Why, now_s: float) -> Sequence[Notice]:
        """Halve a command that the venue does not take as it is; leave out what it does not take alone."""
        channel, markets = command.channel, frozenset(command.markets)
        if command.action == DELETE:  # what the venue does not know, it does not hold
            channel.held -= markets
            return self._once("warning", "channel.error", channel, why)
        if len(markets) > 1:
            channel.most = len(markets) // 2
            return ()
        channel.leave_out(markets if todo is Remedy.FEWER else self._markets.wanted - channel.held, now_s)
        channel.retry_s = now_s + FIRST_DELAY_S  # there may be many such
        if channel.sid is None:
            channel.error = f"{why[1]} (code {why[0]})"
        facts = {"market": command.markets[0], "left_out": len(channel.left_out), "hint": todo.value}
        return self._once("error", "market.refused", channel, why, facts)

    def _failed(self, channel: Channel, todo: Remedy, why: _Why, now_s: float) -> Sequence[Notice]:
        self._answered(channel)
        if todo is Remedy.AGAIN:
            channel.lose()
            if channel.name == TICKER:
                self._markets.quoted = False
        channel.unanswered, channel.stuck = 0, todo in STUCK
        channel.delay(now_s, stuck=channel.stuck)
        channel.error = f"{why[1]} (code {why[0]})"
        if channel.error == channel.told and channel.failures:
            return ()  # the same trouble still, also where it was confirmed in between
        channel.told, channel.announced = channel.error, True
        level = "error" if channel.stuck and not channel.optional else "warning"
        facts = {"channel": channel.name, "code": why[0], "error": why[1], "hint": todo.value}
        return (Notice(level, "channel.refused", facts),)

    def _unanswered(self, channel: Channel, now_s: float) -> None:
        self._answered(channel)
        channel.unanswered += 1
        channel.delay(now_s)
        if channel.unanswered < MAX_UNANSWERED:
            return
        words = f"{channel.unanswered} commands about {channel.name} were not answered"
        if not channel.optional:
            raise RefusedError(words)
        self._untold.extend(self._failed(channel, Remedy.OURS, (None, words), now_s))

    def _stalled(self, channel: Channel, silent_s: float, now_s: float) -> None:
        """Subscribe anew to what has fallen silent; the answer to the farewell shows where its gap begins."""
        self._last_id += 1
        farewell = {"id": self._last_id, "cmd": "unsubscribe", "params": {"sids": [channel.sid]}}
        self._unwanted.append(orjson.dumps(farewell))
        known = channel.optional and channel.announced
        notices = self._failed(channel, Remedy.AGAIN, (None, f"silent for {silent_s:.0f} s"), now_s)
        self._untold.extend(() if known else notices)

    def _answered(self, channel: Channel) -> None:
        self._waiting.pop(channel.waiting, None)
        channel.waiting = 0

    def _holding(self, sid: Any) -> Channel | None:  # noqa: ANN401  # any JSON value
        return next((channel for channel in self._channels if sid is not None and channel.sid == sid), None)

    def _once(
        self, level: str, event: str, channel: Channel | None, why: _Why, facts: Mapping[str, Any] | None = None
    ) -> Sequence[Notice]:
        """Return a notice, the first time in this connection: the venue may say the same a thousand times."""
        name = channel.name if channel else ""
        if (event, name, why[0]) in self._told or len(self._told) >= MAX_TOLD:
            return ()
        self._told.add((event, name, why[0]))
        return (Notice(level, event, {"channel": name or None, "code": why[0], "error": why[1], **(facts or {})}),)
