"""Which of Kalshi's subscriptions have fallen silent, though the connection lives.

The limits are for a channel whose rate is not known yet, and the least and most of those that follow its rate. It is
subscribed to again first; a ticker's snapshot, or the next print, shows that it is back. Trades can be rare, and the
venue numbers them: their silence is never a reason to give the connection up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recio_ingest.errors import RefusedError
from recio_ingest.feeds.kalshi_channels import Channel
from recio_ingest.feeds.stall import Watch

_LIMITS_S = {
    "ticker": (60.0, 10.0, 300.0),
    "trade": (300.0, 60.0, 1800.0),
    "market_lifecycle_v2": (300.0, 120.0, 1800.0),
    "cfbenchmarks_value": (10.0, 5.0, 10.0),
}
_PROVES = frozenset({"ticker", "cfbenchmarks_value"})
"""Channels that bring something soon after a subscription, whatever the market does."""


class Stalls:
    """One watch for each channel."""

    def __init__(self) -> None:
        self.kinds: set[bytes] = set()
        """The types of message since the last look: one addition to a set is all that a message costs."""
        self._watches = {name: Watch(*limits_s) for name, limits_s in _LIMITS_S.items()}
        self._sids: dict[str, int | None] = {}
        self._doubted: set[str] = set()

    def silent(self, channels: Sequence[Channel], now_s: float, *, trading: bool) -> Iterator[tuple[Channel, float]]:
        """Yield the channels that are silent too long, and for how long (s).

        Raises RefusedError for one that was subscribed to again for that, and is silent all the same.
        """
        kinds, self.kinds = self.kinds, set()
        for channel in channels:
            watch, name = self._watches[channel.name], channel.name
            # The index is told day and night; nothing else is where nothing trades.
            if channel.sid is None or not (trading or name == "cfbenchmarks_value"):
                watch.rest()
                self._sids[name] = None
            elif name.encode() in kinds:
                watch.saw(now_s)
                self._sids[name] = channel.sid
                self._doubted.discard(name)
            elif self._sids.get(name) != channel.sid:
                watch.arm(now_s)
                self._sids[name] = channel.sid
            elif silent_s := watch.silent_s(now_s):
                if name in self._doubted and name in _PROVES:
                    raise RefusedError(f"{name} is silent for {silent_s:.0f} s, also after another subscription")
                self._doubted.add(name)
                yield channel, silent_s
