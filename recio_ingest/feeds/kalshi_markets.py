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
from itertools import chain
from typing import Any

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Request, kalshi_questions
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.feeds.kalshi_questions import Question
from recio_ingest.records import Micros

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
# Four days of hourly events; past this the oldest is given up, with all that is known of it.
MAX_AWAITED = 100
# A day has some 5,000; a venue that names more than this is not followed further.
MAX_MARKETS = 20_000

_STATES = frozenset({"initialized", "inactive", "active", "closed", "determined", "disputed", "amended", "finalized"})
_AHEAD = frozenset({"initialized", "opening", "active", "inactive"})
_OVER = frozenset({"settled", "finalized"})
_CHANGES = frozenset({"created", "activated", "deactivated", "close_date_updated"})


@dataclass(slots=True)
class _Market:
    """`status` is the venue's word, or ours for what follows from what it says: opening, settled, missing."""

    event: str
    series: str
    status: str
    opens: Micros | None


class Markets:
    """What is known of the followed series. `wanted` are the markets to subscribe to."""

    def __init__(self, series: Sequence[str]) -> None:
        self.series = tuple(series)
        self.wanted: frozenset[str] = frozenset()
        self.quoted = False
        """Whether the socket brings quotes; else they come with these answers."""
        self.asked = False
        """Whether it is known which markets are open."""
        self.exchange_trades = True
        """Whether the exchange as a whole does, as far as it has said."""
        self._markets: dict[str, _Market] = {}
        self._open = {name: _listing(name, "open", "active", OPEN_EVERY_S) for name in self.series}
        self._unopened = {name: _listing(name, "unopened", "initialized", UNOPENED_EVERY_S) for name in self.series}
        self._closed = {name: _listing(name, "closed", "closed", CLOSED_EVERY_S) for name in self.series}
        self._awaited: dict[str, Question] = {}
        """By their names, the events that are closed and not settled in all their markets; the oldest first."""
        self._questions = {
            "open": self._open,
            "unopened": self._unopened,
            "closed": self._closed,
            "event": self._awaited,
        }

    @property
    def trading(self) -> bool:
        """Whether something may trade: a followed market is open, and the exchange is not in a pause."""
        return self.exchange_trades and any(market.status == "active" for market in self._markets.values())

    @property
    def trouble(self) -> str:
        """What the answers lack."""
        listings = (*self._open.values(), *self._unopened.values(), *self._closed.values())
        if lacks := kalshi_questions.trouble(chain(listings, self._awaited.values())):
            return lacks
        if any(question.answered_s is None for question in listings):
            return ""
        known = {market.series for market in self._markets.values()}
        missing = ", ".join(name for name in self.series if name not in known)
        return f"no market of {missing} is open or coming; check feeds.kalshi.series" if missing else ""

    def due(self, now_s: float) -> Request | None:
        """Return, of the questions whose time has come, the one that was asked longest ago."""
        due: Question | None = None
        about = ""
        for kind, questions in self._questions.items():
            quotes = kind == "open" and not self.quoted
            for name, question in questions.items():
                every_s = QUOTES_EVERY_S if quotes else question.every_s
                if question.due_s(every_s) <= now_s and (due is None or question.asked_s < due.asked_s):
                    due, about = question, f"{kind} {name}"
        return due.ask(about, now_s) if due is not None else None

    def take(self, request: Request, answer: bytes, now_s: float) -> Request | None:
        """Take a page of markets in; return the request for the next."""
        found, cursor = kalshi_questions.page(request, answer)
        kind, _, name = request.about.partition(" ")
        question = self._questions[kind].get(name)
        if question is None:
            return None  # an event that was given up between two pages
        for market in found:
            self._note(question, market)
        following = question.next_page(request, cursor, now_s)
        if following is not None:
            return following
        if not question.endless:
            self._conclude(kind, name, question, now_s)
        self._choose()
        self.asked = self.asked or all(each.answered_s is not None for each in self._open.values())
        return None

    def in_order(self, tickers: AbstractSet[str]) -> tuple[str, ...]:
        """Return the markets with the open ones first."""
        return tuple(sorted(tickers, key=lambda ticker: (not self._is_open(ticker), ticker)))

    def hear(self, step: Mapping[str, Any], now_s: float) -> None:
        """Take a lifecycle message of a followed series in: it is a reason to ask, and says what is over."""
        ticker = fields.name(step, "market_ticker")
        word, market = fields.word(step, "event_type"), self._markets.get(ticker)
        series = ticker.partition("-")[0] if market is None else market.series
        if word in _CHANGES and series in self._open:
            (self._unopened if word == "created" else self._open)[series].hint(now_s + HINT_AFTER_S)
        if market is None:
            return
        # One by one, and not all anew: an hour's markets are settled in one burst, each told several times.
        if word == "activated":
            market.status, self.wanted = "active", self.wanted | {ticker}
        elif word == "settled":
            market.status, self.wanted = "settled", self.wanted - {ticker}
        if word in {"determined", "settled"}:
            self._await({market.event: market.series}, now_s + HINT_AFTER_S)

    def listen(self, now_s: float) -> None:
        """Take in that lifecycle messages come from now on: what they would have told before has to be asked for.

        Also where the first answer is under way: what happened since it was written is in no answer and no message.
        """
        for listing in (self._open, self._unopened, self._closed):
            for question in listing.values():
                if question.asked:
                    question.hint(now_s)

    def _is_open(self, ticker: str) -> bool:
        return ticker in self._markets and self._markets[ticker].status == "active"

    def _note(self, question: Question, about: Any) -> None:  # noqa: ANN401  # any JSON value
        """Take one market in; what has another shape is counted, and its neighbours are taken."""
        try:
            ticker, event = fields.name(about, "ticker"), fields.name(about, "event_ticker")
            question.seen.add(ticker)  # whatever else there is to it, it is listed
            status, opens = fields.word(about, "status"), fields.time(about, "open_time")
        except (BadMessageError, AttributeError):
            question.odd += 1
            return
        known = self._markets.get(ticker)
        if question.query.get("event_ticker", event) != event or (known is None and len(self._markets) >= MAX_MARKETS):
            question.odd += 1
            return
        if status not in _STATES:  # a new word: what was asked for says how it stands
            question.odd += 1
            status = question.status or (known.status if known else status)
        if known is not None and known.status == "settled" and status != "finalized":
            status = "settled"  # the message was quicker than this answer
        self._markets[ticker] = _Market(event, question.series, status, opens)

    def _conclude(self, kind: str, name: str, question: Question, now_s: float) -> None:
        """Draw the conclusions from a whole answer."""
        if kind == "event":
            self._after_event(name, question)
            return
        closed: dict[str, str] = {}
        for ticker, market in self._markets.items():
            if market.series != name:
                continue
            if ticker in question.seen:
                if market.status not in _AHEAD and market.event not in self._awaited:
                    closed[market.event] = name
            elif kind == "open" and market.status in {"active", "opening"}:
                market.status = "closed"
                closed[market.event] = name
            elif kind == "open" and market.status == "inactive" and market.event not in self._awaited:
                closed[market.event] = name  # paused, or closed meanwhile: only its event's answer tells
            elif kind == "unopened" and market.status == "initialized":
                market.status = "opening"
                self._open[name].hint(now_s)
        self._await(closed, now_s)

    def _after_event(self, event: str, question: Question) -> None:
        """Forget an event that is over, or that the venue has forgotten; ask for any other more and more rarely."""
        over = True
        for ticker in [ticker for ticker, market in self._markets.items() if market.event == event]:
            market = self._markets[ticker]
            if ticker not in question.seen:
                if market.status in _OVER | {"missing"}:
                    del self._markets[ticker]
                    continue
                if market.status not in _AHEAD - {"inactive"}:
                    market.status = "missing"  # once may be an accident
            over = over and market.status == "finalized"
        if over:
            self._forget({event})
        question.every_s = min(question.every_s * 2, AWAITED_MOST_S)

    def _await(self, events: Mapping[str, str], at_s: float) -> None:
        """Ask for whole events until all of each is settled; the oldest go where there are too many."""
        for event, series in events.items():
            if event not in self._awaited:
                self._awaited[event] = Question(series, {"event_ticker": event}, AWAITED_FIRST_S, answered_s=at_s)
            self._awaited[event].hint(at_s)
        if (surplus := len(self._awaited) - MAX_AWAITED) > 0:
            self._forget(set(list(self._awaited)[:surplus]))

    def _forget(self, events: AbstractSet[str]) -> None:
        for event in events:
            self._awaited.pop(event, None)
        for ticker in [ticker for ticker, market in self._markets.items() if market.event in events]:
            del self._markets[ticker]

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


def _listing(series: str, word: str, status: str, every_s: float) -> Question:
    return Question(series, {"series_ticker": series, "status": word}, every_s, status)
