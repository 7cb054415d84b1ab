"""The waiting times between attempts."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from recio_ingest.backoff import delays


@given(st.floats(0.01, 10), st.floats(10, 1000))
def test_each_delay_is_bounded(first_s: float, cap_s: float) -> None:
    """The n-th wait is at least half and at most all of first times 2 to the n, and never more than the cap."""
    for attempt, delay_s in enumerate(islice(delays(first_s, cap_s), 40)):
        full_s = min(first_s * 2**attempt, cap_s)
        assert full_s / 2 <= delay_s <= full_s


def test_clients_do_not_come_back_in_step() -> None:
    """Two clients that lost the same server at once wait different times."""
    assert list(islice(delays(1, 30), 10)) != list(islice(delays(1, 30), 10))
