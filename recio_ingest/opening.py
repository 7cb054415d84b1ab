"""How a connection to a venue is opened: its limits, its signature, and by whose clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
from websockets.asyncio.client import connect

from recio_ingest.credentials import read_key
from recio_ingest.feeds import Feed
from recio_ingest.guard import CLOSE_TIMEOUT_S, MAX_MESSAGE_BYTES, PING_INTERVAL_S, Guarded
from recio_ingest.headers import note_clock

log = structlog.get_logger()

# For all of it: the name, the connection, TLS and the handshake.
OPEN_TIMEOUT_S = 10.0
# Venues refuse a signature that is 10 s old (seen); a clock that is off by less than this is not why.
CLOCK_OFF_S = 5.0


class Opening:
    """Opens the connections of one feed."""

    def __init__(self, feed: Feed, now_ns: Callable[[], int]) -> None:
        self._feed = feed
        self._now_ns = now_ns
        self._venue_ahead_s = 0.0

    def attempt(self) -> connect:
        """Return an attempt that is signed now. Raises ConfigError where the key cannot be read."""
        return connect(
            self._feed.url,
            additional_headers=self._signed(),
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=None,  # the guard's: whatever comes is an answer
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,  # what is not offered cannot be a bomb
            proxy=True if self._feed.proxy else None,  # not from whatever variable the environment happens to hold
            user_agent_header="recio-ingest",
            create_connection=Guarded,
        )

    def _signed(self) -> Mapping[str, str]:
        """Return the headers that sign an attempt made now; the key is read anew, it may have been exchanged."""
        if self._feed.sign is None:
            return {}
        venue_ms = self._now_ns() // 1_000_000 + round(self._venue_ahead_s * 1000)
        return self._feed.sign(read_key(self._feed.key_file), venue_ms)

    def correct_clock(self, headers: Mapping[str, str]) -> bool:
        """Take the venue's time for the next signature where ours was too far from it; return whether it was."""
        skew_s = note_clock(self._feed.name, headers)
        if skew_s is None or abs(skew_s + self._venue_ahead_s) < CLOCK_OFF_S:
            return False
        self._venue_ahead_s = -skew_s
        log.warning(
            "feed.clock_off",
            feed=self._feed.name,
            off_s=round(skew_s, 1),
            hint="set this machine's clock (timedatectl set-ntp true): arrival times are wrong by as much; "
            "signing with the venue's time meanwhile",
        )
        return True
