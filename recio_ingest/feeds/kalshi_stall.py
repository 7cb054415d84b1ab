"""Which of Kalshi's subscriptions have fallen silent, though the connection lives.

The limits are for a channel whose rate is not known yet, and the least and most of those that follow its rate. It is
subscribed to again first; a ticker's snapshot, or the next print, shows that it is back. Trades can be rare, and the
venue numbers them: their silence is never a reason to give the connection up. Nor is that of an optional channel, which
a venue may confirm and never fill: it is subscribed to anew more and more rarely.
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
_PROVES = "ticker"
"""The channel that brings something soon after a subscription, whatever the market does, and that must be there."""
# Between two subscriptions to an optional channel that stays silent: doubled each time.
FIRST_PAUSE_S, MAX_PAUSE_S = 10.0, 300.0


class Stalls:
    """One watch for each channel."""

    def __init__(self) -> None:
        self.kinds: set[bytes] = set()
        """The types of message since the last look: one addition to a set is all that a message costs."""
        self._watches = {name: Watch(*limits_s) for name, limits_s in _LIMITS_S.items()}
        self._sids: dict[str, int | None] = {}
        self._doubted: set[str] = set()
        self._pauses_s: dict[str, float] = {}

    def doubts(self, channel: Channel) -> bool:
        """Tell whether a channel has brought nothing since it was found silent."""
        return channel.name in self._doubted

    def resumed(self, paused_s: float) -> None:
        """Take in that for so long nothing was read."""
        for watch in self._watches.values():
            watch.resumed(paused_s)

    def silent(self, channels: Sequence[Channel], now_s: float, *, trading: bool) -> Iterator[tuple[Channel, float]]:
        """Yield the channels that are silent too long, and for how long (s).

        Raises RefusedError for a ticker that was subscribed to again for that, and is silent all the same.
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
                self._pauses_s.pop(name, None)
            elif self._sids.get(name) != channel.sid:
                watch.arm(now_s)
                self._sids[name] = channel.sid
            elif (silent_s := watch.silent_s(now_s)) > self._pauses_s.get(name, 0.0):
                if name in self._doubted and name == _PROVES:
                    raise RefusedError(f"{name} is silent for {silent_s:.0f} s, also after another subscription")
                self._doubted.add(name)
                if channel.optional:
                    self._pauses_s[name] = min(2 * self._pauses_s.get(name, FIRST_PAUSE_S / 2), MAX_PAUSE_S)
                yield channel, silent_s
