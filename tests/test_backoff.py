"""The waiting times between attempts."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recio_ingest.backoff import Pace, Waits, delays


@given(st.floats(0.01, 10), st.floats(10, 1000))
def test_each_delay_is_bounded(first_s: float, cap_s: float) -> None:
    """The n-th wait is at least half and at most all of first times 2 to the n, and never more than the cap."""
    for attempt, delay_s in enumerate(islice(delays(first_s, cap_s), 40)):
        full_s = min(first_s * 2**attempt, cap_s)
        assert full_s / 2 <= delay_s <= full_s


def test_clients_do_not_come_back_in_step() -> None:
    """Two clients that lost the same server at once wait different times."""
    assert list(islice(delays(1, 30), 10)) != list(islice(delays(1, 30), 10))


def test_each_cause_has_its_own_waits() -> None:
    """A refused key begins at half a minute, whatever the waits before it were; a restart is followed at once."""
    waits = Waits((1.0, 8.0))
    assert [0.5 * 2**n <= waits.next_s("reset") <= 2**n for n in range(4)] == [True] * 4
    assert 15 <= waits.next_s("unauthorised") <= 30
    assert 30 <= waits.next_s("key") <= 60
    assert 2.5 <= waits.next_s("rate_limited") <= 5
    assert 5 <= waits.next_s("policy") <= 10
    assert 2.5 <= waits.next_s("server_error") <= 5
    assert 0.1 <= waits.next_s("going_away") <= 0.2


def test_causes_by_turns_shorten_nothing() -> None:
    """A venue that ends its connections in two ways by turns is waited for as long as one that has a single way."""
    waits = Waits((1.0, 8.0))
    for _ in range(10):
        pauses_s = waits.next_s("reset"), waits.next_s("going_away")
    assert pauses_s[0] >= 4
    assert pauses_s[1] >= 15


def test_a_good_attempt_begins_anew() -> None:
    """After a reset the first wait is the shortest again, also for a cause with waits of its own."""
    waits = Waits((1.0, 8.0))
    for cause, first_s in (("reset", 1.0), ("rate_limited", 5.0)):
        for _ in range(5):
            waits.next_s(cause)
        waits.reset()
        assert waits.next_s(cause) <= first_s


@given(st.floats(0, 3600))
def test_never_shorter_than_asked(asked_s: float) -> None:
    """The wait is at least what the venue asked for, and at least our own."""
    assert Waits((1.0, 8.0)).next_s("reset", asked_s) >= max(asked_s, 0.5)


def test_a_share_is_kept() -> None:
    """Some may come at once; what is over the rate waits until it is within it, and a pause is not saved up."""
    pace = Pace(1000, burst=500)
    assert [pace.wait_s(200, 0.0) for _ in range(4)] == [0.0, 0.0, 0.1, pytest.approx(0.3)]
    assert pace.wait_s(200, 0.5) == 0.0
    assert [pace.wait_s(400, 1000.0), pace.wait_s(400, 1000.0)] == [0.0, pytest.approx(0.3)]


def test_no_share_is_no_limit() -> None:
    """A feed that is alone takes what comes."""
    pace = Pace(0, burst=500)
    assert [pace.wait_s(10**9, 0.0) for _ in range(3)] == [0.0] * 3
