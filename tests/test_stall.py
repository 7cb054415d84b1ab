"""When a channel is taken for silent."""

from __future__ import annotations

from recio_ingest.feeds.stall import Watch


def test_armed_from_the_beginning() -> None:
    """What never came is silent after the first limit; what is not expected never is."""
    watch = Watch(first_s=60, least_s=10, most_s=300)
    assert watch.silent_s(1000) == 0
    watch.arm(1000)
    assert (watch.silent_s(1060), watch.silent_s(1061)) == (0, 61)
    watch.rest()
    assert watch.silent_s(9000) == 0


def test_one_long_pause_is_soon_forgotten() -> None:
    """The newest pauses count: after some dozens the limit is that of the rate now."""
    watch = Watch(first_s=60, least_s=1, most_s=300)
    watch.arm(0)
    watch.saw(100)
    for number in range(1, 101):
        watch.saw(100 + number)
    assert round(watch.limit_s) == 20
    assert watch.silent_s(220) == 0
    assert watch.silent_s(221) == 21
