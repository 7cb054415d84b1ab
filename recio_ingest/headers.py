"""What the headers of a venue's answer say besides: its clock, and how long to leave it in peace."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from recio_ingest import metrics

# What a hostile answer can ask for at most.
MAX_WAIT_S = 3600.0


def note_clock(feed: str, headers: Mapping[str, str]) -> float | None:
    """Return how far this machine's clock is ahead of a venue's (seconds), by an answer's Date; None without one."""
    try:
        told = parsedate_to_datetime(headers["Date"])
        # An offset of -0000 parses as no zone at all, which `timestamp` would take for this machine's.
        skew_s = time.time() - (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (LookupError, TypeError, ValueError, OverflowError):  # missing, or there twice; or no date
        return None
    # The header has whole seconds, cut off: up to one second of difference is none.
    skew_s = 0.0 if 0 <= skew_s < 1 else skew_s
    metrics.CLOCK_SKEW.labels(feed).set(skew_s)
    return skew_s


def wait_asked_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks for, 0 without one."""
    try:
        asked_s = float(headers["Retry-After"])
    except (LookupError, ValueError):
        return 0.0
    return 0.0 if math.isnan(asked_s) else min(max(asked_s, 0.0), MAX_WAIT_S)
