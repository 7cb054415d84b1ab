"""Which markets are followed: what is asked, when, and what follows from the answers, whatever they hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Request, kalshi_questions
from recio_ingest.feeds.kalshi_markets import MAX_AWAITED, MAX_MARKETS, Markets

SERIES = "KXBTCD"
FILTERS = {
    "open": {"active"},
    "unopened": {"initialized"},
    "closed": {"closed", "determined", "disputed", "amended"},
}
Answer = Callable[[Request], bytes]


def market(ticker: str, status: str, event: str = "E1", opens: str = "2026-09-21T14:00:00Z", **more: Any) -> Any:
    """One market of an answer."""
    return {"ticker": ticker, "event_ticker": event, "status": status, "open_time": opens} | more


class Exchange:
    """The venue's side: it answers as its page says, two markets to a page."""

    def __init__(self, *markets: dict[str, Any]) -> None:
        self.markets = {each["ticker"]: each for each in markets}
        self.page = 2

    def __call__(self, request: Request) -> bytes:
        """Answer one question."""
        query = request.query
        found = [
            each
            for each in self.markets.values()
            if each["event_ticker"] == query.get("event_ticker", each["event_ticker"])
            and ("status" not in query or each["status"] in FILTERS[query["status"]])
        ]
        start = int(query.get("cursor", 0))
        end = start + self.page
        return orjson.dumps({"markets": found[start:end], "cursor": str(end) if end < len(found) else ""})

    def become(self, status: str, *tickers: str) -> None:
        """Let markets, or all, change their status."""
        for ticker in tickers or self.markets:
            self.markets[ticker]["status"] = status


def ask(markets: Markets, answer: Answer, now_s: float) -> Iterator[Request]:
    """Ask all that is due at a moment; yield what was asked, with no more than a fixed number of pages."""
    for _ in range(1000):
        request = markets.due(now_s)
        if request is None:
            return
        yield request
        more: Request | None = request
        while more is not None:
            more = markets.take(more, answer(more), now_s)
    raise AssertionError("there is always another question")


def run(markets: Markets, answer: Answer, from_s: float, to_s: float, every_s: int = 1) -> Counter[str]:
    """Let time pass; count what is asked."""
    asked: Counter[str] = Counter()
    for second in range(int(from_s), int(to_s), every_s):
        asked.update(request.about for request in ask(markets, answer, float(second)))
    return asked


def test_everything_is_asked_first() -> None:
    """At the start each list of each series is asked for, the open ones first, in pages, and nothing else."""
    markets = Markets(["A", "B"])
    requests = list(ask(markets, Exchange(), 0.0))
    assert [request.about for request in requests][:2] == ["open A", "open B"]
    assert {(request.path, request.query["series_ticker"], request.query["status"]) for request in requests} == {
        ("/markets", name, status) for name in "AB" for status in FILTERS
    }
    assert {request.query["limit"] for request in requests} == {"200"}
    assert markets.due(0.1) is None


def test_pages_are_followed_to_the_end() -> None:
    """A market on the last page counts as one on the first; nothing is concluded before the last."""
    exchange = Exchange(*(market(f"M{n}", "active") for n in range(5)))
    markets = Markets([SERIES])
    request = markets.due(0.0)
    assert request is not None
    second = markets.take(request, exchange(request), 0.0)
    assert second is not None
    assert (second.query["cursor"], second.query["series_ticker"], markets.asked) == ("2", SERIES, False)
    third = markets.take(second, exchange(second), 0.0)
    assert third is not None
    assert markets.take(third, exchange(third), 0.0) is None
    assert (markets.asked, markets.wanted) == (True, frozenset(exchange.markets))


