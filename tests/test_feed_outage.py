"""When a feed was not received: which gaps are declared, for which channels, with which bounds."""

from __future__ import annotations

from typing import Any

import orjson
from samples import START_NS, control, data

from recio_ingest.feeds.outage import WHOLE, Outage
from recio_ingest.records import Gap, Kind

START_US = START_NS // 1000


class Line:
    """The line of a feed, which passes through JSON before every message and mark."""

    def __init__(self, *channels: str) -> None:
        self.state: dict[str, Any] = {}
        self.channels = channels or (WHOLE,)

    def _outage(self) -> Outage:
        return Outage("f", self.state, self.channels, frozenset({"index"}))

    def hear(self, frame_no: int, channel: str | None = WHOLE, venue_ms: int | None = None) -> tuple[Gap, ...]:
        """Take a message in; its venue's time is its arrival unless given in milliseconds after the start."""
        line, frame = self._outage(), data(frame_no, b"")
        venue_time = frame.recv_ns // 1000 if venue_ms is None else START_US + venue_ms * 1000
        gaps = line.seen(frame, channel, venue_time)
        self.state = orjson.loads(orjson.dumps(line.state()))
        return gaps

    def confirm(self, frame_no: int, channel: str) -> tuple[Gap, ...]:
        """Take in that a channel is subscribed to; that has no venue's time."""
        line = self._outage()
        gaps = line.seen(data(frame_no, b""), channel, None)
        self.state = orjson.loads(orjson.dumps(line.state()))
        return gaps

    def lose(self, frame_no: int, channel: str) -> tuple[Gap, ...]:
        """Take in that a channel has ended."""
        line = self._outage()
        gaps = line.lose(data(frame_no, b""), channel, "channel_lost")
        self.state = orjson.loads(orjson.dumps(line.state()))
        return gaps

    def expect(self, frame_no: int, *channels: str) -> tuple[Gap, ...]:
        """Take in what a connection is to bring."""
        line = self._outage()
        gaps = line.expect(data(frame_no, b""), channels)
        self.state = orjson.loads(orjson.dumps(line.state()))
        return gaps

    def told(self, frame_no: int, kind: Kind, cause: str | None = None) -> tuple[Gap, ...]:
        """Take a mark in."""
        line = self._outage()
        gaps = line.mark(control(frame_no, kind, **({} if cause is None else {"cause": cause})))
        self.state = orjson.loads(orjson.dumps(line.state()))
        return gaps


def outage(frame_no: int, cause: str, from_ms: int, to_ms: int | None = None, **which: Any) -> Gap:
    """Return a connection gap, times in milliseconds after the start."""
    to_time = None if to_ms is None else START_US + to_ms * 1000
    return Gap(frame_no, 0, "f", WHOLE, "connection", cause, START_US + from_ms * 1000, to_time)._replace(**which)


def test_an_outage_lasts_from_message_to_message() -> None:
    """It begins at the last message before the end of the connection and ends at the first one after."""
    line = Line()
    assert line.told(1, Kind.CONNECTED) == ()
    assert line.hear(2) == ()
    assert line.told(9, Kind.DISCONNECTED, cause="reset") == (outage(9, "reset", 2),)
    assert line.told(20, Kind.CONNECTED) == ()
    assert line.hear(25) == (outage(9, "reset", 2, 25),)
    assert line.hear(26) == ()


def test_a_clock_that_is_behind_ends_no_gap_too_early() -> None:
    """The bounds hold by this clock and by the venue's, by which the venue is asked for what was missed."""
    line = Line()
    line.hear(2, venue_ms=62)
    assert line.told(3, Kind.DISCONNECTED, "reset") == (outage(3, "reset", 2),)
    assert line.hear(5, venue_ms=65) == (outage(3, "reset", 2, 65),)
    line.hear(70, venue_ms=69)
    line.told(71, Kind.DISCONNECTED, "reset")
    assert line.hear(73, venue_ms=72) == (outage(71, "reset", 69, 73),), "set right, it is off no more"


def test_one_outage_however_many_attempts() -> None:
    """Connections that came and went without a message belong to the same gap, under its first cause."""
    line = Line()
    line.told(1, Kind.CONNECTED)
    line.hear(2)
    line.told(3, Kind.DISCONNECTED, cause="reset")
    assert [line.told(no, kind, cause="refused") for no in (4, 6) for kind in (Kind.CONNECTED, Kind.DISCONNECTED)] == (
        [()] * 4
    )
    line.told(8, Kind.CONNECTED)
    assert line.hear(9) == (outage(3, "reset", 2, 9),)


def test_a_killed_daemon_leaves_a_restart_gap() -> None:
    """Connected again without a mark of the end means that nobody was there to write it."""
    line = Line()
    line.told(1, Kind.CONNECTED)
    line.hear(2)
    assert line.told(50, Kind.CONNECTED) == (outage(50, "restart", 2),)
    assert line.hear(51) == (outage(50, "restart", 2, 51),)


def test_a_pause_is_a_gap_of_a_line_that_is_up() -> None:
    """A socket that is not read opens a gap; reading again closes it at the next message, without a restart."""
    line = Line()
    line.told(1, Kind.CONNECTED)
    line.hear(2)
    assert line.told(3, Kind.PAUSED, cause="spool_full") == (outage(3, "spool_full", 2),)
    assert line.told(7, Kind.RESUMED) == ()
    assert line.hear(8) == (outage(3, "spool_full", 2, 8),)
    assert line.told(9, Kind.CONNECTED) == (outage(9, "restart", 8),)


