"""Which markets the followed series have, how they stand, and what has to be asked by REST to know it.

Source: the venue's pages "Get Markets" and "Market Lifecycle". A filter and an answer use different words: `open` asks
for `active`, `unopened` for `initialized`, `closed` for `closed` and `determined`. Hourly markets are made a day ahead
and open an hour before they close; that one closes is told by no message. Nothing here is read from a market's name,
and no question depends on this machine's clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Request
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.records import Micros

# A market's description has 1.5 kB: a page of 200 is decoded in some 10 ms, in which nothing else is.
PAGE_MARKETS = 200
# An hour has some 200 markets, a day 5,000; a venue that pages on after this is no longer believed.
MAX_PAGES = 100
# With the socket, lifecycle messages tell what changes, and these questions find what they did not tell.
OPEN_EVERY_S = 60.0
# Without it, the answers are the quotes; two pages in 5 s are a tenth of what is asked without an account at most.
QUOTES_EVERY_S = 5.0
UNOPENED_EVERY_S = 300.0
CLOSED_EVERY_S = 300.0
# KXBTCD settles 2.5 to 6 minutes after the close, and once took a day.
AWAITED_FIRST_S, AWAITED_MOST_S = 30.0, 600.0
# Lifecycle messages come in bursts, one a market: they are one reason to ask.
HINT_AFTER_S = 2.0
# Unopened markets are subscribed to by their opening: this hour's next, and the one after it.
OPENINGS_AHEAD = 2
MAX_AWAITED = 100

_STATES = frozenset({"initialized", "inactive", "active", "closed", "determined", "disputed", "amended", "finalized"})
_OVER = frozenset({"settled", "finalized"})
_GONE = frozenset({"active", "inactive", "opening"})


@dataclass(slots=True)
class _Market:
    """`status` is the venue's word, or ours for what follows from its messages: opening, settled."""

    event: str
    series: str
    status: str
    opens: Micros | None


@dataclass(slots=True)
class _Job:
    """A question, when it was last answered, and whether there is a reason to ask before its time."""

    series: str
    query: Mapping[str, str]
    every_s: float
    answered_s: float | None = None
    hint_s: float | None = None
    pages: int = 0

    def due_s(self, every_s: float) -> float:
        if self.answered_s is None:
            return self.hint_s or 0.0
        due_s = self.answered_s + every_s
        return due_s if self.hint_s is None else min(due_s, self.hint_s)

    def hint(self, at_s: float) -> None:
        self.hint_s = at_s if self.hint_s is None else min(self.hint_s, at_s)