def test_a_whole_life() -> None:
    """A market is followed from its opening's eve until it is settled, and then forgotten with its event."""
    exchange = Exchange(market("M1", "initialized"), market("M2", "initialized"))
    markets = Markets([SERIES])
    markets.quoted = True
    seen: list[tuple[str, bool]] = []
    for number, status in enumerate(("initialized", "active", "closed", "determined", "finalized")):
        exchange.become(status)
        run(markets, exchange, number * 700, (number + 1) * 700)
        seen.append((status, markets.wanted == {"M1", "M2"}))
    assert seen == [
        ("initialized", True),
        ("active", True),
        ("closed", True),
        ("determined", True),
        ("finalized", False),
    ]
    assert markets.wanted == frozenset()
    assert (markets._markets, markets._awaited) == ({}, {})


def test_a_market_between_two_lists_is_followed() -> None:
    """One that left the unopened list is opening: the open list is asked at once, and it stays wanted meanwhile."""
    exchange = Exchange(market("M1", "initialized"))
    markets = Markets([SERIES])
    markets.quoted = True
    run(markets, exchange, 0, 1)
    exchange.become("active")
    asked = [request.about for request in ask(markets, exchange, 300.0)]
    assert asked.count(f"open {SERIES}") == 1 or asked.index(f"open {SERIES}") < len(asked) - 1
    assert markets.wanted == {"M1"}
    assert markets._is_open("M1")


@pytest.mark.parametrize(("quoted", "times"), [(False, 120), (True, 10)])
def test_quotes_are_asked_for_where_no_subscription_brings_them(quoted: bool, times: int) -> None:  # noqa: FBT001
    """The open markets are asked for every 5 s without a ticker subscription, and once a minute with it."""
    markets = Markets([SERIES])
    markets.quoted = quoted
    asked = run(markets, Exchange(market("M1", "active")), 0, 600)
    assert asked == {f"open {SERIES}": times, f"unopened {SERIES}": 2, f"closed {SERIES}": 2}


def test_the_next_two_openings_are_wanted_ahead() -> None:
    """Unopened markets are subscribed to for the next two opening times, whatever their names say."""
    opening = {"x": "2026-09-21T14:00:00Z", "a": "2026-09-21T15:00:00Z", "m": "2026-09-21T16:00:00Z"}
    exchange = Exchange(*(market(name, "initialized", f"E-{name}", time) for name, time in opening.items()))
    markets = Markets([SERIES])
    run(markets, exchange, 0, 1)
    assert markets.wanted == {"x", "a"}
    exchange.become("active", "x")
    run(markets, exchange, 1, 700)
    assert markets.wanted == {"x", "a", "m"}


def test_nothing_is_read_from_a_name() -> None:
    """Names without any sense are followed like others."""
    exchange = Exchange(market("??", "active", "!"), market("KXOTHER-99", "active", "!"))
    markets = Markets([SERIES])
    run(markets, exchange, 0, 1)
    assert markets.wanted == {"??", "KXOTHER-99"}


def test_the_open_ones_come_first() -> None:
    """Where not all can be subscribed to at once, those that trade now go before those that will."""
    exchange = Exchange(market("A", "initialized"), market("Z", "active"))
    markets = Markets([SERIES])
    run(markets, exchange, 0, 1)
    assert markets.in_order(markets.wanted) == ("Z", "A")


def step(word: str, ticker: str = f"{SERIES}-1") -> dict[str, Any]:
    """A lifecycle message's body."""
    return {"market_ticker": ticker, "event_type": word}


@pytest.mark.parametrize(
    ("word", "about"),
    [
        ("created", "unopened"),
        ("activated", "open"),
        ("deactivated", "open"),
        ("close_date_updated", "open"),
        ("determined", "event"),
        ("settled", "event"),
    ],
)
def test_a_lifecycle_message_is_a_reason_to_ask(word: str, about: str) -> None:
    """A burst of messages about a followed market leads to one question, two seconds later."""
    exchange = Exchange(market(f"{SERIES}-1", "active"))
    markets = Markets([SERIES])
    markets.quoted = True
    run(markets, exchange, 0, 1)
    for late_s in (10.0, 10.5, 11.0):
        markets.hear(step(word), late_s)
    assert markets.due(11.9) is None
    assert [request.about.partition(" ")[0] for request in ask(markets, exchange, 12.5)] == [about]


