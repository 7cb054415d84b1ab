"""How Kalshi's markets stand after a time in which nothing told of it: what is asked, and what becomes of the answers.

Source: the venue's page "Get Markets". Of every series: the open ones, those that are closed and not settled, and all
that were settled in the gap, among them those that also opened in it. (Coming ones are asked for all the time.) The
steps between are not told by REST: what is known afterwards is how each market stands, and how it was settled.
"""

from __future__ import annotations

from collections.abc import Sequence

from recio_ingest.feeds import Missing, Page, Request, repair
from recio_ingest.feeds.kalshi_answers import Answers
from recio_ingest.feeds.kalshi_questions import PAGE_MARKETS, page
from recio_ingest.feeds.repair import Answer
from recio_ingest.records import STATE, Decoded, Frame

_ASKED = ("open", "closed", "settled")
# A settlement that is told just after the gap finds no market that is known yet; the listings that are asked for at the
# start of a connection are there within some seconds.
MARGIN_S = 60


def first(gap: Missing, series: Sequence[str]) -> Request:
    """Return the question for the first series."""
    return _listing(gap, _parts(series)[0])


def take(gap: Missing, series: Sequence[str], request: Request, answer: bytes) -> Page:
    """Return the question for the next page, or the next state or series, or the end."""
    _, cursor = page(request, answer)
    if cursor:
        return Page(request._replace(query={**request.query, "cursor": cursor}))
    parts = _parts(series)
    following = parts.index(request.about) + 1
    return Page(_listing(gap, parts[following])) if following < len(parts) else Page(None, STATE)


def is_about(answer: Answer) -> bool:
    """Tell whether an answer is about how markets stand; a market's name has no blank."""
    return answer.part.partition(" ")[0] in _ASKED and " " in answer.part


def decode(frame: Frame, answer: Answer, answers: Answers) -> Decoded:
    """Return the rows of those markets that stand otherwise than was known."""
    if not answer.found:
        return repair.decode(frame, answer, lambda *_: None)
    # Quotes of now are no part of what was missed.
    outcome, found = answers.take(frame, quoted=True)
    return Decoded(outcome, (*found, repair.did(frame, answer)))


def _parts(series: Sequence[str]) -> list[str]:
    return [f"{word} {name}" for name in series for word in _ASKED]


def _listing(gap: Missing, part: str) -> Request:
    word, _, name = part.partition(" ")
    query = {"series_ticker": name, "status": word, "limit": str(PAGE_MARKETS)}
    if word == "settled":
        query["min_settled_ts"] = str(gap.from_time // 1_000_000 - MARGIN_S)
        query["max_settled_ts"] = str(-(-gap.to_time // 1_000_000) + MARGIN_S)
    return Request("/markets", query, part)
