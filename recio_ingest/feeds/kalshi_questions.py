"""The questions to Kalshi's `GET /markets`: when each is due, and what a page of an answer holds.

Source: the venue's page "Get Markets". A question that is not answered is asked again, more and more rarely, and in the
meantime it is behind all others: one that the venue never answers holds up none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Request

# A market's description has 1.5 kB: a page of 200 is decoded in some 10 ms, in which nothing else is.
PAGE_MARKETS = 200
# The most that a page may have by the venue's own word; one that has more is not read.
MAX_PAGE = 1000
# An hour has some 200 markets, a day 5,000; a venue that pages on after this is no longer believed.
MAX_PAGES = 100
# It becomes a part of the next address.
MAX_CURSOR = 1000
# Doubled with every attempt, up to half the question's own period.
RETRY_FIRST_S = 5.0
_MAX_DOUBLINGS = 10


@dataclass(slots=True)
class Question:
    """A question, when it was last answered, and whether there is a reason to ask before its time."""

    series: str
    query: Mapping[str, str]
    every_s: float
    status: str = ""
    """How the markets stand that it asks for; empty where it asks for all."""
    answered_s: float | None = None
    hint_s: float | None = None
    asked_s: float = float("-inf")
    unanswered: int = 0
    pages: int = 0
    seen: set[str] = field(default_factory=set)
    """The markets of the answer so far."""
    odd: int = 0
    """How many markets of the answer so far could not be taken."""
    lacks: int = 0
    """How many of the last whole answer could not."""
    endless: bool = False

    def due_s(self, every_s: float) -> float:
        """Return when to ask, if an answer is good for so long."""
        if self.unanswered:
            doublings = min(self.unanswered - 1, _MAX_DOUBLINGS)
            return self.asked_s + min(RETRY_FIRST_S * 2.0**doublings, every_s / 2)
        if self.answered_s is None:
            return float("-inf")
        due_s = self.answered_s + every_s
        return due_s if self.hint_s is None else min(due_s, self.hint_s)

    @property
    def asked(self) -> bool:
        """Whether there was, or is, an attempt."""
        return self.unanswered > 0 or self.answered_s is not None

    def hint(self, at_s: float) -> None:
        """Give a reason to ask at a time, if that is before its own."""
        self.hint_s = at_s if self.hint_s is None else min(self.hint_s, at_s)

    def ask(self, about: str, now_s: float) -> Request:
        """Return the question. A reason to ask that comes after this moment is one to ask again."""
        self.asked_s, self.hint_s, self.unanswered = now_s, None, self.unanswered + 1
        self.pages, self.seen, self.odd = 0, set(), 0
        return Request("/markets", {**self.query, "limit": str(PAGE_MARKETS)}, about)

    def next_page(self, request: Request, cursor: str, now_s: float) -> Request | None:
        """Count a page; return the request for the next one, or take in that this was the last."""
        self.pages += 1
        if cursor and self.pages < MAX_PAGES:
            return request._replace(query={**request.query, "cursor": cursor})
        self.answered_s, self.unanswered, self.lacks, self.endless = now_s, 0, self.odd, bool(cursor)
        return None


def trouble(questions: Iterable[Question]) -> str:
    """Return what the last answers lack, for people."""
    lacks, endless = 0, False
    for question in questions:
        lacks, endless = lacks + question.lacks, endless or question.endless
    if lacks:
        return f"{lacks} markets of the last answers are too many, or of a shape or a status that is not known"
    return f"an answer did not end within {MAX_PAGES} pages of markets" if endless else ""


def page(request: Request, answer: bytes, what: str = "markets") -> tuple[list[Any], str]:
    """Return the markets, or trades, and the cursor of a page. Raises BadMessageError for another shape."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError as exc:
        raise BadMessageError("json", str(exc)) from None
    found = body.get(what) if isinstance(body, dict) else None
    if not isinstance(found, list):
        raise BadMessageError("schema", f"{what} is not a list")
    cursor = body.get("cursor") or ""
    if not isinstance(cursor, str):
        raise BadMessageError("schema", "cursor is not text")
    if len(found) > MAX_PAGE or len(cursor) > MAX_CURSOR:
        raise BadMessageError("bounds", f"{len(found)} {what} and a cursor of {len(cursor)} characters in one page")
    if cursor and cursor == request.query.get("cursor"):
        raise BadMessageError("order", "the cursor leads to the same page again")
    return found, cursor