def test_what_is_heard_while_an_answer_comes_is_asked_again() -> None:
    """An answer that was asked for before a message cannot hold what the message is about: it is asked for again."""
    exchange = Exchange(*(market(f"M{n}", "active") for n in range(3)))
    markets = Markets([SERIES])
    markets.quoted = True
    run(markets, exchange, 0, 1)
    markets.hear(step("activated", f"{SERIES}-new"), 5.0)
    request = markets.due(7.5)
    assert request is not None
    more = markets.take(request, exchange(request), 7.5)
    assert more is not None
    markets.hear(step("activated", f"{SERIES}-new"), 7.6)
    markets.take(more, exchange(more), 7.7)
    assert [request.about for request in ask(markets, exchange, 10.0)] == [f"open {SERIES}"]


def test_what_opens_before_messages_come_is_asked_for() -> None:
    """A market that opens between the venue's first answer and the first message is found by asking again at once."""
    exchange = Exchange(market("M1", "initialized"))
    markets = Markets([SERIES])
    markets.quoted = True
    request = markets.due(0.0)
    assert request is not None
    assert request.about == f"open {SERIES}"
    written = exchange(request)
    exchange.become("active")  # told to nobody: lifecycle messages come from the next moment on
    markets.listen(0.1)
    assert markets.take(request, written, 0.2) is None
    run(markets, exchange, 1, 2)
    assert markets.trading


def test_messages_change_what_is_wanted_at_once() -> None:
    """An activated market is wanted without an answer, a settled one no more, also after a slower answer."""
    exchange = Exchange(market("M1", "initialized", opens=""), market("M2", "active"))
    markets = Markets([SERIES])
    run(markets, exchange, 0, 1)
    assert markets.wanted == {"M2"}
    markets.hear(step("activated", "M1"), 1.0)
    assert markets.wanted == {"M1", "M2"}
    markets.hear(step("settled", "M2"), 2.0)
    assert markets.wanted == {"M1"}
    exchange.become("active", "M1")
    exchange.become("determined", "M2")
    run(markets, exchange, 2, 100)
    assert markets.wanted == {"M1"}


@pytest.mark.parametrize("body", [{}, step("settled", "OTHER-1"), step("created", "OTHER-1"), step("odd"), step("5")])
def test_messages_about_others_are_no_reason(body: dict[str, Any]) -> None:
    """What is not about a followed series, or no step of a life, leads to nothing."""
    markets = Markets([SERIES])
    markets.quoted = True
    run(markets, Exchange(), 0, 1)
    try:
        markets.hear(body, 1.0)
    except BadMessageError:
        assert body in ({}, step("5"))
    assert markets.due(50.0) is None


def test_an_event_is_asked_for_until_it_is_final() -> None:
    """A closed event is asked for at once, then after 30 s, more and more rarely up to ten minutes, then no more."""
    exchange = Exchange(market("M1", "active"), market("M2", "active"))
    markets = Markets([SERIES])
    markets.quoted = True
    run(markets, exchange, 0, 1)
    exchange.become("closed")
    times: list[float] = []
    for second in range(1, 7200):
        times += [float(second) for each in ask(markets, exchange, float(second)) if each.about == "event E1"]
    waits = [after - before for before, after in pairwise(times)]
    assert times[0] == 60.0  # when the list of open markets was asked for
    assert 30 <= waits[0] <= 60
    assert waits == sorted(waits)
    assert waits[-1] == 600
    exchange.become("finalized", "M1")
    assert run(markets, exchange, 7200, 7900)["event E1"] >= 1
    exchange.become("finalized")
    run(markets, exchange, 7900, 8600)
    assert run(markets, exchange, 8600, 10_000)["event E1"] == 0
    assert not markets._markets


