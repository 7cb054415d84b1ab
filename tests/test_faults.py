"""What each error of the database means."""

from __future__ import annotations

import asyncpg
import pytest

from recio_ingest.faults import Fault, classify, sqlstate

BY_STATE = {
    "08000": Fault.CONNECTION,
    "08003": Fault.CONNECTION,
    "08006": Fault.CONNECTION,
    "25006": Fault.CONNECTION,  # a standby
    "57P01": Fault.CONNECTION,
    "57P02": Fault.CONNECTION,
    "57P03": Fault.CONNECTION,
    "40001": Fault.TRANSIENT,
    "40P01": Fault.TRANSIENT,
    "55P03": Fault.TRANSIENT,
    "55006": Fault.TRANSIENT,
    "57014": Fault.TRANSIENT,
    "53100": Fault.RESOURCES,
    "53200": Fault.RESOURCES,
    "53300": Fault.RESOURCES,
    "58030": Fault.RESOURCES,
    "XX001": Fault.RESOURCES,
    "28000": Fault.CONFIGURATION,
    "28P01": Fault.CONFIGURATION,
    "3D000": Fault.CONFIGURATION,
    "42501": Fault.CONFIGURATION,
    "42703": Fault.CONFIGURATION,
    "42P01": Fault.CONFIGURATION,
    "0A000": Fault.CONFIGURATION,
    "22021": Fault.BAD_ROW,
    "22003": Fault.BAD_ROW,
    "22P02": Fault.BAD_ROW,
    "23502": Fault.BAD_ROW,
    "23505": Fault.BAD_ROW,
    "54000": Fault.BAD_ROW,
}


def error(state: str, **facts: str) -> asyncpg.PostgresError:
    """Return the driver's own error for what a server says."""
    fields = {"C": state, "S": "ERROR", "M": "words that must not matter"}
    return asyncpg.PostgresError.new(fields | facts)


@pytest.mark.parametrize(("state", "fault"), BY_STATE.items())
def test_the_state_decides(state: str, fault: Fault) -> None:
    """Each SQLSTATE, as the driver raises it, has the class that the shipper's answer needs."""
    assert (sqlstate(error(state)), classify(error(state))) == (state, fault)


def test_a_missing_partition_is_no_bad_row() -> None:
    """23514 names a CHECK where a row broke one, and none where there is no partition for the row."""
    assert classify(error("23514", n="side_is_taker")) is Fault.BAD_ROW
    assert classify(error("23514")) is Fault.CONFIGURATION


def test_an_unknown_state_stops_shipping() -> None:
    """A SQLSTATE that nobody has heard of is waited out, and never costs a row."""
    assert classify(error("ZZ999")) is Fault.CONFIGURATION


@pytest.mark.parametrize(
    "exc",
    [TypeError(), ValueError(), OverflowError(), UnicodeEncodeError("utf-8", "\ud800", 0, 1, ""), asyncpg.DataError()],
    ids=repr,
)
def test_what_cannot_be_encoded_is_a_bad_row(exc: Exception) -> None:
    """A value that the client cannot encode is the row's fault, not the line's."""
    assert classify(exc) is Fault.BAD_ROW


@pytest.mark.parametrize(
    "exc",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(),
        asyncpg.InterfaceError("closed"),
        asyncpg.InternalClientError(),
    ],
    ids=repr,
)
def test_everything_else_without_a_state_is_the_line(exc: Exception) -> None:
    """An error that the server did not send means that there is no server to talk to."""
    assert (sqlstate(exc), classify(exc)) == (None, Fault.CONNECTION)
