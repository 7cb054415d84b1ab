"""Waiting for what has no event of its own: short looks, bounded in time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

# Short enough not to add to what a test measures, long enough not to take the CPU from what it waits for.
LOOK_EVERY_S = 0.01


def wait_until(look: Callable[[], T], *, within_s: float, what: str) -> T:
    """Look until something truthy is seen and return it; say what was awaited when the time is over."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_s} s in vain for {what}")
        time.sleep(LOOK_EVERY_S)
    return seen


async def until(look: Callable[[], Awaitable[T]], *, within_s: float, what: str, every_s: float = LOOK_EVERY_S) -> T:
    """Do the same without holding up the event loop."""
    deadline = time.monotonic() + within_s
    while not (seen := await look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_s} s in vain for {what}")
        await asyncio.sleep(every_s)
    return seen
