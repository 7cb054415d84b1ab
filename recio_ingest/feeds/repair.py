"""Answers of REST that fill gaps, as frames: which gap each is for, and the venue's own bytes.

A frame is `{"repair":{...},"answer":...}`: the answer may not say what it is about, and what a parser does with it must
depend on the frame alone. The bytes of an answer are put into it as they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Missing
from recio_ingest.records import REPAIR, Decoded, Frame, Gap, Outcome, Quarantined, Repaired, Row

# Enough to see what it was, a proxy's page for example.
_UNREADABLE_BYTES = 2000


class Answer(NamedTuple):
    """One answer: the gap that it is for, the part and the numbers that were asked for, and what came."""

    gap: tuple[int, int]
    part: str
    numbers: tuple[int, int] | None
    end: str
    found: list[Any]
    """Trades, or markets."""


def wrap(gap: Missing, part: str, end: str, answer: bytes = b"[]") -> bytes:
    """Return the frame of an answer that is JSON; without one it says how the asking ended."""
    return b"%s%s,%s:%s}" % (REPAIR, _head(gap, part, end), b'"answer"', answer)


def wrap_unreadable(gap: Missing, part: str, answer: bytes) -> bytes:
    """Return the frame of an answer that is no JSON, or not what was asked for: it goes to the quarantine."""
    text = orjson.dumps(answer[:_UNREADABLE_BYTES].decode(errors="replace"))
    return b"%s%s,%s:%s}" % (REPAIR, _head(gap, part, ""), b'"unreadable"', text)


def head(message: Any) -> dict[str, Any] | None:  # noqa: ANN401  # any JSON value
    """Return what an answer for a gap says of itself; None of any other message."""
    about = message.get("repair") if isinstance(message, dict) else None
    return about if isinstance(about, dict) and "numbers" in about else None


def _head(gap: Missing, part: str, end: str) -> bytes:
    numbers = None if gap.from_seq is None else [gap.from_seq, gap.to_seq]
    return orjson.dumps({"gap": [gap.frame_no, gap.gap_no], "part": part, "numbers": numbers, "end": end})


def read(frame: Frame) -> Answer:
    """Return what a frame holds. Raises BadMessageError for what `wrap` does not write."""
    try:
        message = orjson.loads(frame.data)
    except orjson.JSONDecodeError as exc:
        raise BadMessageError("json", str(exc)) from None
    try:
        head, answer = message["repair"], message["answer"]
        frame_no, gap_no = head["gap"]
        numbers = None if head["numbers"] is None else tuple(head["numbers"])
        found = Answer((frame_no, gap_no), head["part"], numbers, head["end"], _found(answer))
    except (KeyError, TypeError, ValueError):
        raise BadMessageError("schema", "not an answer for a gap, or one that cannot be read") from None
    whole = (frame_no, gap_no, *(found.numbers or ()))
    if any(type(number) is not int for number in whole) or len(whole) not in (2, 4):
        raise BadMessageError("schema", "a gap is named by whole numbers")
    if type(found.part) is not str or type(found.end) is not str:
        raise BadMessageError("schema", "part and end are text")
    return found


def _found(answer: Any) -> list[Any]:  # noqa: ANN401  # any JSON value
    found = answer if isinstance(answer, list) else answer["markets" if "markets" in answer else "trades"]
    if not isinstance(found, list):
        raise TypeError
    return found


def decode(
    frame: Frame, answer: Answer, take: Callable[[int, Any], Iterable[Row | Gap] | None], *, counted: bool = False
) -> Decoded:
    """Return what the trades of an answer give.

    `take` makes rows of one, by its place, and none of a known one; None is for one that is of no concern. A trade of
    another shape costs that trade: the whole answer lies in the quarantine then, for it to be found in.
    Nothing of this has a venue's time: it says nothing about how late the feed is.
    """
    rows: dict[Any, Row | Gap | Quarantined | Repaired] = {}
    known, bad = 0, 0
    for place, trade in enumerate(answer.found):
        try:
            found = take(place, trade)
        except BadMessageError as exc:
            bad += 1
            detail = f"trade {place + 1} of {len(answer.found)}: {exc}"
            entry = Quarantined(frame.frame_no, 0, frame.feed, frame.recv_ns // 1000, exc.reason, detail, frame.data)
            rows.setdefault(None, entry)
            continue
        if found is None:
            continue
        found = tuple(found)
        known += not found
        for row in found:  # a gap that is filled a thousand times is told once
            rows[(row.frame_no, row.gap_no, "gap") if isinstance(row, Gap) else (row.row_no,)] = row
    outcome = Outcome.STATE
    if bad:
        outcome = Outcome.QUARANTINED
    elif rows:
        outcome = Outcome.SHIPPED
    elif known:
        outcome = Outcome.DUPLICATE
    return Decoded(outcome, (*rows.values(), did(frame, answer, counted=counted)))


def did(frame: Frame, answer: Answer, *, counted: bool = False) -> Repaired:
    """Return what an answer did for its gap."""
    return Repaired(*answer.gap, frame.frame_no, frame.feed, frame.recv_ns // 1000, counted, answer.end)
