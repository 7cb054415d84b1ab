"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Iterator


def delays(first_s: float, cap_s: float) -> Iterator[float]:
    """Yield waiting times in seconds for ever: doubling, capped, each multiplied by 0.5 to 1.0.

    The jitter keeps clients that lost the same server from coming back in step.
    """
    delay_s = first_s
    while True:
        yield delay_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        delay_s = min(delay_s * 2, cap_s)
