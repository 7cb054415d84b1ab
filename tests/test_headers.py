"""What a venue's headers say of its clock and of its patience, whatever they hold."""

from __future__ import annotations

import math
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from prometheus_client import REGISTRY
from websockets.datastructures import Headers

from recio_ingest.headers import MAX_WAIT_S, note_clock, wait_asked_s


def skew_metric(feed: str) -> float | None:
    """The gauge of a feed's clock skew."""
    return REGISTRY.get_sample_value("recio_ingest_clock_skew_seconds", {"feed": feed})


@pytest.mark.parametrize("ahead_s", [-7200, -30, 30, 7200])
def test_a_clock_that_is_off_is_told_by_the_date(ahead_s: int) -> None:
    """The skew is this machine's time minus the Date, to a second, and it is the metric too."""
    skew_s = note_clock("off", {"Date": formatdate(time.time() - ahead_s, usegmt=True)})
    assert skew_s is not None
    assert abs(skew_s - ahead_s) < 2
    assert skew_metric("off") == skew_s


def test_the_part_of_a_second_that_the_date_leaves_out_is_no_skew() -> None:
    """A clock within the second that the header cuts off is right."""
    skew_s = note_clock("right", {"Date": formatdate(math.floor(time.time()), usegmt=True)})
    assert skew_s == 0 or (skew_s is not None and 1 <= skew_s < 1.5)  # the second may have passed meanwhile


def test_a_date_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-0000` says that the zone is unknown; the machine's own zone must not be put in its place."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        skew_s = note_clock("zone", {"Date": formatdate(time.time() - 100).replace("+0000", "-0000")})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert skew_s is not None
    assert abs(skew_s - 100) < 2


HOSTILE = st.text(max_size=40) | st.from_regex(
    r"\A(Mon, )?[0-9]{1,3} (Jan|Feb|Foo) [0-9]{1,12} [0-9]{1,3}:[0-9]{1,3}(:[0-9]{1,3})? (GMT|[+-][0-9]{1,9}|)\Z"
)


@given(HOSTILE)
def test_any_date_is_a_time_or_none(value: str) -> None:
    """Whatever stands in Date, nothing is raised, and what comes back is a number."""
    skew_s = note_clock("hostile", {"Date": value})
    assert skew_s is None or math.isfinite(skew_s)


@given(st.text(max_size=20) | st.floats().map(str) | st.integers().map(str))
def test_any_retry_after_is_a_bounded_wait(value: str) -> None:
    """Whatever stands in Retry-After, the wait is between none and an hour."""
    assert 0.0 <= wait_asked_s({"Retry-After": value}) <= MAX_WAIT_S


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", 0.0), ("inf", MAX_WAIT_S), ("1e9", MAX_WAIT_S), ("soon", 0.0)],
)
def test_retry_after_in_seconds(value: str, wait_s: float) -> None:
    """Seconds count, within bounds; what is no number of seconds asks for nothing."""
    assert wait_asked_s({"Retry-After": value}) == wait_s


def test_no_headers() -> None:
    """An answer without them says nothing of the clock, and asks for nothing."""
    assert (note_clock("none", {}), wait_asked_s({})) == (None, 0.0)


@pytest.mark.parametrize("make", [Headers, CIMultiDict])
def test_headers_that_stand_there_twice(make: type[Headers | CIMultiDict[str]]) -> None:
    """Two Dates and two Retry-Afters raise nothing, neither from the socket's headers nor from those of REST."""
    headers = make([("Date", formatdate()), ("Date", "x"), ("Retry-After", "5"), ("Retry-After", "6")])
    assert note_clock("twice", headers) in {None, 0.0}
    assert wait_asked_s(headers) in {0.0, 5.0}
