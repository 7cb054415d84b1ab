"""The time of the simulated Kalshi."""

from __future__ import annotations

import time

HOUR_S = 3600
START_AGO_S, START_BEFORE_HOUR_S = 7 * 24 * HOUR_S, 600  # where compressed time starts


class Clock:
    """The venue's time: the real one, or one that starts elsewhere and in which an hour takes `hour_s`.

    Compressed time starts a week back, ten minutes before a full hour, so that for a long while nothing the
    venue tells lies in the future. Everything is compressed alike: still one index print for each second of
    the venue's time, 3600 an hour. Only signatures are judged by the real time.
    """

    def __init__(self, hour_s: float, start_s: int | None = None) -> None:
        if hour_s <= 0:
            raise ValueError("an hour needs to last")
        self._hour_ns = round(hour_s * 1_000_000_000)
        self._origin_ns = time.time_ns()
        self._start_ms = self._origin_ns // 1_000_000
        if start_s is not None:
            self._start_ms = start_s * 1000
        elif hour_s != HOUR_S:
            hour = self._start_ms // 1000 // HOUR_S * HOUR_S
            self._start_ms = (hour - START_AGO_S - START_BEFORE_HOUR_S) * 1000

    def now_ms(self) -> int:
        """Return the venue's time."""
        return self._start_ms + (time.time_ns() - self._origin_ns) * HOUR_S * 1000 // self._hour_ns

    def real_s(self, venue_ms: int) -> float:
        """Return how long so much of the venue's time really takes."""
        return venue_ms * self._hour_ns / (HOUR_S * 1_000_000_000_000)