class Markets:
    """What is known of the followed series. `wanted` are the markets to subscribe to."""

    def __init__(self, series: Sequence[str]) -> None:
        self.series = tuple(series)
        self.wanted: frozenset[str] = frozenset()
        self.quoted = False
        """Whether the socket brings quotes; else they come with these answers."""
        self.asked = False
        """Whether it is known which markets are open."""
        self._markets: dict[str, _Market] = {}
        self._seen: set[str] = set()
        self._odd = 0
        self._jobs: dict[str, _Job] = {}
        for name in self.series:
            self._jobs[f"open {name}"] = _Job(name, {"series_ticker": name, "status": "open"}, OPEN_EVERY_S)
            for status, every_s in (("unopened", UNOPENED_EVERY_S), ("closed", CLOSED_EVERY_S)):
                self._jobs[f"{status} {name}"] = _Job(name, {"series_ticker": name, "status": status}, every_s)

    @property
    def trouble(self) -> str:
        """What the answers lack."""
        if self._odd:
            return f"{self._odd} markets of the last answers have an unknown shape; they are in the quarantine"
        asked = all(job.answered_s is not None for job in self._jobs.values())
        known = {market.series for market in self._markets.values()}
        missing = [name for name in self.series if name not in known] if asked else []
        return f"no market of {', '.join(missing)} is open or coming; check feeds.kalshi.series" if missing else ""

    def due(self, now_s: float) -> Request | None:
        """Return the question that has waited longest for its time, if one has come to it."""
        about, job = min(self._jobs.items(), key=self._due_s)
        if self._due_s((about, job)) > now_s:
            return None
        self._seen, job.pages = set(), 0
        return Request("/markets", {**job.query, "limit": str(PAGE_MARKETS)}, about)

    def take(self, request: Request, answer: bytes, now_s: float) -> Request | None:
        """Take a page of markets in; return the request for the next."""
        found, cursor = _read(answer)
        job = self._jobs.get(request.about)
        if job is None:
            return None  # an event that was given up between two pages
        job.pages += 1
        self._odd = 0 if job.pages == 1 else self._odd
        for market in found:
            self._note(job, market)
        if cursor and job.pages < MAX_PAGES:
            return request._replace(query={**request.query, "cursor": cursor})
        job.answered_s, job.hint_s = now_s, None
        self._finish(request.about, job, now_s)
        self._choose()
        self.asked = self.asked or all(self._jobs[f"open {name}"].answered_s is not None for name in self.series)
        return None

    def in_order(self, tickers: AbstractSet[str]) -> tuple[str, ...]:
        """Return the markets with the open ones first."""
        return tuple(sorted(tickers, key=lambda ticker: (not self._is_open(ticker), ticker)))

    def hear(self, step: Mapping[str, Any], now_s: float) -> None:
        """Take a lifecycle message of a followed series in: it is a reason to ask, and says what is over."""
        ticker = fields.name(step, "market_ticker")
        word, market = fields.word(step, "event_type"), self._markets.get(ticker)
        series = ticker.partition("-")[0] if market is None else market.series
        if market is None or word in {"created", "activated", "deactivated", "close_date_updated"}:
            about = "unopened" if word == "created" else "open"
            self._jobs[f"{about} {series}"].hint(now_s + HINT_AFTER_S)
        if market is None:
            return
        # One by one, and not all anew: an hour's markets are settled in one burst, each told several times.
        if word == "activated":
            market.status, self.wanted = "active", self.wanted | {ticker}
        elif word == "settled":
            market.status, self.wanted = "settled", self.wanted - {ticker}
        if word in {"determined", "settled"}:
            self._await(market.event, market.series, now_s + HINT_AFTER_S)

    def _is_open(self, ticker: str) -> bool:
        return ticker in self._markets and self._markets[ticker].status == "active"

    def _due_s(self, item: tuple[str, _Job]) -> float:
        about, job = item
        quotes = about.startswith("open ") and not self.quoted
        return job.due_s(QUOTES_EVERY_S if quotes else job.every_s)

    def _note(self, job: _Job, about: Any) -> None:  # noqa: ANN401  # any JSON value
        """Take one market in; what has another shape is counted, and its neighbours are taken."""
        try:
            ticker, event = fields.name(about, "ticker"), fields.name(about, "event_ticker")
            status, opens = fields.word(about, "status"), fields.time(about, "open_time")
        except (BadMessageError, AttributeError):
            self._odd += 1
            return
        if status not in _STATES:
            self._odd += 1
            return
        self._seen.add(ticker)
        self._markets[ticker] = _Market(event, job.series, status, opens)

    def _finish(self, about: str, job: _Job, now_s: float) -> None:
        """Draw the conclusions from a whole answer."""
        kind, _, name = about.partition(" ")
        if kind == "event":
            self._after_event(about, name, job, now_s)
        for ticker, market in self._markets.items():
            if market.series != job.series:
                continue
            if kind == "open" and market.status in _GONE and ticker not in self._seen:
                market.status = "closed"
                self._await(market.event, market.series, now_s)
            elif kind == "unopened" and market.status == "initialized" and ticker not in self._seen:
                market.status = "opening"
                self._jobs[f"open {market.series}"].hint(now_s)
            elif kind == "closed" and ticker in self._seen:
                self._await(market.event, market.series, now_s)

    def _after_event(self, about: str, event: str, job: _Job, now_s: float) -> None:
        """Forget an event that is over; ask for any other again, more and more rarely."""
        tickers = [ticker for ticker, market in self._markets.items() if market.event == event]
        if all(self._markets[ticker].status == "finalized" for ticker in tickers):
            for ticker in tickers:
                del self._markets[ticker]
            del self._jobs[about]
            return
        job.answered_s, job.every_s = now_s, min(job.every_s * 2, AWAITED_MOST_S)

    def _await(self, event: str, series: str, at_s: float) -> None:
        """Ask for a whole event until all of it is settled; the oldest go where there are too many."""
        about = f"event {event}"
        job = self._jobs.get(about)
        if job is None:
            awaited = [name for name in self._jobs if name.startswith("event ")]
            if len(awaited) >= MAX_AWAITED:
                del self._jobs[awaited[0]]
            job = self._jobs[about] = _Job(series, {"event_ticker": event}, AWAITED_FIRST_S)
            job.answered_s = at_s
        job.hint(at_s)

    def _choose(self) -> None:
        wanted = {ticker for ticker, market in self._markets.items() if market.status not in _OVER | {"initialized"}}
        for name in self.series:
            wanted.update(self._opening_soon(name))
        if wanted != self.wanted:
            self.wanted = frozenset(wanted)

    def _opening_soon(self, series: str) -> Iterator[str]:
        coming = {
            ticker: market.opens
            for ticker, market in self._markets.items()
            if market.series == series and market.status == "initialized" and market.opens is not None
        }
        soon = sorted(set(coming.values()))[:OPENINGS_AHEAD]
        return (ticker for ticker, opens in coming.items() if opens in soon)


def _read(answer: bytes) -> tuple[list[Any], str]:
    """Return the markets and the cursor of a page."""
    try:
        page = orjson.loads(answer)
    except orjson.JSONDecodeError as exc:
        raise BadMessageError("json", str(exc)) from None
    if not isinstance(page, dict) or not isinstance(page.get("markets"), list):
        raise BadMessageError("schema", "markets is not a list")
    cursor = page.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise BadMessageError("schema", "cursor is not text")
    return page["markets"], cursor or ""