def test_a_paused_market_is_not_asked_for_all_the_time() -> None:
    """A paused market is on no list of ours: its event is asked for in its time, and the market stays wanted."""
    exchange = Exchange(market("M1", "active"), market("M2", "active"))
    markets = Markets([SERIES])
    run(markets, exchange, 0, 1)
    exchange.become("inactive", "M1")
    asked = run(markets, exchange, 1, 3601)
    assert asked["event E1"] <= 12
    assert markets.wanted == {"M1", "M2"}
    exchange.become("active", "M1")
    run(markets, exchange, 3601, 3700)
    assert markets._is_open("M1")


def test_what_the_venue_has_forgotten_is_forgotten() -> None:
    """A closed market that its event's answers lack twice is dropped; once is an accident."""
    exchange = Exchange(market("M1", "active"), market("M2", "active"))
    markets = Markets([SERIES])
    markets.quoted = True
    run(markets, exchange, 0, 1)
    exchange.become("closed")
    run(markets, exchange, 1, 100)
    gone = exchange.markets.pop("M1")
    times = iter(range(100, 5000))
    while run(markets, exchange, second := next(times), second + 1)["event E1"] == 0:
        pass
    assert markets.wanted == {"M1", "M2"}
    run(markets, exchange, second + 1, second + 1300)
    assert markets.wanted == {"M2"}
    exchange.markets["M1"] = gone
    run(markets, exchange, second + 1300, second + 2600)
    assert markets.wanted == {"M1", "M2"}
    exchange.markets.clear()
    run(markets, exchange, second + 2600, second + 4700)
    assert (markets._markets, markets._awaited, markets.wanted) == ({}, {}, frozenset())


def test_odd_markets_do_not_stop_their_neighbours() -> None:
    """Of an answer with odd markets the others are taken, in the same page and the next; the odd are counted."""
    odd: list[Any] = [None, 5, "x", [], {}, {"ticker": 5}, market("M", "active", opens="soon"), market("X Y", "active")]
    answers = {"open": [*odd, market("M1", "active")], "unopened": [], "closed": []}
    markets = Markets([SERIES])
    list(ask(markets, lambda request: orjson.dumps({"markets": answers[request.query["status"]]}), 0.0))
    assert markets.wanted == {"M1"}
    assert markets.trouble.startswith(f"{len(odd)} markets")
    trouble = markets.trouble
    answers["open"] = [*odd, market("M1", "active")]
    for second in range(60):
        list(ask(markets, lambda request: orjson.dumps({"markets": answers[request.query["status"]]}), float(second)))
        assert markets.trouble == trouble
    answers["open"] = [market("M1", "active")]
    list(ask(markets, lambda request: orjson.dumps({"markets": answers[request.query["status"]]}), 100.0))
    assert markets.trouble == ""


def test_a_market_that_became_odd_is_still_listed() -> None:
    """A market whose other fields are odd from some answer on is neither closed nor forgotten."""
    exchange = Exchange(market("M1", "active"))
    markets = Markets([SERIES])
    run(markets, exchange, 0, 1)
    exchange.markets["M1"]["open_time"] = "soon"
    assert run(markets, exchange, 1, 300)["event E1"] == 0
    assert markets.wanted == {"M1"}


def test_renamed_statuses() -> None:
    """If the venue renames its words for a status, what was asked for says how a market stands; the change is told."""
    renamed = {"open": "open", "unopened": "unopened", "closed": "closed"}

    def answer(request: Request) -> bytes:
        word = request.query.get("status", "closed")
        return orjson.dumps({"markets": [market(f"M-{word}", renamed[word], f"E-{word}")]})

    markets = Markets([SERIES])
    run(markets, answer, 0, 10)
    assert markets.wanted == {"M-open", "M-unopened", "M-closed"}
    assert markets._is_open("M-open")
    assert "status that is not known" in markets.trouble


