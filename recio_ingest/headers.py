"""What the headers of a venue's answer say besides: its clock, and how long to leave it in peace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from recio_ingest import metrics

# What a hostile answer can ask for at most.
MAX_WAIT_S = 3600.0


def note_clock(feed: str, headers: Mapping[str, str]) -> float | None:
    """Return how far this machine's clock is ahead of a venue's (seconds), by an answer's Date; None without one."""
    try:
        skew_s = time.time() - parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    # The header has whole seconds, cut off: up to one second of difference is none.
    skew_s = 0.0 if 0 <= skew_s < 1 else skew_s
    metrics.CLOCK_SKEW.labels(feed).set(skew_s)
    return skew_s


def wait_asked_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks for, 0 without one."""
    try:
        return min(max(float(headers["Retry-After"]), 0.0), MAX_WAIT_S)
    except (KeyError, ValueError):
        return 0.0
