"""The venues: what the daemon needs to know about each, and nothing that it can do.

A venue is pure: no socket, no clock, no log, no database. What it has to say to its venue it says by returning it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from recio_ingest.records import Decoded, Frame, Micros, SpotSource
from recio_ingest.settings import Feeds
from recio_ingest.settlement import Rule

NAMES = ("coinbase", "kalshi")
"""Every venue whose messages are understood, in the order in which a file's messages are offered to them."""

Recalled = Mapping[str, Sequence[Sequence[Any]]]
"""What the tables hold of earlier frames: the rows of named statements, the oldest first."""


class Parser(Protocol):
    """Turns the frames of one feed, in order, into rows.

    What it remembers is its state, plain JSON that every commit writes, and what it can read again from the tables.
    """

    def decode(self, frame: Frame) -> Decoded:
        """Return what the frame gives: one of the feed, or a mark of frames of all feeds that the spool has lost.

        Raises BadMessageError where it is of no use, with the state as it was but for its number in a numbering.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what the next frame's decoding depends on and no table holds."""
        ...


class Notice(NamedTuple):
    """Something that a person should know: one line in the log. `level` is info, warning or error."""

    level: str
    event: str
    facts: Mapping[str, Any]


class Conversation(Protocol):
    """What is said over one connection, beside the data. Times are seconds of a clock that only runs forward."""

    @property
    def ready(self) -> bool:
        """Whether all that was asked for, and can be had, is confirmed."""
        ...

    @property
    def trouble(self) -> str:
        """What is not confirmed and why, for people; empty where nothing is."""
        ...

    def say(self, now_s: float) -> Sequence[bytes]:
        """Return the messages to send now. Raises RefusedError where going on is of no use."""
        ...

    def listens(self, data: bytes) -> bool:
        """Tell, in well under a microsecond, whether `hear` wants this message."""
        ...

    def hear(self, data: bytes, now_s: float) -> Sequence[Notice]:
        """Take an answer in; a message that is none says nothing. Raises RefusedError where the venue refuses all."""
        ...

    def resumed(self, paused_s: float) -> None:
        """Take in that for so long, and until now, nothing was read: the silence was this side's."""
        ...

    def end(self) -> None:
        """Take in that the connection is gone."""
        ...


class Request(NamedTuple):
    """One question to a venue's REST: a path under its root, and the query."""

    path: str
    query: Mapping[str, str]
    about: str = ""
    """What the venue's module has to remember of it until the answer."""


class Enquiry(Protocol):
    """What is asked by REST, again and again, to know what there is to follow."""

    @property
    def trouble(self) -> str:
        """What the answers lack, for people; empty where nothing is."""
        ...

    def due(self, now_s: float) -> Request | None:
        """Return what to ask now, if anything."""
        ...

    def take(self, request: Request, answer: bytes, now_s: float) -> Request | None:
        """Take the answer in; return the request for its next page. Raises BadMessageError for another shape."""
        ...


class Missing(NamedTuple):
    """A gap of the ledger that can be asked for; `(frame_no, gap_no)` names it.

    Sequences: both ends are missing. `parts` are what one question can be about: the product, the markets.
    """

    frame_no: int
    gap_no: int
    channel: str
    from_time: Micros
    to_time: Micros
    from_seq: int | None
    to_seq: int | None
    parts: Sequence[str]


class Page(NamedTuple):
    """What an answer for a gap leads to: the next question, or the end (`records.Repaired`)."""

    following: Request | None
    end: str = ""


class Repair(Protocol):
    """What is asked by REST for a gap."""

    GAPS: str
    """The statement that finds the gaps, with the columns of `Missing`."""
    SETTLE_S: float
    """How long after its end a gap is left alone: what is late may still come, and REST may be behind."""

    def first(self, gap: Missing) -> Request:
        """Return the first question."""
        ...

    def take(self, gap: Missing, request: Request, answer: bytes) -> Page:
        """Take an answer in. Raises BadMessageError for another shape."""
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """One venue's live stream as configured."""

    name: str
    url: str
    """The socket; empty where there is none, and REST is all."""
    idle_timeout_s: float
    """Without any message for this long, the connection is dead."""
    describe: Mapping[str, Any]
    """What the *connected* mark of each connection says: the products or series asked for."""
    converse: Callable[[], Conversation]
    """Begins what is said over a new connection."""
    rest_url: str = ""
    proxy: bool = False
    """Whether the proxy that the environment names is used, for the socket and for REST."""
    enquiry: Enquiry | None = None
    repair: Repair | None = None
    key_file: str = ""
    sign: Callable[[bytes, int], Mapping[str, str]] | None = None
    """The headers of a handshake, from the key file's bytes and the time (ms). Raises ConfigError for another key."""
    advise: Callable[[bytes], str] = lambda _: "is the venue up? the daemon goes on trying"
    """What to do about a refused handshake, from the answer's body."""
    warning: str = ""
    """What this configuration cannot have; said once, at the start."""


class Venue(Protocol):
    """What every module of this package offers."""

    NAME: str
    RECALL: Sequence[str]
    """The statements whose rows, in this order of columns, its parser wants to have back at every start."""
    SPOTS: Sequence[SpotSource]
    """Which of its prices say where Bitcoin stands."""
    RULES: Sequence[Rule]
    """How its events are settled, as far as that can be checked from what is recorded."""

    def parser(self, state: Mapping[str, Any], recalled: Recalled) -> Parser:
        """Return a parser that goes on from a committed state (empty: from the beginning)."""
        ...

    def feed(self, settings: Any) -> Feed:  # noqa: ANN401  # the venue's own section
        """Return the live stream that the venue's section of the configuration asks for."""
        ...

    def recognises(self, message: Any) -> bool:  # noqa: ANN401  # any JSON value
        """Tell whether a message has this venue's shape (for files of bare messages)."""
        ...

    def venue_time(self, message: Any) -> Micros | None:  # noqa: ANN401  # any JSON value
        """Return the venue's own time of a message, where it has one (for files without arrival times)."""
        ...


def load(name: str) -> Venue:
    """Return the venue of that name. Raises KeyError."""
    if name not in NAMES:
        raise KeyError(name)
    module: Any = import_module(f"{__name__}.{name}")
    return module  # type: ignore[no-any-return]  # what mypy cannot see of a module


def recall() -> tuple[str, ...]:
    """Return the statements that all venues want the rows of."""
    return tuple(name for venue in NAMES for name in load(venue).RECALL)


def spot_sources() -> tuple[SpotSource, ...]:
    """Return what all venues have to say where Bitcoin stands, the best first."""
    return tuple(sorted((spot for venue in NAMES for spot in load(venue).SPOTS), key=lambda spot: spot.rank))


def rules() -> tuple[Rule, ...]:
    """Return how the events of all venues are settled."""
    return tuple(rule for venue in NAMES for rule in load(venue).RULES)


def configured(settings: Feeds) -> list[Feed]:
    """Return the live streams that the configuration asks for."""
    sections = [(name, getattr(settings, name)) for name in NAMES]
    return [load(name).feed(section) for name, section in sections if section.enabled]
