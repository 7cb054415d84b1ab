"""What is said to Coinbase over one connection: one subscription, and what the venue answers to it.

Source: the venue's page "Exchange WebSocket overview". It closes a connection that has not subscribed within 5 s;
`subscriptions` lists everything that is held; `error` names what it refuses.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from recio_ingest.errors import RefusedError
from recio_ingest.feeds import Notice

CHANNELS = ("matches", "ticker", "heartbeat")
CONFIRM_WITHIN_S = 10.0


class CoinbaseSession:
    """Subscribes once; whatever comes after the confirmation is data."""

    def __init__(self, products: Sequence[str]) -> None:
        self.ready = False
        self.trouble = "not confirmed yet"
        self._products = list(products)
        self._asked = frozenset((channel, product) for channel in CHANNELS for product in products)
        self._asked_at_s: float | None = None

    def say(self, now_s: float) -> Sequence[bytes]:
        """Return the subscription, the first time. Raises RefusedError where it is not confirmed in time."""
        if self._asked_at_s is None:
            self._asked_at_s = now_s
            message = {"type": "subscribe", "product_ids": self._products, "channels": list(CHANNELS)}
            return (orjson.dumps(message),)
        if not self.ready and now_s - self._asked_at_s > CONFIRM_WITHIN_S:
            raise RefusedError(f"the subscription is not confirmed within {CONFIRM_WITHIN_S:.0f} s")
        return ()

    def listens(self, data: bytes) -> bool:
        """Tell whether an answer is still awaited."""
        del data
        return not self.ready

    def hear(self, data: bytes, now_s: float) -> Sequence[Notice]:
        """Read an answer to the subscription; a message that is no answer, or no JSON, says nothing."""
        del now_s
        try:
            message = orjson.loads(data)
            kind = message["type"]
            if kind == "error":
                words = (str(message.get("message", "error")), str(message.get("reason", "")))
                raise RefusedError(": ".join(word for word in words if word)[:300])
            if kind == "subscriptions":
                held = {(entry["name"], product) for entry in message["channels"] for product in entry["product_ids"]}
                return self._confirmed(sorted(self._asked - held))
        except (ValueError, KeyError, TypeError, AttributeError):
            return ()
        return ()

    def end(self) -> None:
        """Nothing outlives the connection."""

    def _confirmed(self, missing: Sequence[tuple[str, str]]) -> Sequence[Notice]:
        self.ready, self.trouble = True, ", ".join(f"{name} of {product}" for name, product in missing[:10])
        if not missing:
            return ()
        facts = {"refused": self.trouble, "hint": "check the configured names"}
        return (Notice("error", "feed.partly_refused", facts),)
