"""Whether a channel that is subscribed to has fallen silent. Its limit follows its own rate.

Armed from the subscription on: a channel that never brings anything is as silent as one that stopped. What proves that
the connection lives (heartbeats, pings, other channels) proves nothing here.
"""

from __future__ import annotations

# A channel that came every second and has not come for twenty of its usual pauses is no accident.
PAUSES = 20.0
# The newest pause counts for a tenth: after some dozens the rate is that of now.
WEIGHT = 0.1


class Watch:
    """One channel. `first_s` is the limit while its rate is not known, and it never leaves `least_s` to `most_s`."""

    def __init__(self, first_s: float, least_s: float, most_s: float) -> None:
        self._limits_s = first_s, least_s, most_s
        self._pause_s: float | None = None
        self._seen_s: float | None = None

    @property
    def limit_s(self) -> float:
        """How long it may be silent."""
        first_s, least_s, most_s = self._limits_s
        return first_s if self._pause_s is None else min(max(PAUSES * self._pause_s, least_s), most_s)

    def arm(self, now_s: float) -> None:
        """Begin to wait, at a subscription, or when messages may be expected again; the rate is kept."""
        self._seen_s = now_s

    def rest(self) -> None:
        """Expect nothing for now."""
        self._seen_s = None

    def saw(self, now_s: float) -> None:
        """Take in that there were messages since the last look."""
        if self._seen_s is not None:
            pause_s = now_s - self._seen_s
            self._pause_s = pause_s if self._pause_s is None else self._pause_s + WEIGHT * (pause_s - self._pause_s)
        self._seen_s = now_s

    def resumed(self, paused_s: float) -> None:
        """Take in that for so long nothing was read."""
        if self._seen_s is not None:
            self._seen_s += paused_s

    def silent_s(self, now_s: float) -> float:
        """Return how long it has been silent, where that is too long; else 0."""
        if self._seen_s is None or now_s - self._seen_s <= self.limit_s:
            return 0.0
        return now_s - self._seen_s
