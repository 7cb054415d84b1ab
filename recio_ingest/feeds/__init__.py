"""The venues: what the daemon needs to know about each, and nothing that it can do.

A venue is one module of this package. It is pure: no socket, no clock, no log, no database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from recio_ingest.records import Decoded, Frame, Micros
from recio_ingest.settings import Feeds

NAMES = ("coinbase", "kalshi")
"""Every venue whose messages are understood, in the order in which a file's messages are offered to them."""

# Those that can be connected; the others' messages can be replayed, and come to nothing else yet.
_LIVE = ("coinbase",)


class Greeting(NamedTuple):
    """What a message says about a subscription that was asked for: confirmed, refused, or neither."""

    confirmed: bool = False
    refused: str = ""


class Parser(Protocol):
    """Turns the frames of one feed, in order, into rows. Its state is plain JSON and is all that it remembers."""

    def decode(self, frame: Frame) -> Decoded:
        """Return what the frame gives. Raises BadMessageError, with the state as it was, where it is of no use."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that the next frame's decoding depends on."""
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """One venue's live stream as configured."""

    name: str
    url: str
    idle_timeout_s: float
    """Without any message for this long, the connection is dead."""
    describe: Mapping[str, Any]
    """What the *connected* mark of each connection says: the products or series asked for."""
    subscribe: Sequence[bytes]
    """The messages to send first."""
    greet: Callable[[bytes], Greeting]
    """Reads the answers to those."""


class Venue(Protocol):
    """What every module of this package offers."""

    NAME: str

    def parser(self, state: Mapping[str, Any]) -> Parser:
        """Return a parser that goes on from a committed state (empty: from the beginning)."""
        ...

    def recognises(self, message: Any) -> bool:  # noqa: ANN401  # any JSON value
        """Tell whether a message has this venue's shape (for files of bare messages)."""
        ...

    def venue_time(self, message: Any) -> Micros | None:  # noqa: ANN401  # any JSON value
        """Return the venue's own time of a message, where it has one (for files without arrival times)."""
        ...


class LiveVenue(Venue, Protocol):
    """What a venue offers that can be connected."""

    def feed(self, settings: Any) -> Feed:  # noqa: ANN401  # the venue's own section
        """Return the live stream that the venue's section of the configuration asks for."""
        ...


def load(name: str) -> Venue:
    """Return the venue of that name. Raises KeyError."""
    if name not in NAMES:
        raise KeyError(name)
    module: Any = import_module(f"{__name__}.{name}")
    return module  # type: ignore[no-any-return]  # what mypy cannot see of a module


def configured(settings: Feeds) -> list[Feed]:
    """Return the live streams that the configuration asks for."""
    streams: list[Feed] = []
    for name in _LIVE:
        section = getattr(settings, name)
        if section.enabled:
            streams.append(cast("LiveVenue", load(name)).feed(section))
    return streams
