"""Every error that this program raises on purpose.

* `RecioError` - carries a `hint` for the operator and the exit code of a one-shot command
    * `ConfigError` - the configuration cannot be used (exit 78)
    * `BadInputError` - a file given on the command line cannot be used (exit 65)
    * `TryLaterError` - somebody else holds what is needed (exit 75)
        * `SpoolLockedError` - another daemon has this spool open
        * `OtherWriterError` - another daemon writes to this database
        * `FencedError` - another daemon took over while this one ran
    * `DatabaseUnavailableError` - one-shot commands only, the daemon waits (exit 69)
    * `SchemaError` - the database is not as the migrations left it (exit 78)
        * `PredecessorTablesError` - the predecessor's tables stand where ours go
    * `MovedError` - the offset row has to be read again (the shipper does)
    * `RolloverError` - a slice of rows did not arrive as it left, and stayed where it was
    * `SpoolError` - the spool cannot be written or read
    * `RefusedError` - a venue does not give what it was asked for
    * `BadMessageError` - a frame that its venue's parser cannot use
"""

from __future__ import annotations

from typing import Any

EXIT_FAILED, EXIT_USAGE, EXIT_BAD_DATA, EXIT_UNAVAILABLE, EXIT_TRY_LATER, EXIT_CONFIG = 1, 64, 65, 69, 75, 78


class RecioError(Exception):
    """Something failed in a way that an operator can act on."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str | None = None, *, hint: str = "") -> None:
        super().__init__(message or self.__doc__)
        self.hint = hint


class ConfigError(RecioError):
    """The configuration cannot be used."""

    exit_code = EXIT_CONFIG


class BadInputError(RecioError):
    """The input file cannot be used."""

    exit_code = EXIT_BAD_DATA


class TryLaterError(RecioError):
    """Somebody else holds what is needed."""

    exit_code = EXIT_TRY_LATER


class SpoolLockedError(TryLaterError):
    """Another recio-ingest has this spool open."""


class OtherWriterError(TryLaterError):
    """Another recio-ingest, with another spool, writes to this database."""


class FencedError(TryLaterError):
    """Another recio-ingest took over this database; this one has stopped writing."""


class DatabaseUnavailableError(RecioError):
    """The database cannot be reached."""

    exit_code = EXIT_UNAVAILABLE


class SchemaError(RecioError):
    """The database is not as the migrations left it."""

    exit_code = EXIT_CONFIG


class PredecessorTablesError(SchemaError):
    """The predecessor's own tables stand where this program's tables go."""


class MovedError(RecioError):
    """The offset row is not where this writer left it: the database is an older copy, or the last batch is in."""


class RolloverError(RecioError):
    """What arrived of a slice is not what left; nothing was moved."""


class SpoolError(RecioError):
    """The spool cannot be written or read."""


class RefusedError(RecioError):
    """The venue does not confirm the subscription."""


class PeerError(RecioError):
    """What a peer does is no use; `cause` is one of a fixed set of words (a metric label)."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class BadMessageError(RecioError):
    """A venue's message does not have the shape that its type promises.

    `reason` is one of a fixed set of words (a metric label): json, unknown_type, schema, bounds, future, order.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.rows: tuple[Any, ...] = ()
        """What the message shows although it is of no use: the gaps that its number reveals."""
