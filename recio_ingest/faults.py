"""What an error from the database means, decided from its SQLSTATE alone.

Source: PostgreSQL, appendix A "Error Codes"; each code below was seen with asyncpg.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """The classes of trouble, and with them what the shipper does."""

    CONNECTION = "connection"
    """Lost, or not to be had: back off, connect, read the offset, go on. For ever."""
    TRANSIENT = "transient"
    """Rolled back for a passing reason: the same, and smaller batches after a time-out."""
    RESOURCES = "resources"
    """Disk, memory or connections are used up: keep spooling, look again every 30 s."""
    CONFIGURATION = "configuration"
    """Permission, table or column is missing: keep spooling, shout, look again every 30 s."""
    BAD_ROW = "bad_row"
    """One row cannot be stored: find it, quarantine it, keep its neighbours."""


_BY_STATE = {
    "25006": Fault.CONNECTION,  # read-only: a standby or a demoted primary; connect again, elsewhere
    "40001": Fault.TRANSIENT,
    "40P01": Fault.TRANSIENT,
    "55P03": Fault.TRANSIENT,  # lock_timeout
    "57014": Fault.TRANSIENT,  # statement_timeout
    "55006": Fault.TRANSIENT,
    "28P01": Fault.CONFIGURATION,
    "28000": Fault.CONFIGURATION,
    "3D000": Fault.CONFIGURATION,
}
_BY_CLASS = {
    "08": Fault.CONNECTION,
    "57": Fault.CONNECTION,  # 57P01 to 57P03: shutting down, crashed, starting up
    "58": Fault.RESOURCES,
    "40": Fault.TRANSIENT,
    "53": Fault.RESOURCES,
    "XX": Fault.RESOURCES,
    "22": Fault.BAD_ROW,
    "23": Fault.BAD_ROW,
    "21": Fault.BAD_ROW,
    "54": Fault.BAD_ROW,  # a text of 3 kB that an index has no room for
}


def classify(exc: BaseException) -> Fault:
    """Return the class of an error that a database call raised.

    An error with no SQLSTATE is the client's: a value that it could not encode is a bad row, everything else is
    a lost connection. An unknown SQLSTATE is a fault of configuration: it stops shipping, never collecting.
    """
    state = sqlstate(exc)
    if type(exc).__name__ == "ClientConfigurationError":  # asyncpg's word for a DSN that makes no sense: a ValueError
        return Fault.CONFIGURATION
    if state is None:
        # asyncpg raises these while it encodes a row for COPY (lone surrogate, int out of range, wrong type)
        return Fault.BAD_ROW if isinstance(exc, (TypeError, ValueError, OverflowError)) else Fault.CONNECTION
    if state == "23514" and not getattr(exc, "constraint_name", None):
        # "no partition of relation": the code of a failed CHECK, but no CHECK is named
        return Fault.CONFIGURATION
    return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], Fault.CONFIGURATION)


def sqlstate(exc: BaseException) -> str | None:
    """Return the SQLSTATE of an error, or None where the server did not send it."""
    state = getattr(exc, "sqlstate", None)
    return state if isinstance(state, str) else None