def test_a_series_without_markets_is_told() -> None:
    """A name that the venue has no market of is named, once everything was asked for."""
    markets = Markets([SERIES, "TYPO"])
    answers = {SERIES: [market("M1", "active")], "TYPO": []}
    list(
        ask(
            markets,
            lambda request: orjson.dumps({"markets": answers[request.query.get("series_ticker", SERIES)]}),
            0.0,
        )
    )
    assert "TYPO" in markets.trouble
    assert SERIES not in markets.trouble.partition(";")[0]


def test_no_series_at_all() -> None:
    """Where no series is followed, nothing is asked, and nothing is raised."""
    markets = Markets([])
    assert markets.due(0.0) is None
    markets.hear(step("created"), 0.0)


def test_a_question_that_is_never_answered_holds_up_no_other() -> None:
    """One refused question is asked more and more rarely, and all others as often as ever."""
    markets = Markets(["BAD", SERIES])
    exchange = Exchange(market("M1", "active"))
    asked: Counter[str] = Counter()
    for second in range(3600):
        for _ in range(10):  # whatever fails costs the poller at least half a second
            request = markets.due(float(second))
            if request is None:
                break
            asked[request.about] += 1
            if "BAD" in request.about:
                break
            more: Request | None = request
            while more is not None:
                more = markets.take(more, exchange(more), float(second))
    assert asked[f"open {SERIES}"] > 600
    assert asked[f"closed {SERIES}"] == 12
    assert 20 <= asked["closed BAD"] <= 40
    assert markets.wanted == {"M1"}


def test_a_failed_page_is_asked_for_again() -> None:
    """After a page that does not come, the whole question is asked again, soon, and nothing was concluded."""
    exchange = Exchange(*(market(f"M{n}", "active") for n in range(4)))
    markets = Markets([SERIES])
    run(markets, exchange, 0, 1)
    request = markets.due(5.0)
    assert request is not None
    assert markets.take(request, exchange(request), 5.0) is not None
    assert run(markets, exchange, 6, 11)[f"open {SERIES}"] == 1
    assert markets.wanted == set(exchange.markets)


def test_endless_pages_end() -> None:
    """A venue that pages on for ever is left after a hundred pages; nothing is taken for closed, and it is told."""
    markets = Markets([SERIES])
    run(markets, Exchange(market("M1", "active")), 0, 1)
    numbers = iter(range(10**6))
    pages: Counter[str] = Counter()

    def endless(request: Request) -> bytes:
        pages[request.about] += 1
        return orjson.dumps({"markets": [], "cursor": str(next(numbers))})

    list(ask(markets, endless, 1000.0))
    assert set(pages.values()) == {kalshi_questions.MAX_PAGES}
    assert "did not end" in markets.trouble
    assert markets.wanted == {"M1"}
    assert markets.due(1001.0) is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"5",
        b"{}",
        b'{"markets":{}}',
        b'{"markets":null}',
        b'{"markets":[],"cursor":5}',
        b'{"markets":[],"cursor":["x"]}',
        b'{"markets":[' + b"1," * 1000 + b"1]}",
        b'{"markets":[],"cursor":"' + b"x" * 1001 + b'"}',
        b"[" * 100_000,
        b"\xff",
    ],
    ids=lambda value: repr(value[:30]),
)
def test_an_answer_of_another_shape(answer: bytes) -> None:
    """What is no page of markets is refused, changes nothing, and is asked for again later."""
    markets = Markets([SERIES])
    exchange = Exchange(market("M1", "active"))
    run(markets, exchange, 0, 1)
    request = markets.due(5.0)
    assert request is not None
    with pytest.raises(BadMessageError):
        markets.take(request, answer, 5.0)
    assert markets.wanted == {"M1"}
    assert markets.due(5.5) is None
    assert run(markets, exchange, 6, 60)[f"open {SERIES}"] > 5


