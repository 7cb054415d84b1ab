"""What a feed's parser remembers: holes in a numbering, and what must not be stored twice.

Everything here is decided from frames alone, so the same frames declare the same gaps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from recio_ingest.errors import BadMessageError
from recio_ingest.records import Frame, Gap

# Each range still missing is two numbers in the offset row of every commit. A venue that leaves more than this many at
# once has renumbered; the oldest are then final: declared as they are, and late arrivals go to the quarantine.
MAX_RANGES = 200
# A broken venue must not grow the state without end; a connection has a handful.
MAX_SUBSCRIPTIONS = 1000


# Coinbase's heartbeat and trades come by one socket and yet not in order; a second or two is what others allow.
CLAIM_NS = 1_500_000_000


class TradeIds:
    """Which ids of a contiguous numbering have been seen: `first` to `last`, but for the holes.

    This is both the test for duplicates and the test for gaps, and it is exact: a late id that falls into a hole is
    new and fills it, every other id between `first` and `last` is a duplicate.
    """

    def __init__(self, feed: str, channel: str, scope: str, state: Mapping[str, Any]) -> None:
        self._names = (feed, channel, scope)
        self._first: int | None = state.get("first")
        self._last: int | None = state.get("last")
        self.last_ns: int = state.get("last_ns", 0)
        # A hole: frame_no that revealed it, from_ns, to_ns, from_seq, to_seq, how many ids of it came late, and the
        # ranges of it still missing.
        self._holes: list[list[Any]] = copy.deepcopy(state.get("holes", []))
        self._forgotten: int = state.get("forgotten", 0)  # ids up to here are no longer known one by one
        self._claim: list[int] | None = state.get("claim")  # an id that the venue says it has sent, and since when (ns)

    def state(self) -> dict[str, Any]:
        """Return plain JSON."""
        kept: dict[str, Any] = {"first": self._first, "last": self._last, "last_ns": self.last_ns}
        if self._holes or self._forgotten:
            kept |= {"holes": self._holes, "forgotten": self._forgotten}
        if self._claim is not None:
            kept["claim"] = self._claim
        return kept

    def claim(self, number: int, frame: Frame) -> tuple[Gap, ...]:
        """Take in that the venue says it has sent this id; return the gap, once it has not come for CLAIM_NS.

        Not at once: what tells of it may overtake it. An id that comes after all fills the hole like any late one.
        """
        if self._last is None or self._last >= (self._claim or [number])[0]:
            self._claim = None
        if self._last is None or number <= self._last:
            return ()
        if self._claim is None:
            self._claim = [number, frame.recv_ns]
            return ()
        claimed, since_ns = self._claim
        if frame.recv_ns - since_ns < CLAIM_NS:
            return ()
        gaps = self._miss(self._last + 1, claimed, frame)
        self._last, self.last_ns, self._claim = claimed, frame.recv_ns, None
        return gaps

    def see(self, number: int, frame: Frame) -> tuple[bool, tuple[Gap, ...]]:
        """Return whether the id is new, and the gaps that it opens or fills.

        Raises BadMessageError for an old id about which nothing is known any more.
        """
        if self._first is None or self._last is None:
            self._first = self._last = number
            self.last_ns = frame.recv_ns
            return True, ()
        if number > self._last:
            gaps = self._miss(self._last + 1, number - 1, frame) if number > self._last + 1 else ()
            self._last = number
            self.last_ns = frame.recv_ns
            return True, gaps
        if number < self._first:
            gaps = self._miss(number + 1, self._first - 1, frame) if number + 1 < self._first else ()
            self._first = number
            return True, gaps
        return self._fill(number, frame)

    def fill(self, number: int, frame: Frame) -> tuple[bool, tuple[Gap, ...]]:
        """Take in an id that was asked for; return whether it is new, and the gap that it fills.

        It is also new where nothing is known of it here: then only the table can tell.
        """
        if self._first is None or self._last is None or not self._first <= number <= self._last:
            return True, ()
        try:
            return self._fill(number, frame)
        except BadMessageError:
            return True, ()

    def counts(self, frame_no: int) -> bool:
        """Tell whether what fills the gap that this frame revealed is counted here."""
        return any(hole[0] == frame_no for hole in self._holes)

    def _miss(self, first: int, last: int, frame: Frame) -> tuple[Gap, ...]:
        hole = [frame.frame_no, self.last_ns, frame.recv_ns, first, last, 0, [[first, last]]]
        self._holes.append(hole)
        self._forget()
        return (self._gap(hole),)

    def _fill(self, number: int, frame: Frame) -> tuple[bool, tuple[Gap, ...]]:
        for hole in self._holes:
            missing: list[list[int]] = hole[6]
            for at, (first, last) in enumerate(missing):
                if first <= number <= last:
                    parts = ([first, number - 1], [number + 1, last])
                    missing[at : at + 1] = [part for part in parts if part[0] <= part[1]]
                    hole[5] += 1
                    if not missing:
                        self._holes.remove(hole)
                    self._forget()
                    return True, (self._gap(hole, frame.recv_ns),)
        if number <= self._forgotten:
            raise BadMessageError("order", "too old to tell whether it is a duplicate")
        return False, ()

    def _forget(self) -> None:
        while sum(len(hole[6]) for hole in self._holes) > MAX_RANGES:
            missing: list[list[int]] = self._holes[0][6]
            self._forgotten = max(self._forgotten, missing.pop(0)[1])
            if not missing:
                self._holes.pop(0)

    def _gap(self, hole: list[Any], filled_ns: int = 0) -> Gap:
        frame_no, from_ns, to_ns, from_seq, to_seq, recovered, _ = hole
        expected = to_seq - from_seq + 1
        repaired_at = filled_ns // 1000 if recovered == expected else None
        times = (from_ns // 1000, to_ns // 1000)
        return Gap(frame_no, 1, *self._names, "sequence", *times, from_seq, to_seq, expected, recovered, repaired_at)


# The channel of a subscription of which only answers have come.
ANY = "*"


class Sequences:
    """The numbering of every subscription of one connection: from 1, by one, whatever kind of message carries it."""

    def __init__(self, feed: str, state: Mapping[str, Any]) -> None:
        self._feed = feed
        self._held: dict[int, list[Any]] = {int(sid): list(kept) for sid, kept in state.items()}

    def state(self) -> dict[str, Any]:
        """Return plain JSON: channel, last number and its arrival, by subscription."""
        return {str(sid): list(kept) for sid, kept in self._held.items()}

    def begin(self, sid: int, channel: str, recv_ns: int) -> None:
        """Take in that a subscription has begun: from here on its first number is known to be 1."""
        kept = self._held.get(sid)
        if kept is None:
            self._hold(sid, channel, 0, recv_ns)
        else:
            kept[0] = channel  # its first message overtook the confirmation

    def learn(self, sid: int, channel: str, recv_ns: int) -> None:
        """Take in that a message without a number came by a subscription, whose confirmation may be lost."""
        if sid not in self._held:
            self._hold(sid, channel, 0, recv_ns)

    def see(self, sid: int, number: int, frame: Frame, channel: str = ANY) -> tuple[bool, tuple[Gap, ...]]:
        """Return whether the number is new, and the gap that it reveals. Raises BadMessageError past the limit.

        The message's own channel, where it has one, counts for a subscription whose confirmation is not known.
        """
        kept = self._held.get(sid)
        if kept is None:
            self._hold(sid, channel, number, frame.recv_ns)
            return True, ()
        if kept[0] == ANY:
            kept[0] = channel
        channel, last, last_ns = kept
        if number <= last:
            return False, ()
        kept[1:] = number, frame.recv_ns
        if number == last + 1:
            return True, ()
        times = (last_ns // 1000 or None, frame.recv_ns // 1000)
        numbers = (last + 1, number - 1, number - last - 1)
        return True, (Gap(frame.frame_no, 1, self._feed, channel, f"sid {sid}", "sequence", *times, *numbers),)

    def holds(self, channel: str) -> bool:
        """Tell whether the channel has a subscription."""
        return any(kept[0] == channel for kept in self._held.values())

    def of(self, channel: str, but: int) -> list[int]:
        """Return the subscriptions of a channel, but for one."""
        return [sid for sid, kept in self._held.items() if kept[0] == channel and sid != but]

    def end(self, sid: int) -> str:
        """Forget one subscription; return its channel, "" where there is none."""
        return str(self._held.pop(sid, ("",))[0])

    def forget(self) -> None:
        """Forget them all: another connection numbers its subscriptions anew."""
        self._held.clear()

    def _hold(self, sid: int, channel: str, number: int, recv_ns: int) -> None:
        if len(self._held) >= MAX_SUBSCRIPTIONS:
            raise BadMessageError("bounds", f"more than {MAX_SUBSCRIPTIONS} subscriptions in one connection")
        self._held[sid] = [channel, number, recv_ns]


class Recent:
    """The last names seen, where names have no order: what is older than the window is new again."""

    def __init__(self, size: int, names: Iterable[str] = ()) -> None:
        self._size = size
        self._names = dict.fromkeys(names)

    def see(self, name: str) -> bool:
        """Return whether the name is new, and remember it."""
        if name in self._names:
            return False
        self._names[name] = None
        if len(self._names) > self._size:
            del self._names[next(iter(self._names))]
        return True

    def __contains__(self, name: str) -> bool:
        return name in self._names


class Latest:
    """The last value of each name among the last `size` changes of all names.

    A change is a row: the last rows of a table build the same memory again, wherever a restart falls. Values to begin
    with have their age before them: 1 is that of the newest row.
    """

    def __init__(self, size: int, values: Iterable[tuple[int, str, Any]] = ()) -> None:
        self._size = size
        self._count = 0
        oldest_first = sorted(values, key=lambda kept: -kept[0])
        self._values = {name: (1 - age, value) for age, name, value in oldest_first}

    def changes(self, name: str, value: Any) -> bool:  # noqa: ANN401  # whatever can be compared
        """Return whether the value is another than the last of this name, and remember it."""
        kept = self._values.get(name)
        if kept is not None and kept[1] == value:
            return False
        self._values.pop(name, None)
        self._count += 1
        self._values[name] = (self._count, value)
        while self._values[first := next(iter(self._values))][0] <= self._count - self._size:
            del self._values[first]
        return True
