"""What a connection is judged by: data that flows, and whether it is JSON."""

from __future__ import annotations

import pytest

from recio_ingest.errors import PeerError
from recio_ingest.flow import COUNTED_S, GARBAGE, GARBAGE_WITHIN_S, Flow, Garbage


def test_data_that_flows_counts() -> None:
    """Ten seconds with a message in each are ten seconds of good data, less the first."""
    flow = Flow()
    for second in range(11):
        flow.heard(float(second))
    assert flow.flowed_s == 10


def test_one_message_is_no_flow() -> None:
    """A message, an hour of silence and another one are two seconds of good data."""
    flow = Flow()
    flow.heard(0.0)
    assert flow.flowed_s == 0
    flow.heard(3600.0)
    assert flow.flowed_s == COUNTED_S


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff\xfe", b"\x1f\x8b\x08", b"NaN", b" x"])
def test_too_much_garbage(data: bytes) -> None:
    """A hundred messages that are no JSON are borne within ten seconds; one more ends the connection."""
    garbage = Garbage()
    for _ in range(GARBAGE):
        garbage.heard(data, 0.0)
    with pytest.raises(PeerError) as caught:
        garbage.heard(data, GARBAGE_WITHIN_S)
    assert caught.value.cause == "garbage"


def test_a_little_garbage() -> None:
    """The count begins anew after ten seconds."""
    garbage = Garbage()
    for n in range(10 * GARBAGE):
        garbage.heard(b"<html>", n * (GARBAGE_WITHIN_S / (GARBAGE - 1)))


@pytest.mark.parametrize("data", [b"[]", b' {"type": "match"}', b'\n\t[{"a": 1}]'])
def test_what_could_be_json_is_none(data: bytes) -> None:
    """A list, or an object behind blanks, is no garbage, however often it comes."""
    garbage = Garbage()
    for _ in range(10 * GARBAGE):
        garbage.heard(data, 0.0)
