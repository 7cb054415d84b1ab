"""What a connection is judged by, beside its end: whether data flows over it, and whether that is JSON at all."""

from __future__ import annotations

from recio_ingest.errors import PeerError

# Between two looks at a lively connection lies a second; a longer silence counts as no more than this.
COUNTED_S = 2.0
# A venue has an odd message now and then, which the quarantine keeps; so many in so short a time are no venue's.
GARBAGE, GARBAGE_WITHIN_S = 100, 10.0
# What a document of these venues begins with; another JSON value is odd, but it is JSON.
_OPENINGS = (b"{", b"[")


class Flow:
    """For how long data has flowed. An open socket is no good data, nor is a confirmed subscription."""

    def __init__(self) -> None:
        self.flowed_s = 0.0
        self._last_s: float | None = None

    def heard(self, now_s: float) -> None:
        """Take in that messages came since the last look."""
        if self._last_s is not None:
            self.flowed_s += min(now_s - self._last_s, COUNTED_S)
        self._last_s = now_s


class Garbage:
    """Counts the messages of one connection that cannot be JSON, by their first byte. Most come here never."""

    def __init__(self) -> None:
        self._count, self._since_s = 0, float("-inf")

    def heard(self, data: bytes, now_s: float) -> None:
        """Take in a message that does not begin like a venue's. Raises PeerError where there are too many."""
        if data.lstrip(b" \t\r\n")[:1] in _OPENINGS:
            return
        if now_s - self._since_s > GARBAGE_WITHIN_S:
            self._count, self._since_s = 0, now_s
        self._count += 1
        if self._count > GARBAGE:
            raise PeerError("garbage", f"{self._count} messages within {GARBAGE_WITHIN_S:.0f} s are no JSON")
