"""What is said to Coinbase over one connection: one subscription, and another for a channel that falls silent.

Tickers give no rows, only the quotes beside trades: they are never a reason to give up a connection that brings trades.

Source: the venue's pages "Exchange WebSocket overview" and "channels". It closes a connection that has not subscribed
within 5 s; `subscriptions` lists everything that is held; `error` names what it refuses; a heartbeat comes once a
second for each product and names the product's last trade.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from recio_ingest.errors import RefusedError
from recio_ingest.feeds import Notice

CHANNELS = ("matches", "ticker", "heartbeat")
CONFIRM_WITHIN_S = 10.0
# Five heartbeats, or trades that heartbeats tell of: a socket that is open and silent has been seen for hours.
SILENT_S = 5.0
HEARTBEAT, TICKER = "heartbeat", "ticker"
# Between two subscriptions to tickers that stay away: from SILENT_S on doubled each time.
MAX_PAUSE_S = 300.0
# Every message begins with {"type":" and then its type; the first letter tells the channels apart, at a tenth of the
# cost of reading it. A venue that changes its spelling is only not watched.
_LETTER = slice(9, 10)
_LETTERS = {"matches": b"m", TICKER: b"t"}
_BEAT = b"h"


class CoinbaseSession:
    """Subscribes once, and begins a channel anew that brings nothing although there were trades."""

    def __init__(self, products: Sequence[str]) -> None:
        self.ready = False
        self._missing = "not confirmed yet"
        self._products = list(products)
        self._asked = frozenset((channel, product) for channel in CHANNELS for product in products)
        self._asked_at_s: float | None = None
        self._seen: set[bytes] = set()
        self._trades: dict[str, int] = {}
        self._beat_s: dict[str, float] = {}
        self._owed_s: dict[str, float] = {}
        """Since when there were trades of which a channel has brought none."""
        self._doubted: set[str] = set()
        self._ticker_pause_s = SILENT_S
        self._untold: list[Notice] = []

    @property
    def trouble(self) -> str:
        """What is not confirmed, and whether tickers stay away."""
        silent = f"{TICKER} is silent" if TICKER in self._doubted else ""
        return ", ".join(each for each in (self._missing, silent) if each)

    def say(self, now_s: float) -> Sequence[bytes]:
        """Return what to send now. Raises RefusedError where nothing is confirmed, or a channel stays silent."""
        if self._asked_at_s is None:
            self._asked_at_s = now_s
            return (self._message("subscribe", CHANNELS),)
        if self.ready:
            return [message for channel in self._silent(now_s) for message in self._begin_anew(channel)]
        if now_s - self._asked_at_s > CONFIRM_WITHIN_S:
            raise RefusedError(f"the subscription is not confirmed within {CONFIRM_WITHIN_S:.0f} s")
        return ()

    def listens(self, data: bytes) -> bool:
        """Tell whether an answer is still awaited, or this is a heartbeat."""
        letter = data[_LETTER]
        self._seen.add(letter)
        return letter == _BEAT or not self.ready

    def hear(self, data: bytes, now_s: float) -> Sequence[Notice]:
        """Read an answer to the subscription, or a heartbeat; a message that is neither, or no JSON, says nothing."""
        untold, self._untold = tuple(self._untold), []
        try:
            message = orjson.loads(data)
            kind = message["type"]
            if kind == HEARTBEAT:
                self._beat(message, now_s)
            elif kind == "error" and not self.ready:
                words = (str(message.get("message", "error")), str(message.get("reason", "")))
                raise RefusedError(": ".join(word for word in words if word)[:300])
            elif kind == "subscriptions" and not self.ready:
                held = {(entry["name"], product) for entry in message["channels"] for product in entry["product_ids"]}
                return *untold, *self._confirmed(sorted(self._asked - held), now_s)
        except (ValueError, KeyError, TypeError, AttributeError):
            return untold
        return untold

    def resumed(self, paused_s: float) -> None:
        """Take in that for so long nothing was read: whatever is waited for may be in what was not."""
        if self._asked_at_s is not None:
            self._asked_at_s += paused_s
        for since_s in (self._beat_s, self._owed_s):
            since_s.update({name: moment_s + paused_s for name, moment_s in since_s.items()})

    def end(self) -> None:
        """Nothing outlives the connection."""

    def _confirmed(self, missing: Sequence[tuple[str, str]], now_s: float) -> Sequence[Notice]:
        self.ready, self._missing = True, ", ".join(f"{name} of {product}" for name, product in missing[:10])
        without = {product for name, product in missing if name == HEARTBEAT}
        self._beat_s = {product: now_s for product in self._products if product not in without}
        if not missing:
            return ()
        facts = {"refused": self._missing, "hint": "check the configured names"}
        return (Notice("error", "feed.partly_refused", facts),)

    def _beat(self, message: Mapping[str, Any], now_s: float) -> None:
        """Take a heartbeat in: it proves itself, and what it tells of should have come by the other channels."""
        product, last = message["product_id"], message["last_trade_id"]
        if product in self._beat_s:
            self._beat_s[product] = now_s
            self._doubted.discard(HEARTBEAT)
        traded = last > self._trades.get(product, last)
        if product in self._products:
            self._trades[product] = last
        for channel, letter in _LETTERS.items():
            if letter in self._seen:
                self._owed_s.pop(channel, None)
                self._doubted.discard(channel)
                if channel == TICKER:
                    self._ticker_pause_s = SILENT_S
            elif traded:
                self._owed_s.setdefault(channel, now_s)
        self._seen.clear()

    def _silent(self, now_s: float) -> Iterator[str]:
        if any(now_s - beat_s > SILENT_S for beat_s in self._beat_s.values()):
            self._beat_s = dict.fromkeys(self._beat_s, now_s)
            # Where trades come, heartbeats that do not are no reason to give them up.
            if HEARTBEAT not in self._doubted or not self._seen:
                yield HEARTBEAT
            self._seen.clear()
        for channel in CHANNELS:
            pause_s = self._ticker_pause_s if channel == TICKER else SILENT_S
            if now_s - self._owed_s.get(channel, now_s) > pause_s:
                del self._owed_s[channel]
                yield channel

    def _begin_anew(self, channel: str) -> Sequence[bytes]:
        again = channel in self._doubted
        if again and channel != TICKER:
            raise RefusedError(f"{channel} is silent for {SILENT_S:.0f} s, also after another subscription")
        self._doubted.add(channel)
        if channel == TICKER:
            self._ticker_pause_s = min(2 * self._ticker_pause_s, MAX_PAUSE_S)
        if not again:
            facts = {"channel": channel, "error": f"silent for {SILENT_S:.0f} s", "hint": "it is begun anew by itself"}
            self._untold.append(Notice("warning", "channel.refused", facts))
        return self._message("unsubscribe", (channel,)), self._message("subscribe", (channel,))

    def _message(self, kind: str, channels: Sequence[str]) -> bytes:
        return orjson.dumps({"type": kind, "product_ids": self._products, "channels": list(channels)})
