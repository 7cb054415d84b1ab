"""How long to wait: before the next attempt, and so that nobody takes more than a share."""

from __future__ import annotations

import random
from collections.abc import Iterator

# A refused key is not mended by asking, and venues lock out who asks often; a limit is over when it is left in peace,
# and so is what a venue calls a breach of its policy. A server's own fault lasts longer than a moment; a server that
# says it is going away is replaced by the next one at once.
_BY_CAUSE_S = {
    "unauthorised": (30.0, 300.0),
    "key": (30.0, 300.0),
    "rate_limited": (5.0, 300.0),
    "forbidden": (5.0, 300.0),
    "policy": (5.0, 300.0),
    "server_error": (5.0, 60.0),
    "going_away": (0.2, 30.0),
}


def delays(first_s: float, cap_s: float) -> Iterator[float]:
    """Yield waiting times in seconds for ever: doubling, capped, each multiplied by 0.5 to 1.0.

    The jitter keeps clients that lost the same server from coming back in step.
    """
    delay_s = first_s
    while True:
        yield delay_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        delay_s = min(delay_s * 2, cap_s)


class Waits:
    """The waits of one connection, by why the last attempt failed; `usual_s` are the first and the longest.

    Each kind of wait grows for itself, until a good attempt: two causes by turns shorten nothing.
    """

    def __init__(self, usual_s: tuple[float, float]) -> None:
        self._usual_s = usual_s
        self._delays: dict[tuple[float, float], Iterator[float]] = {}

    def next_s(self, cause: str, asked_s: float = 0.0) -> float:
        """Return how long to wait now, never shorter than the venue asked for."""
        limits_s = _BY_CAUSE_S.get(cause, self._usual_s)
        if limits_s not in self._delays:
            self._delays[limits_s] = delays(*limits_s)
        return max(next(self._delays[limits_s]), asked_s)

    def reset(self) -> None:
        """Begin anew: the last attempt was a good one."""
        self._delays.clear()


class Pace:
    """Lets `per_s` through, and `burst` at once; 0 sets no limit."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._counted_s = burst, float("-inf")

    def wait_s(self, count: int, now_s: float) -> float:
        """Return how long to wait after so many more, by a clock that only runs forward."""
        if not self._per_s:
            return 0.0
        self._left = min(self._burst, self._left + (now_s - self._counted_s) * self._per_s) - count
        self._counted_s = now_s
        return max(0.0, -self._left / self._per_s)
