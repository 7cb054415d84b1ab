"""A while in which a venue makes many times as much as usual, with the times of its messages to match."""

from __future__ import annotations

from typing import NamedTuple


class Haste(NamedTuple):
    """From a moment on, for so long, so many times as much. Both ways of reading it are whole numbers of ns."""

    from_ns: int = 0
    for_ns: int = 0
    times: int = 1

    def made_ns(self, now_ns: int) -> int:
        """Tell until when everything would be made by now, had it gone on at the usual pace."""
        return now_ns + (self.times - 1) * min(max(now_ns - self.from_ns, 0), self.for_ns)

    def clock_ns(self, made_ns: int) -> int:
        """Tell when what is due then at the usual pace is really made."""
        past_ns = made_ns - self.from_ns
        if past_ns <= 0:
            return made_ns
        if past_ns < self.for_ns * self.times:
            return self.from_ns + past_ns // self.times
        return made_ns - (self.times - 1) * self.for_ns