def test_a_cursor_that_leads_back_is_refused() -> None:
    """A page that names itself as the next one is an odd answer, and not read a hundred times."""
    markets = Markets([SERIES])
    request = markets.due(0.0)
    assert request is not None
    more = markets.take(request, b'{"markets":[],"cursor":"a"}', 0.0)
    assert more is not None
    with pytest.raises(BadMessageError):
        markets.take(more, b'{"markets":[],"cursor":"a"}', 0.0)


def test_new_names_without_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that invents markets and events with every answer does not grow the memory; later all is well again."""
    monkeypatch.setattr(kalshi_questions, "MAX_PAGES", 25)
    numbers = iter(range(10**9))

    def invent(request: Request) -> bytes:
        kind = request.query.get("status", "closed")
        made = (next(numbers) for _ in range(1000))
        found = [
            market(f"M{n}", {"open": "active", "unopened": "initialized"}.get(kind, "closed"), f"E{n}") for n in made
        ]
        return orjson.dumps({"markets": found, "cursor": str(next(numbers))})

    markets = Markets([SERIES])
    for now_s in (0.0, 400.0, 800.0):
        for _ in range(4):
            request = markets.due(now_s)
            if request is not None:
                more: Request | None = request
                while more is not None:
                    more = markets.take(more, invent(more), now_s)
        assert len(markets._markets) <= MAX_MARKETS
        assert len(markets._awaited) <= MAX_AWAITED
    assert "too many" in markets.trouble
    run(markets, Exchange(market("M-new", "active")), 2000, 60_000, every_s=20)
    assert markets.wanted == {"M-new"}
    assert len(markets._markets) == 1


def test_a_market_of_another_event_is_not_taken() -> None:
    """An event's answer tells of that event only: what else stands in it would never be asked for again."""
    exchange = Exchange(market("M1", "closed"))
    markets = Markets([SERIES])

    def answer(request: Request) -> bytes:
        if "event_ticker" in request.query:
            return orjson.dumps({"markets": [market("M2", "closed", "E9"), market("M1", "closed")]})
        return exchange(request)

    run(markets, answer, 0, 400)
    assert set(markets._markets) == {"M1"}


WORDS = st.sampled_from(["active", "initialized", "closed", "determined", "finalized", "inactive", "settled", "new"])
NAMES = st.sampled_from([f"{SERIES}-{n}" for n in range(6)])
ODD = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
MARKETS = st.fixed_dictionaries(
    {"ticker": NAMES | ODD, "event_ticker": st.sampled_from(["E1", "E2"]) | ODD, "status": WORDS | ODD},
    optional={"open_time": st.sampled_from(["2026-09-21T14:00:00Z", "2026-09-21T15:00:00Z", ""]) | ODD},
)
STEPS = st.fixed_dictionaries(
    {
        "market_ticker": NAMES | ODD,
        "event_type": st.sampled_from(["created", "activated", "determined", "settled", "odd"]) | ODD,
    }
)


@settings(max_examples=200)
@given(st.lists(st.lists(MARKETS | ODD, max_size=5) | STEPS, max_size=30), st.data())
def test_any_answers_and_messages(told: list[Any], data: st.DataObject) -> None:
    """Whatever is answered and told, only BadMessageError is raised; a good venue then sets everything right."""
    markets = Markets([SERIES])
    now_s = 0.0
    for each in told:
        now_s += data.draw(st.sampled_from([0.5, 3.0, 40.0, 700.0]))
        try:
            if isinstance(each, dict):
                markets.hear(each, now_s)
            elif (request := markets.due(now_s)) is not None:
                markets.take(request, json.dumps({"markets": each}).encode(), now_s)
        except BadMessageError:
            continue
    exchange = Exchange(market("GOOD", "active", "E-good"), market("NEXT", "initialized", "E-next"))
    run(markets, exchange, now_s + 1, now_s + 4000, every_s=50)
    assert markets.wanted == {"GOOD", "NEXT"}
    assert set(markets._markets) == {"GOOD", "NEXT"}
    assert not markets._awaited