def test_before_the_first_message_nothing_was_missed() -> None:
    """Attempts to connect that never brought a message declare no gap."""
    line = Line()
    marks = ((1, Kind.CONNECTED), (2, Kind.DISCONNECTED), (3, Kind.CONNECTED), (4, Kind.CONNECTED))
    assert [line.told(frame_no, kind, cause="dns") for frame_no, kind in marks] == [()] * 4
    assert line.hear(5) == ()


def test_a_mark_without_a_cause_is_still_an_outage() -> None:
    """A mark that says nothing about its cause opens a gap all the same."""
    line = Line()
    line.hear(2)
    assert line.told(3, Kind.DISCONNECTED) == (outage(3, "unknown", 2),)


def test_each_channel_is_missed_until_it_is_confirmed() -> None:
    """A connection that is let in brings nothing yet: a channel's gap lasts until its subscription, or its message."""
    line = Line("ticker", "trade")
    line.told(1, Kind.CONNECTED)
    line.confirm(2, "ticker")
    line.confirm(3, "trade")
    line.hear(4, "ticker")
    begun = line.told(5, Kind.DISCONNECTED, cause="reset")
    assert begun == (
        outage(5, "reset", 4, channel="ticker", gap_no=2),
        outage(5, "reset", 4, channel="trade", gap_no=3),
    )
    line.told(6, Kind.CONNECTED)
    assert line.confirm(7, "ticker") == (outage(5, "reset", 4, 7, channel="ticker", gap_no=2),)
    assert line.hear(8, "ticker") == ()
    assert line.hear(9, "trade") == (outage(5, "reset", 4, 9, channel="trade", gap_no=3),)


def test_a_channel_that_never_was_is_not_missed() -> None:
    """What the venue never gave was not lost; what it gave once and does not give again is, until it does."""
    line = Line("ticker", "index")
    line.told(1, Kind.CONNECTED)
    line.hear(2, "ticker")
    assert line.told(3, Kind.DISCONNECTED, cause="reset") == (outage(3, "reset", 2, channel="ticker", gap_no=2),)
    line.told(4, Kind.CONNECTED)
    line.hear(5, "ticker")
    assert line.confirm(6, "index") == ()
    assert [gap.channel for gap in line.told(7, Kind.DISCONNECTED, cause="reset")] == ["ticker", "index"]


def test_one_channel_ends_alone() -> None:
    """A channel that the venue takes away is missed from its own last message on, the others are not."""
    line = Line("ticker", "trade")
    line.told(1, Kind.CONNECTED)
    line.hear(2, "ticker")
    line.hear(3, "trade")
    assert line.lose(4, "ticker") == (outage(4, "channel_lost", 2, channel="ticker", gap_no=2),)
    assert line.hear(5, "trade") == ()
    assert line.hear(6, "ticker") == (outage(4, "channel_lost", 2, 6, channel="ticker", gap_no=2),)


def test_only_messages_with_a_time_prove_anything() -> None:
    """An acknowledgement may overtake what was sent before it: the gap begins at the last message with a time."""
    line = Line("ticker")
    line.told(1, Kind.CONNECTED)
    line.hear(2, "ticker", venue_ms=1)
    line.confirm(8, "ticker")
    assert line.told(9, Kind.DISCONNECTED, cause="reset") == (outage(9, "reset", 1, channel="ticker", gap_no=2),)


def test_a_numbered_channel_is_missed_from_its_own_last_message() -> None:
    """In a numbered channel nothing after its own last message is known to be complete, whatever came by others."""
    line = Line("ticker", "index")
    line.told(1, Kind.CONNECTED)
    line.hear(1050, "index", venue_ms=1000)
    line.hear(2040, "ticker", venue_ms=2040)
    ticker, index = line.told(2045, Kind.DISCONNECTED, cause="restart")
    assert (ticker.from_time, index.from_time) == (START_US + 2_040_000, START_US + 1_000_000)


def test_a_message_without_a_time_was_sent_after_those_before_it() -> None:
    """A numbered channel whose messages have no time is missed from the last time that was known at its last one."""
    line = Line("ticker", "index")
    line.told(1, Kind.CONNECTED)
    line.hear(10, "ticker", venue_ms=10)
    line.confirm(11, "index")
    line.hear(2000, "ticker", venue_ms=1990)
    line.confirm(2005, "index")  # a message of it
    line.hear(3000, "ticker", venue_ms=2990)
    _, index = line.told(3001, Kind.DISCONNECTED, cause="restart")
    assert index.from_time == START_US + 1_990_000


def test_what_is_no_longer_expected_is_no_longer_missed() -> None:
    """A feed that changes from questions to a socket ends the gap of the questions."""
    line = Line("ticker", "rest")
    line.told(1, Kind.CONNECTED)
    line.hear(2, "rest")
    line.told(3, Kind.DISCONNECTED, cause="shutdown")
    line.told(4, Kind.CONNECTED)
    assert line.expect(5, "ticker") == (outage(3, "shutdown", 2, 5, channel="rest", gap_no=3),)


def test_a_pause_of_many_channels_ends_at_once() -> None:
    """What waited while nothing was read comes in order: the first message shows that all channels are back."""
    line = Line("ticker", "trade")
    line.told(1, Kind.CONNECTED)
    line.hear(2, "ticker")
    line.hear(3, "trade")
    assert len(line.told(4, Kind.PAUSED, cause="spool_full")) == 2
    line.told(5, Kind.RESUMED)
    assert [gap.channel for gap in line.hear(6, "ticker")] == ["ticker", "trade"]
