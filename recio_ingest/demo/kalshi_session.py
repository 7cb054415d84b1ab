"""What one connection to the simulated Kalshi holds, and the commands that change it.

Page "WebSocket Commands" and the AsyncAPI description (docs.kalshi.com): subscription ids belong to the
connection; data, replies and errors of one share a sequence that starts at 1. `ticker` has none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

from recio_ingest.demo.kalshi_rules import BY_MARKET, CHANNELS, ERRORS, TERMINAL, CommandError, Rules


class Subscription:
    """One channel of a connection; `keys` are its markets or indices, None is all of them."""

    def __init__(self, sid: int, channel: str, keys: list[str] | None) -> None:
        self.sid, self.channel, self.keys = sid, channel, keys
        self.seq = self.told = 0

    def wants(self, channel: str, key: str) -> bool:
        """Tell whether a message belongs here."""
        return channel == self.channel and (self.keys is None or not key or key in self.keys)

    def head(self) -> dict[str, Any]:
        """Return `sid`, and `seq` where the channel counts: for exactly one message."""
        if self.channel == "ticker":
            return {"sid": self.sid}
        self.seq += 1
        return {"sid": self.sid, "seq": self.seq}

    def listing(self) -> dict[str, Any]:
        """Return the body of an `ok`: all that is held now."""
        return {"index_ids" if self.channel == "cfbenchmarks_value" else "market_tickers": list(self.keys or ())}


class Session:
    """The subscriptions of a connection made with the key `key_id`.

    `push` sends; `snapshot` tells the ticker of a market, if there is one; `rules` are those of all connections.
    """

    def __init__(
        self, push: Callable[[bytes], None], snapshot: Callable[[str], object | None], rules: Rules, key_id: str
    ) -> None:
        self.held: dict[int, Subscription] = {}
        self.key_id = key_id
        self._push, self._snapshot, self._rules = push, snapshot, rules
        self._last_sid = 0

    def tell(self, kind: str, held: Subscription, body: object) -> None:
        """Send a message of a subscription, unless the venue is silent."""
        if self._rules.silent:
            return
        held.told += 1
        self._push(orjson.dumps({"type": kind, **held.head(), "msg": body}))

    def fail(self, code: int, held: Subscription | None = None, request: dict[str, Any] | None = None) -> None:
        """Send an error, of a subscription if given; some codes end it."""
        body = {"code": code, "msg": ERRORS.get(code, "Error")}
        self._push(orjson.dumps({**(request or {}), **(held.head() if held else {}), "type": "error", "msg": body}))
        if held and code in TERMINAL:
            del self.held[held.sid]

    def answer(self, text: str | bytes) -> None:
        """Obey one command, and answer it."""
        echo: dict[str, Any] = {}
        try:
            command = _read(text)
            if number := command.get("id"):  # 0 counts as none
                echo = {"id": number}
            self._obey(echo, command)
        except CommandError as error:
            self.fail(error.args[0], request=echo)

    def _about(self, command: dict[str, Any]) -> list[str]:
        """Return the channels that a command names, or those of the subscriptions that it names."""
        params = command.get("params")
        if isinstance(params, dict):
            with suppress(CommandError):
                return _names(params, "channels") or [held.channel for held in self._named(params)]
        return []

    def _obey(self, echo: dict[str, Any], command: dict[str, Any]) -> None:
        if code := self._rules.ordered(self._about(command)):
            raise CommandError(code)
        name, params = command.get("cmd"), command.get("params")
        if name == "list_subscriptions":
            body = [{"channel": held.channel, "sid": held.sid} for held in self.held.values()]
            self._push(orjson.dumps({**echo, "type": "ok", "msg": body}))
            return
        commands = {
            "subscribe": self._subscribe,
            "update_subscription": self._update,
            "unsubscribe": self._unsubscribe,
        }
        if not isinstance(name, str) or name not in commands:
            raise CommandError(5)
        if not isinstance(params, dict) or not params:
            raise CommandError(2)
        commands[name](echo, params)

    def _subscribe(self, echo: dict[str, Any], params: dict[str, Any]) -> None:
        channels = _names(params, "channels") or []
        markets, indices = _markets(params), _names(params, "index_ids")
        self._check(channels, indices)
        # All of them are worked out before the first is changed: one may be too many.
        for channel, held, keys in [self._plan(channel, markets, indices) for channel in dict.fromkeys(channels)]:
            if held is None:
                self._last_sid += 1
                added = self.held[self._last_sid] = Subscription(self._last_sid, channel, keys)
                body = {"channel": channel, "sid": added.sid}
                self._push(orjson.dumps({**echo, "type": "subscribed", "msg": body}))
            else:  # since October 2025 this adds
                added, held.keys = held, keys
                self._push(orjson.dumps({**echo, **held.head(), "type": "ok", "msg": held.listing()}))
            if channel == "ticker" and params.get("send_initial_snapshot") is True:
                for market in markets or ():
                    if body_now := self._snapshot(market):
                        self.tell("ticker", added, body_now)

    def _plan(
        self, channel: str, markets: list[str] | None, indices: list[str] | None
    ) -> tuple[str, Subscription | None, list[str] | None]:
        """Return a channel, its subscription if there is one already, and what that is to hold."""
        keys = markets if channel in BY_MARKET else indices if channel == "cfbenchmarks_value" else None
        held = next((held for held in self.held.values() if held.channel == channel), None)
        if held:
            keys = None if keys is None or held.keys is None else list(dict.fromkeys(held.keys + keys))
        return channel, held, self._rules.limit(keys) if channel in BY_MARKET else keys

    def _check(self, channels: list[str], indices: list[str] | None) -> None:
        if not channels:
            raise CommandError(3)
        for channel in channels:
            if channel not in CHANNELS:
                raise CommandError(8)
            if channel in self._rules.revoked:
                raise CommandError(9)
            if channel == "cfbenchmarks_value" and not indices:
                raise CommandError(24)

    def _update(self, echo: dict[str, Any], params: dict[str, Any]) -> None:
        held, *more = self._named(params)
        if more:
            raise CommandError(12)
        action, markets = params.get("action"), _markets(params)
        if not action:
            raise CommandError(15)
        if action not in ("add_markets", "delete_markets") or held.channel not in BY_MARKET:
            raise CommandError(13)
        if not markets:
            raise CommandError(14)
        if held.keys is not None:  # one that has all of them keeps all of them
            if action == "add_markets":
                held.keys = self._rules.limit(held.keys + markets)
            else:
                held.keys = [key for key in held.keys if key not in markets]
        self._push(orjson.dumps({**echo, **held.head(), "type": "ok", "msg": held.listing()}))

    def _unsubscribe(self, echo: dict[str, Any], params: dict[str, Any]) -> None:
        for held in self._named(params):
            del self.held[held.sid]
            self._push(orjson.dumps({**echo, **held.head(), "type": "unsubscribed"}))

    def _named(self, params: dict[str, Any]) -> list[Subscription]:
        """Return the subscriptions that a command names."""
        sids = params.get("sids", [params["sid"]] if "sid" in params else [])
        if not isinstance(sids, list) or not sids:
            raise CommandError(4)
        if any(not isinstance(sid, int) or sid not in self.held for sid in sids):
            raise CommandError(7)
        return [self.held[sid] for sid in dict.fromkeys(sids)]


def _read(text: str | bytes) -> dict[str, Any]:
    try:
        command = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CommandError(1) from error
    if not isinstance(command, dict):
        raise CommandError(1)
    return command


def _names(params: dict[str, Any], field: str) -> list[str] | None:
    names = params.get(field)
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CommandError(11)
    return names


def _markets(params: dict[str, Any]) -> list[str] | None:
    """Return the markets of a command: one name or a list, never both; an empty list is none named."""
    one, several = params.get("market_ticker"), _names(params, "market_tickers")
    if one is None:
        return several or None
    if several is not None or not isinstance(one, str):
        raise CommandError(11)
    return [one]
