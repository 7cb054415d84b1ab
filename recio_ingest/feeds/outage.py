"""When a feed's channels were not received: gaps from the last message before to the first sign of life after.

Everything here is decided from frames alone, so the same frames declare the same gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from recio_ingest.records import Frame, Gap, Kind, Micros

WHOLE = "*"
"""The channel of a feed whose channels live and die together."""


class Outage:
    """Which channels of a feed are received.

    A gap begins for every channel that was, when the line goes down, and ends for each by itself: a venue that lets a
    connection in has not begun to send yet. As messages come in order, one of any channel shows that the others are
    complete up to its time. Not so in channels that are `numbered`: what the venue itself lost there shows by the next
    number, and there will be none; nothing after their own last message is known to be complete.
    """

    def __init__(
        self,
        feed: str,
        state: Mapping[str, Any],
        channels: tuple[str, ...] = (WHOLE,),
        numbered: frozenset[str] = frozenset(),
    ) -> None:
        self._feed = feed
        self._channels = channels
        self._numbered = numbered
        self._up: bool = state.get("up", False)
        self._last_ns: int | None = state.get("last_ns")
        self._ahead_ns: int = state.get("ahead_ns", 0)
        """How far the venue's clock was ahead of this one's at the last message: a minute has been seen."""
        self._seen_ns: dict[str, int] = dict(state.get("seen_ns", {}))
        self._live: set[str] = set(state.get("live", ()))
        self._open: dict[str, list[Any]] = dict(state.get("open", {}))  # channel: frame_no, cause, from_ns

    def state(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "up": self._up,
            "last_ns": self._last_ns,
            "ahead_ns": self._ahead_ns,
            "seen_ns": self._seen_ns,
            "live": sorted(self._live),
            "open": self._open,
        }

    def mark(self, frame: Frame) -> tuple[Gap, ...]:
        """Take a control mark in; return the gaps that it opens."""
        gaps: tuple[Gap, ...] = ()
        if frame.kind == Kind.PAUSED:  # the subscriptions stay: the first message after is the end of it
            gaps = self._begin(frame, _cause(frame))
        elif frame.kind == Kind.DISCONNECTED:
            gaps = self._begin(frame, _cause(frame))
            self._up = False
            self._live.clear()
        elif frame.kind == Kind.CONNECTED:
            if self._up:  # and connecting again: the mark of the end was never written. The daemon was killed.
                gaps = self._begin(frame, "restart")
                self._live.clear()
            self._up = True
        elif frame.kind == Kind.LOST:  # the line may be another by now: each channel shows by itself that it lives
            gaps = self._begin(frame, _cause(frame))
            self._live.clear()
        return gaps

    def expect(self, frame: Frame, channels: tuple[str, ...]) -> tuple[Gap, ...]:
        """Take in which channels this connection is to bring; return the gaps of others, which end here."""
        return self._end(frame, [name for name in self._open if name not in channels])

    def lose(self, frame: Frame, channel: str, cause: str) -> tuple[Gap, ...]:
        """Take in that one channel has ended; return the gap that it opens, from its own last message on.

        The line may have lived on while this channel had stalled.
        """
        gaps = self._begin(frame, cause, channel)
        self._live.discard(channel)
        return gaps

    def lacks(self, channel: str) -> bool:
        """Tell whether a gap of the channel is open."""
        return channel in self._open

    def seen(self, frame: Frame, channel: str | None, venue_time: Micros | None) -> tuple[Gap, ...]:
        """Take a message in, of a channel that is received from here on if given; return the gaps that it ends.

        Up to the venue's time of the message the feed is complete, as messages come in order. What waited in a buffer,
        while the spool or the whole process stood still, was sent earlier than it arrived: the older of the two times
        counts, so that the gap that follows is never declared too late; nor does one end too early, where this clock is
        behind the venue's, by which the venue is asked for what was missed.
        """
        if channel is not None and channel not in self._live:
            self._live.add(channel)
            if venue_time is None:  # confirmed: from here on its messages come
                self._seen_ns[channel] = frame.recv_ns if self._last_ns is None else self._last_ns
        elif channel is not None and venue_time is None and self._last_ns is not None:
            # It has no time of its own; what came before it, by the same line, was sent before it.
            self._seen_ns[channel] = self._last_ns
        if venue_time is not None:
            upto_ns = min(frame.recv_ns, venue_time * 1000)
            self._ahead_ns = max(0, venue_time * 1000 - frame.recv_ns)
            if self._last_ns is None or upto_ns > self._last_ns:
                self._last_ns = upto_ns
            if channel is not None:
                self._seen_ns[channel] = max(upto_ns, self._seen_ns.get(channel, 0))
        if not self._open:
            return ()
        return self._end(frame, [name for name in self._channels if name in self._open and name in self._live])

    def _begin(self, frame: Frame, cause: str, only: str | None = None) -> tuple[Gap, ...]:
        """Open the gaps of those that were received; one outage, however many attempts, and none before the first."""
        begun = [
            name for name in self._channels if name in self._live and name not in self._open and only in (None, name)
        ]
        for name in begun:
            last_ns = frame.recv_ns if self._last_ns is None else self._last_ns
            alone = only is not None or name in self._numbered
            self._open[name] = [frame.frame_no, cause, self._seen_ns.get(name, last_ns) if alone else last_ns]
        return tuple(self._gap(name, to_ns=None) for name in begun)

    def _end(self, frame: Frame, channels: Sequence[str]) -> tuple[Gap, ...]:
        gaps = tuple(self._gap(name, to_ns=frame.recv_ns + self._ahead_ns) for name in channels)
        for name in channels:
            del self._open[name]
        return gaps

    def _gap(self, channel: str, to_ns: int | None) -> Gap:
        frame_no, cause, from_ns = self._open[channel]
        # 1 is for a hole in a numbering, which the same frame may reveal.
        gap_no = 0 if channel == WHOLE else 2 + self._channels.index(channel)
        to_time = None if to_ns is None else to_ns // 1000
        return Gap(frame_no, gap_no, self._feed, channel, "connection", cause, from_ns // 1000, to_time)


def _cause(frame: Frame) -> str:
    return str(orjson.loads(frame.data).get("cause", "unknown"))
