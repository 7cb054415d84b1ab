"""Frames in, a batch out: every frame gets exactly one outcome, and the books of the batch add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from recio_ingest import feeds, strikes
from recio_ingest.errors import BadMessageError
from recio_ingest.momentum import Windows
from recio_ingest.records import (
    DAEMON_FEED,
    Batch,
    BtcPrice,
    Decoded,
    Frame,
    Gap,
    Kind,
    Micros,
    Newest,
    Outcome,
    Quarantined,
    Repaired,
    Row,
    Rows,
    is_repair,
)


class Decoder:
    """Holds one parser per feed. Pure: the same frames on the same state and tables give the same batch.

    `recalled` is what the tables hold for the parsers and the ladder (`recall`), `prices` for the windows
    (`momentum.wanted`).
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        recalled: feeds.Recalled | None = None,
        prices: Iterable[Sequence[Any]] = (),
    ) -> None:
        self._recalled = recalled or {}
        self._parsers = {name: self._parser(name, kept) for name, kept in state.get("feeds", {}).items()}
        self._windows = Windows(state.get("windows", ()), prices)
        self._last_ns: int | None = state.get("last_ns")
        self._ladder = strikes.Ladder(feeds.spot_sources(), state.get("spots", {}), self._recalled)

    def decode(self, frames: Sequence[Frame]) -> Batch:
        """Return the batch of these frames (at least one, in order)."""
        outcomes: dict[tuple[str, Outcome], int] = defaultdict(int)
        given: list[Row | Gap | Quarantined | Repaired] = []
        newest: dict[str, tuple[int, Micros]] = {}
        for frame in frames:
            try:
                outcome, rows, venue_time = self.decode_one(frame)
                if rows:
                    given += self._derived(frame, rows)
            except BadMessageError as exc:
                given += (_quarantined(frame, exc.reason, str(exc)), *exc.rows)
                outcome, venue_time = Outcome.QUARANTINED, None
            except Exception as exc:  # noqa: BLE001  # a parser's bug costs that frame, never the stream
                given.append(_quarantined(frame, "bug", repr(exc)))
                outcome, venue_time = Outcome.QUARANTINED, None
            feed, recv_ns = frame.feed, frame.recv_ns
            self._last_ns = recv_ns
            outcomes[feed, outcome] += 1
            if venue_time is not None:
                newest[feed] = (recv_ns, venue_time)
        counts = dict.fromkeys(Outcome, 0)
        for (_, outcome), count in outcomes.items():
            counts[outcome] += count
        return Batch(
            first_no=frames[0].frame_no,
            last_no=frames[-1].frame_no,
            frames=list(frames),
            state=self.state(),
            counts=counts,
            tables=_tables(given),
            quarantine=[row for row in given if isinstance(row, Quarantined)],
            outcomes=dict(outcomes),
            newest={name: Newest(*pair) for name, pair in newest.items()},
            ledger=_ledger(given),
        )

    def _derived(self, frame: Frame, rows: Rows) -> Sequence[Row | Gap | Quarantined | Repaired]:
        """Return a frame's rows after those of earlier ones; nothing is compared with what was fetched again."""
        if is_repair(frame):
            return rows
        return [self._windows.derive(row) if type(row) is BtcPrice else row for row in rows]

    def decode_one(self, frame: Frame) -> Decoded:
        """Return what one frame gives, without derived columns: alone, a frame has no earlier ones.

        Raises BadMessageError, or whatever a parser's bug raises.
        """
        parser = self._parsers.get(frame.feed)
        if parser is None:
            if frame.feed == DAEMON_FEED:
                return self._mark(frame)
            if frame.feed not in feeds.NAMES:
                raise BadMessageError("unknown_type", "no venue has messages of this shape")
            parser = self._parsers[frame.feed] = self._parser(frame.feed, {})
        decoded = parser.decode(frame)
        if decoded.rows:
            self._ladder.see(decoded.rows)
        return decoded

    def state(self) -> dict[str, Any]:
        """Return all that the next frame's decoding depends on, as plain JSON."""
        parsers = {name: parser.state() for name, parser in self._parsers.items()}
        derived = {"windows": self._windows.state(), "spots": self._ladder.state()}
        return {"last_ns": self._last_ns, "feeds": parsers, **derived}

    def _parser(self, name: str, state: Mapping[str, Any]) -> feeds.Parser:
        venue = feeds.load(name)
        return venue.parser(state, {each: self._recalled.get(each, ()) for each in venue.RECALL})

    def _mark(self, frame: Frame) -> Decoded:
        if frame.kind == Kind.TICK:
            return Decoded(Outcome.CONTROL, self._ladder.at(frame))
        if frame.kind == Kind.DATA:  # out of the quarantine, alone: what the second had is no longer known
            raise BadMessageError("bug", "a mark of the daemon cannot be decoded alone")
        return Decoded(Outcome.CONTROL, self._lost(frame) if frame.kind == Kind.LOST else ())

    def _lost(self, frame: Frame) -> Rows:
        """Return the gap in the frames, and those of the feeds that cannot go on as if nothing had been in it."""
        lost = orjson.loads(frame.data)
        more = tuple(row for parser in self._parsers.values() for row in parser.decode(frame).rows)
        from_time = (frame.recv_ns if self._last_ns is None else self._last_ns) // 1000
        numbers = (lost["from_no"], lost["to_no"])
        whole = Gap(frame.frame_no, 0, "*", "*", "spool", lost["cause"], from_time, frame.recv_ns // 1000, *numbers)
        return (whole, *more)


def recall() -> tuple[str, ...]:
    """Return the statements that a decoder wants the rows of."""
    return (*feeds.recall(), *strikes.RECALL)


def _tables(given: Iterable[object]) -> dict[type[Row], list[Row]]:
    tables: dict[type[Row], list[Row]] = defaultdict(list)
    for row in given:
        if isinstance(row, Row):
            tables[type(row)].append(row)
    return dict(tables)


def _ledger(given: Iterable[object]) -> list[Gap | Repaired]:
    """Return a gap's newest state before each answer and after the last."""
    ledger: dict[tuple[int, ...], Gap | Repaired] = {}
    answers = 0
    for row in given:
        if isinstance(row, Gap):
            ledger[row.frame_no, row.gap_no, answers] = row
        elif isinstance(row, Repaired):
            ledger[(answers,)] = row
            answers += 1
    return list(ledger.values())


def _quarantined(frame: Frame, reason: str, detail: str) -> Quarantined:
    return Quarantined(frame.frame_no, 0, frame.feed, frame.recv_ns // 1000, reason, detail, frame.data)
