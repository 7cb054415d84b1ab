"""What is said to Kalshi over one connection, and what follows from every answer, sensible or not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recio_ingest.errors import RefusedError
from recio_ingest.feeds import Notice
from recio_ingest.feeds.kalshi_errors import Remedy, remedy
from recio_ingest.feeds.kalshi_markets import Markets
from recio_ingest.feeds.kalshi_session import KalshiSession

SERIES = "KXBTCD"
CHANNELS = ("market_lifecycle_v2", "cfbenchmarks_value", "ticker", "trade")
REQUIRED = ("market_lifecycle_v2", "ticker", "trade")
Message = dict[str, Any]
Reply = Callable[[Message], Message | None]


def followed(*tickers: str, unopened: Sequence[str] = ()) -> Markets:
    """The markets of a series, as REST told them."""
    markets = Markets([SERIES])
    told = {"open": ("active", tickers), "unopened": ("initialized", unopened), "closed": ("closed", ())}
    while (request := markets.due(0.0)) is not None:
        status, names = told[request.query["status"]]
        found = [
            {"ticker": name, "event_ticker": "E1", "status": status, "open_time": "2026-09-21T14:00:00Z"}
            for name in names
        ]
        for start in range(0, max(1, len(found)), 1000):
            markets.take(request, orjson.dumps({"markets": found[start : start + 1000]}), 0.0)
    return markets


def numbered(count: int) -> list[str]:
    """Names of markets."""
    return [f"{SERIES}-{number:05d}" for number in range(count)]


class Venue:
    """The other end: it obeys as the venue's page says, unless a reply of the test's comes first."""

    def __init__(self, session: KalshiSession) -> None:
        self.session = session
        self.commands: list[Message] = []
        self.times: list[float] = []
        self.notices: list[Notice] = []
        self.held: dict[int, tuple[str, set[str]]] = {}
        self.reply: Reply = lambda _: None
        self.mute: Callable[[Message], bool] = lambda _: False
        self.silent: set[str] = set()
        self._last_sid = 0

    def channel(self, command: Message) -> str:
        """The channel that a command is about."""
        params = command["params"]
        return str(params["channels"][0] if "channels" in params else self.held[params["sids"][0]][0])

    def hear(self, message: Message, now_s: float) -> Sequence[Notice]:
        """Tell something; return the notices of it."""
        notices = self.session.hear(json.dumps(message).encode(), now_s)
        self.notices += notices
        return notices

    def turn(self, now_s: float, most: int = 10_000) -> list[Message]:
        """Tell data on what is held; take what is said and answer it, until nothing more is; return the commands."""
        taken: list[Message] = []
        for channel in {name for name, _ in self.held.values()} - self.silent:
            self.session.listens(json.dumps({"type": channel, "sid": 1, "msg": {}}).encode())
        while messages := self.session.say(now_s):
            for each in messages:
                command = orjson.loads(each)
                taken.append(command)
                self.commands.append(command)
                self.times.append(now_s)
                assert len(taken) <= most, "it goes on and on"
                if not self.mute(command):
                    self.hear({"id": command["id"]} | (self.reply(command) or self.obey(command)), now_s)
        return taken

    def run(self, from_s: float, to_s: float, every_s: float = 0.5) -> list[Message]:
        """Let time pass; return the commands."""
        taken: list[Message] = []
        for number in range(round((to_s - from_s) / every_s)):
            taken += self.turn(from_s + number * every_s)
        return taken

    def obey(self, command: Message) -> Message:
        """Do what is asked for, and answer it."""
        params = command["params"]
        names = set(params.get("market_tickers", ()))
        if command["cmd"] == "subscribe":
            self._last_sid += 1
            self.held[self._last_sid] = (params["channels"][0], names)
            return {"type": "subscribed", "msg": {"channel": params["channels"][0], "sid": self._last_sid}}
        sid = params["sids"][0]
        if sid not in self.held:
            return error(7)
        if command["cmd"] == "unsubscribe":
            del self.held[sid]
            return {"type": "unsubscribed", "sid": sid, "seq": 9}
        channel, held = self.held[sid]
        held = held | names if params["action"] == "add_markets" else held - names
        self.held[sid] = (channel, held)
        return {"type": "ok", "sid": sid, "seq": 5, "msg": {"market_tickers": sorted(held)}}

    def sid(self, channel: str) -> int:
        """The newest subscription to a channel."""
        return max(sid for sid, (name, _) in self.held.items() if name == channel)

    def markets(self, channel: str) -> set[str]:
        """What the newest subscription to a channel holds."""
        return self.held[self.sid(channel)][1]


def error(code: Any, **more: Any) -> Message:
    """An error."""
    return {"type": "error", "msg": {"code": code, "msg": f"error {code}"}} | more


def begun(*tickers: str) -> tuple[Venue, Markets]:
    """A session that has everything."""
    markets = followed(*tickers)
    venue = Venue(KalshiSession(markets))
    venue.turn(0.0)
    assert venue.session.ready
    return venue, markets


def test_each_channel_is_subscribed_to_alone() -> None:
    """Four subscriptions are sent at once, each with a number of its own; the data's filters are in them."""
    session = KalshiSession(followed("M1"))
    commands = [orjson.loads(each) for each in session.say(0.0)]
    assert [each["params"]["channels"] for each in commands] == [[name] for name in CHANNELS]
    assert [each["id"] for each in commands] == [1, 2, 3, 4]
    assert {each["cmd"] for each in commands} == {"subscribe"}
    lifecycle, index, ticker, trade = (each["params"] for each in commands)
    assert lifecycle.keys() == {"channels"}
    assert index["index_ids"] == ["BRTI"]
    assert (ticker["market_tickers"], ticker["send_initial_snapshot"]) == (["M1"], True)
    assert trade.keys() == {"channels", "market_tickers"}


def test_never_all_markets() -> None:
    """Without markets there is no subscription to quotes or trades; it is ready once it is known that none is open."""
    unasked = Markets([SERIES])
    venue = Venue(KalshiSession(unasked))
    assert [venue.channel(each) for each in venue.turn(0.0)] == list(CHANNELS[:2])
    assert not venue.session.ready
    venue = Venue(KalshiSession(followed()))
    venue.run(0, 100)
    assert len(venue.commands) == 2
    assert venue.session.ready


def test_open_markets_come_first_in_chunks() -> None:
    """No command names more than 400 markets, and those that are open are in the first ones."""
    markets = followed(*numbered(450), unopened=["A-unopened"])
    venue = Venue(KalshiSession(markets))
    venue.turn(0.0)
    trades = [each["params"] for each in venue.commands if venue.channel(each) == "trade"]
    assert [len(each["market_tickers"]) for each in trades] == [400, 51]
    assert trades[1]["action"] == "add_markets"
    assert trades[1]["market_tickers"][-1] == "A-unopened"
    assert venue.markets("trade") == venue.markets("ticker") == markets.wanted


def test_what_is_wanted_changes() -> None:
    """A market that comes is added, one that is over is deleted, each in one command a channel, and no more is said."""
    venue, markets = begun("M1", "M2")
    markets.wanted = frozenset({"M2", "M3"})
    said = [(venue.channel(each), each["params"]["action"], each["params"]["market_tickers"]) for each in venue.turn(1)]
    assert sorted(said) == [
        (name, action, [market])
        for name in ("ticker", "trade")
        for action, market in (("add_markets", "M3"), ("delete_markets", "M1"))
    ]
    assert venue.run(2, 600) == []


def test_the_last_market_stays() -> None:
    """Where nothing of what is held is wanted, one market stays: a subscription without any is one to all markets."""
    venue, markets = begun("M1", "M2", "M3")
    markets.wanted = frozenset()
    venue.run(1, 100)
    assert {len(venue.markets(name)) for name in ("ticker", "trade")} == {1}
    markets.wanted = frozenset({"M9"})
    venue.run(100, 110)
    assert venue.markets("ticker") == venue.markets("trade") == {"M9"}
    assert all(held for name, held in venue.held.values() if name in {"ticker", "trade"})


def test_one_command_under_way() -> None:
    """While a channel's command is not answered, nothing more is said about it; other channels are not held up."""
    venue, markets = begun("M1")
    venue.mute = lambda command: venue.channel(command) == "trade"
    for number in range(2, 6):
        markets.wanted |= {f"M{number}"}
        venue.turn(float(number))
    said = Counter(venue.channel(each) for each in venue.commands if each["cmd"] != "subscribe")
    assert said == {"trade": 1, "ticker": 4}


def answered(code: int, channel: str = "trade") -> tuple[Venue, list[float]]:
    """A session whose subscriptions to one channel are answered with an error for an hour; when they were sent."""
    venue = Venue(KalshiSession(followed("M1", "M2")))
    venue.reply = lambda command: error(code) if venue.channel(command) == channel else None
    venue.run(0, 3600, every_s=1.0)
    times = zip(venue.commands, venue.times, strict=True)
    return venue, [now_s for each, now_s in times if venue.channel(each) == channel]


@pytest.mark.parametrize(
    ("code", "todo"),
    [
        *((code, Remedy.OURS) for code in (1, 2, 3, 4, 5, 6, 8, 12, 13, 14, 15, 19, 20, 21, 22, 23, 24, 28)),
        *((code, Remedy.AGAIN) for code in (7, 10, 25)),
        *((code, Remedy.LATER) for code in (17, 18, 27, 0, 29, 99, -1, 10**9)),
        *((code, Remedy.FEWER) for code in (11, 16)),
        (26, Remedy.FULL),
        (9, Remedy.RIGHT),
    ],
)
def test_every_error_of_a_subscription(code: int, todo: Remedy) -> None:
    """Every code has its remedy: what is passing is tried again within a minute, what is not every five; told once."""
    assert remedy(code) is todo
    for channel in ("trade", "market_lifecycle_v2"):
        venue, times = answered(code, channel)
        assert not venue.session.ready
        assert f"{channel}: error {code}" in venue.session.trouble
        assert Counter(venue.channel(each) for each in venue.commands) == {
            **dict.fromkeys(CHANNELS, 1),
            channel: len(times),
        }
        if todo in {Remedy.AGAIN, Remedy.LATER}:
            assert times[1] <= 1.5
            assert 60 <= len(times) <= 70
        elif todo in {Remedy.FEWER, Remedy.FULL} and channel == "trade":
            assert len(times) <= 12 * 4
            assert times[-1] > 3000
        else:
            assert times == [float(each) for each in range(0, 3600, 300)]
        (notice,) = venue.notices
        assert notice.facts["channel"] == channel
        assert notice.facts["code"] == code
        assert notice.facts["hint"] == todo.value
        assert notice.level == ("warning" if todo in {Remedy.AGAIN, Remedy.LATER} else "error")


def test_the_index_is_not_needed() -> None:
    """Without the right to the index there is one warning, and all else goes on; the right is asked for every 5 min."""
    venue, times = answered(9, "cfbenchmarks_value")
    assert venue.session.ready
    assert len(times) == 12
    assert [(notice.level, notice.event) for notice in venue.notices] == [("warning", "channel.refused")]
    venue.reply = lambda _: None
    venue.run(3600, 4000)
    assert [notice.event for notice in venue.notices] == ["channel.refused", "channel.confirmed"]
    assert venue.session.trouble == ""


def test_a_right_that_comes_back() -> None:
    """What was refused is recorded as soon as it is granted, and that is told."""
    venue, _ = answered(9, "trade")
    venue.reply = lambda _: None
    venue.run(3600, 3910)
    assert venue.session.ready
    assert venue.notices[-1].event == "channel.confirmed"


@pytest.mark.parametrize("code", [10, 25, 7])
@pytest.mark.parametrize("channel", CHANNELS)
def test_a_subscription_that_ends_is_begun_anew(channel: str, code: int) -> None:
    """A terminal error about a subscription is told once, and another one with all markets is begun a second later."""
    venue, markets = begun("M1", "M2")
    (notice,) = venue.hear(error(code, sid=venue.sid(channel), seq=9), 100.0)
    assert (notice.level, notice.event, notice.facts["channel"]) == ("warning", "channel.refused", channel)
    assert venue.session.ready == (channel == "cfbenchmarks_value")
    assert markets.quoted == (channel != "ticker")
    assert venue.turn(100.5) == []
    (command,) = venue.turn(101.0)
    assert (command["cmd"], command["params"]["channels"]) == ("subscribe", [channel])
    assert set(command["params"].get("market_tickers", markets.wanted)) == markets.wanted
    assert venue.notices[-1].event == "channel.confirmed"
    assert venue.session.ready
    assert markets.quoted


@pytest.mark.parametrize("code", [10, 25])
def test_a_venue_that_takes_away_what_it_gives(code: int) -> None:
    """Terminal errors right after each confirmation lead to some seventy subscriptions an hour, and to two notices."""
    venue, _ = begun("M1")
    for number in range(7200):
        for each in venue.turn(100 + number / 2):
            if venue.channel(each) == "trade":
                venue.hear(error(code, sid=venue.sid("trade")), 100 + number / 2)
        if number == 0:
            venue.hear(error(code, sid=venue.sid("trade")), 100.0)
    subscribed = [each for each in venue.commands if venue.channel(each) == "trade"]
    assert 60 <= len(subscribed) <= 70
    assert [notice.event for notice in venue.notices] == ["channel.refused", "channel.confirmed"]


def test_an_unsubscribed_channel_is_subscribed_to_again() -> None:
    """What the venue unsubscribes by itself is asked for again."""
    venue, _ = begun("M1")
    venue.hear({"type": "unsubscribed", "sid": venue.sid("trade"), "seq": 3}, 100.0)
    assert [venue.channel(each) for each in venue.run(100, 110)] == ["trade"]


@pytest.mark.parametrize("code", [1, 5, 9, 11, 18, 26, 27, 99, None, "10", {}, [10], 10.0, True])
def test_other_errors_about_a_subscription(code: Any) -> None:
    """An error that ends nothing is told once, however often it comes, and changes nothing."""
    venue, _ = begun("M1")
    for number in range(1000):
        venue.hear(error(code, sid=venue.sid("trade")), 100.0 + number)
    assert [(notice.level, notice.event) for notice in venue.notices] == [("warning", "channel.error")]
    assert venue.turn(2000.0) == []
    assert venue.session.ready


def test_errors_about_nothing() -> None:
    """Errors of unknown subscriptions and commands are told once each, and a hundred at most."""
    venue, _ = begun("M1")
    for code in range(1000, 3000):
        venue.hear(error(code, sid=77), 1.0)
        venue.hear(error(code, id=77), 1.0)
        venue.hear(error(code), 1.0)
    assert len(venue.notices) == 100
    assert all(len(orjson.dumps(notice.facts)) < 500 for notice in venue.notices)


def test_words_without_end_are_cut() -> None:
    """What the venue says stands in notices and in the status with 200 characters, and its code is a number or none."""
    venue, _ = begun("M1")
    long = {"code": "x" * 10_000, "msg": "y" * 10_000}
    for about in ({"id": 77}, {"sid": venue.sid("trade")}):
        venue.hear({"type": "error", "msg": long} | about, 1.0)
    venue.hear({"type": "error", "msg": long | {"code": 10}, "sid": venue.sid("trade")}, 1.0)
    assert all(len(orjson.dumps(notice.facts)) < 500 for notice in venue.notices)
    assert len(venue.session.trouble) < 300


def limited(venue: Venue, most: int, refuse: Callable[[str], bool] = lambda _: False, code: int = 26) -> None:
    """Let the venue take so many markets a subscription, and refuse some of them."""

    def reply(command: Message) -> Message | None:
        names = set(command["params"].get("market_tickers", ()))
        if not names or command["params"].get("action") == "delete_markets":
            return None
        held = set() if command["cmd"] == "subscribe" else venue.held[command["params"]["sids"][0]][1]
        return error(code) if len(held | names) > most or any(map(refuse, names)) else None

    venue.reply = reply


@pytest.mark.parametrize("most", [0, 1, 130, 399])
def test_a_limit_is_found_by_halving(most: int) -> None:
    """Where the venue takes fewer markets, as many as it takes are held; the others are left out with one notice."""
    names = numbered(500)
    venue = Venue(KalshiSession(followed(*names)))
    limited(venue, most)
    venue.run(0, 5)
    if most:
        assert len(venue.markets("trade")) == len(venue.markets("ticker")) == most
    told = [notice for notice in venue.notices if notice.event == "market.refused"]
    assert {notice.facts["channel"] for notice in told} == {"ticker", "trade"}
    assert {notice.facts["left_out"] for notice in told} == {500 - most}
    assert len(venue.commands) < 200
    assert venue.session.ready == (most > 0)
    limited(venue, 1000)
    venue.run(5, 400)
    assert venue.markets("trade") == venue.markets("ticker") == set(names)


def test_room_is_used() -> None:
    """Where a subscription is full, markets that are over make room for those that were left out, at once."""
    names = numbered(20)
    venue = Venue(KalshiSession(markets := followed(*names[:10])))
    limited(venue, 10)
    venue.run(0, 5)
    markets.wanted = frozenset(names)
    venue.run(5, 10)
    assert venue.markets("trade") == set(names[:10])
    markets.wanted = frozenset(names[10:])
    venue.run(10, 30)
    assert venue.markets("trade") == venue.markets("ticker") == set(names[10:])


@pytest.mark.parametrize("code", [11, 16])
def test_one_bad_market(code: int) -> None:
    """A market that the venue does not know is left out, and all others are held; it is offered again now and then."""
    names = numbered(400)
    venue = Venue(KalshiSession(followed(*names)))
    limited(venue, 1000, lambda name: name == names[123], code)
    venue.run(0, 60)
    assert venue.markets("trade") == set(names) - {names[123]}
    (ticker, trade) = venue.notices
    assert {ticker.facts["market"], trade.facts["market"]} == {names[123]}
    assert len(venue.commands) < 80
    assert venue.session.ready
    venue.run(60, 3600)
    assert len(venue.commands) < 200
    assert len(venue.notices) == 2
    limited(venue, 1000)
    venue.run(3600, 4000)
    assert venue.markets("trade") == set(names)


def test_a_venue_that_takes_no_market() -> None:
    """Where every market is refused, they are offered one a second, not as fast as the venue answers."""
    venue = Venue(KalshiSession(followed(*numbered(1000))))
    limited(venue, 1000, lambda _: True, 16)
    venue.run(0, 300)
    assert len(venue.commands) < 2 * 350
    assert len(venue.notices) == 2


def test_what_is_left_out_and_over_is_forgotten() -> None:
    """A market that is no longer wanted is not remembered as left out."""
    names = numbered(4)
    venue = Venue(KalshiSession(markets := followed(*names)))
    limited(venue, 1000, lambda name: name != names[0], 16)
    venue.run(0, 60)
    markets.wanted = frozenset(names[:1])
    venue.run(60, 70)
    assert [channel.left_out for channel in venue.session._channels] == [frozenset()] * 4


@pytest.mark.parametrize("code", [11, 16, 26])
def test_a_deletion_that_is_refused(code: int) -> None:
    """What the venue does not let go is taken for gone: it is told once, and not asked for again and again."""
    venue, markets = begun(*numbered(50))
    venue.reply = lambda command: error(code) if command["params"].get("action") == "delete_markets" else None
    markets.wanted = frozenset(numbered(10))
    assert len(venue.turn(1.0)) == 2
    assert venue.run(2, 1000) == []
    assert [notice.event for notice in venue.notices] == ["channel.error"] * 2


def test_an_ok_that_leaves_out() -> None:
    """What an `ok` does not list, the venue does not know: it is not added again before five minutes are over."""
    venue, markets = begun("M1")
    markets.wanted |= {"M2", "M3"}

    def reply(command: Message) -> Message | None:
        sid = command["params"].get("sids", [0])[0]
        return {"type": "ok", "sid": sid, "seq": 1, "msg": {"market_tickers": ["M1", "M2"]}}

    venue.reply = reply
    assert len(venue.turn(1.0)) == 2
    assert venue.run(2, 299) == []
    assert {each["params"]["market_tickers"][0] for each in venue.run(299, 310)} == {"M3"}


@pytest.mark.parametrize("listed", [list, lambda _: [], lambda _: ["other"], lambda _: [5], lambda _: None, len])
def test_an_ok_that_lists_something_else(listed: Callable[[Sequence[str]], Any]) -> None:
    """A venue that lists only what was added, or nothing of it, does not make adding go on and on."""
    names = numbered(900)
    venue = Venue(KalshiSession(followed(*names)))

    def reply(command: Message) -> Message | None:
        if command["cmd"] == "subscribe":
            return None
        sid = command["params"]["sids"][0]
        return {"type": "ok", "sid": sid, "msg": {"market_tickers": listed(command["params"]["market_tickers"])}}

    venue.reply = reply
    venue.run(0, 3600, every_s=2.0)
    assert len(venue.commands) < 300


def test_commands_that_are_not_answered() -> None:
    """A command that is not answered within 10 s is sent again; after three times the connection is given up."""
    venue = Venue(KalshiSession(followed("M1")))
    venue.mute = lambda _: True
    with pytest.raises(RefusedError, match="3 commands about market_lifecycle_v2"):
        venue.run(0, 120)
    assert venue.times[-1] > 20
    assert Counter(venue.channel(each) for each in venue.commands)["trade"] == 3


def test_an_index_that_is_not_answered() -> None:
    """The optional channel alone does not end the connection: it is told, and asked for again every five minutes."""
    venue = Venue(KalshiSession(followed("M1")))
    venue.mute = lambda command: venue.channel(command) == "cfbenchmarks_value"
    venue.run(0, 3600)
    assert venue.session.ready
    asked = [each for each in venue.commands if venue.channel(each) == "cfbenchmarks_value"]
    assert 12 <= len(asked) <= 36
    venue.hear({"type": "ok"}, 3600.0)
    assert [(notice.level, notice.event) for notice in venue.notices] == [("warning", "channel.refused")]
    assert "not answered" in venue.session.trouble


def test_an_error_is_an_answer() -> None:
    """Commands that are now and then not answered, between others that are refused, do not end the connection."""
    venue, markets = begun("M1")
    turns = cycle((True, False))
    venue.mute = lambda command: venue.channel(command) == "trade" and next(turns)
    venue.reply = lambda command: error(18) if venue.channel(command) == "trade" else None
    markets.wanted |= {"M2"}
    venue.run(1, 1500)


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "subscribed", "msg": {"channel": "trade"}},
        {"type": "subscribed", "msg": {"channel": "trade", "sid": "5"}},
        {"type": "subscribed", "msg": {"channel": "trade", "sid": True}},
        {"type": "subscribed", "msg": [{"sid": 5}]},
        {"type": "subscribed"},
        {"type": "ok", "msg": []},
    ],
)
def test_an_answer_without_a_subscription(answer: Message) -> None:
    """An answer that names no subscription is none: after three of them the connection is given up."""
    venue = Venue(KalshiSession(followed("M1")))
    venue.reply = lambda command: answer if venue.channel(command) == "trade" else None
    with pytest.raises(RefusedError, match="trade"):
        venue.run(0, 60)
    assert len([each for each in venue.commands if venue.channel(each) == "trade"]) == 3


def test_a_subscription_named_at_the_top() -> None:
    """An old page has the `sid` beside the type: that counts too."""
    venue = Venue(KalshiSession(followed("M1")))
    venue.reply = lambda command: {"type": "subscribed", "sid": command["id"], "msg": {}}
    venue.turn(0.0)
    assert venue.session.ready


def test_an_update_that_is_confirmed_without_its_number() -> None:
    """An `ok` to an update need not name the subscription again."""
    venue, markets = begun("M1")
    venue.reply = lambda _: {"type": "ok", "msg": {}}
    markets.wanted |= {"M2"}
    assert len(venue.turn(1.0)) == 2
    assert venue.run(2, 100) == []


def test_the_end_of_a_connection() -> None:
    """After the end quotes come by REST again, and another connection asks for everything anew."""
    venue, markets = begun("M1")
    quoted = [markets.quoted]
    venue.session.end()
    quoted.append(markets.quoted)
    again = Venue(KalshiSession(markets))
    assert [again.channel(each) for each in again.turn(50.0)] == list(CHANNELS)
    assert [*quoted, markets.quoted] == [True, False, True]


def test_what_was_not_told_is_asked_for() -> None:
    """While the lifecycle channel was gone, nothing was told of any market: when it is back all lists are asked for."""
    venue, markets = begun("M1")
    while (request := markets.due(50.0)) is not None:
        markets.take(request, b'{"markets":[]}', 50.0)
    assert markets.due(90.0) is None
    venue.hear(error(25, sid=venue.sid("market_lifecycle_v2")), 100.0)
    venue.run(100, 102)
    asked = set()
    while (request := markets.due(102.0)) is not None:
        asked.add(request.query.get("status", "event"))
        markets.take(request, b'{"markets":[]}', 102.0)
    assert asked >= {"open", "unopened", "closed"}


def test_what_is_listened_to() -> None:
    """Answers and the lives of followed markets are heard; data, and others' lives, are not."""
    session = KalshiSession(followed("M1"))
    heard = [
        b'{"id":1,"type":"subscribed","msg":{"channel":"ticker","sid":1}}',
        b'{"type" : "error","msg":{"code":10},"sid":1}',
        b'{"id":5,"sid":1,"seq":2,"type":"ok","msg":{"market_tickers":[]}}',
        b'{"sid":2,"type":"unsubscribed"}',
        b'{"type":"market_lifecycle_v2","sid":4,"msg":{"market_ticker":"KXBTCD-1","event_type":"created"}}',
    ]
    others = [
        b'{"type":"ticker","sid":1,"msg":{"market_ticker":"KXBTCD-1"}}',
        b'{"type":"market_lifecycle_v2","sid":4,"msg":{"market_ticker":"KXOTHER-1","event_type":"created"}}',
        b'{"type":"cfbenchmarks_value","sid":5,"msg":{"data":"{\\"type\\":\\"error\\"}"}}',
        b"",
        b"\xff\x00",
        b"[" * 1000,
    ]
    assert [session.listens(each) for each in heard] == [True] * len(heard)
    assert [session.listens(each) for each in others] == [False] * len(others)


def test_a_step_of_a_market_is_handed_on() -> None:
    """A lifecycle message of a followed series changes what is wanted; one that only names the series does not."""
    venue, markets = begun("M1", f"{SERIES}-1")
    step = {"type": "market_lifecycle_v2", "sid": 1, "msg": {"market_ticker": f"{SERIES}-1", "event_type": "settled"}}
    venue.hear(step | {"msg": {"market_ticker": f"X{SERIES}-1", "event_type": "settled"}}, 1.0)
    assert markets.wanted == {"M1", f"{SERIES}-1"}
    venue.hear(step, 1.0)
    assert markets.wanted == {"M1"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 30)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["M1", "M2", "ticker", "trade", "ok"])
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["code", "msg", "sid", "channel", "market_tickers", "market_ticker", "event_type"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
ANSWERS = st.fixed_dictionaries(
    {"type": st.sampled_from(["subscribed", "ok", "error", "unsubscribed", "market_lifecycle_v2"]) | JSON},
    optional={"id": st.integers(1, 40) | JSON, "sid": st.integers(1, 5) | JSON, "msg": JSON, "seq": JSON},
)


@settings(max_examples=200)
@given(st.lists(st.one_of(ANSWERS, JSON, st.binary(max_size=20)), max_size=40), st.booleans())
def test_any_answers(told: list[Any], obeys: bool) -> None:  # noqa: FBT001
    """Whatever is told, nothing but RefusedError is raised, and what is said is bounded, at every moment and in all."""
    venue = Venue(KalshiSession(followed("M1", "M2", "M3")))
    if not obeys:
        venue.mute = lambda _: True
    now_s = 0.0
    try:
        for each in told:
            now_s += 0.5
            assert len(venue.turn(now_s)) <= 16
            venue.session.hear(each if isinstance(each, bytes) else json.dumps(each).encode(), now_s)
        venue.run(now_s, now_s + 120, every_s=1.0)
    except RefusedError:
        assert len(venue.commands) < 400
        return
    assert len(venue.commands) < 400
    assert len(venue.session._waiting) <= 4


@settings(max_examples=60)
@given(st.lists(ANSWERS, min_size=1, max_size=8))
def test_any_answers_again_and_again(answers: list[Message]) -> None:
    """A venue that answers every command with the same nonsense for an hour is asked a few hundred times at most."""
    venue = Venue(KalshiSession(followed("M1", "M2", "M3")))
    turns = cycle(answers)
    venue.reply = lambda command: next(turns) | {"id": command["id"]}
    with suppress(RefusedError):
        venue.run(0, 600, every_s=1.0)
    assert len(venue.commands) < 4 * 100


def test_required_channels_decide() -> None:
    """It is ready exactly when every channel but the index is confirmed, and says which are not."""
    session = KalshiSession(followed("M1"))
    venue = Venue(session)
    commands = [orjson.loads(each) for each in session.say(0.0)]
    for command in commands:
        assert not session.ready or venue.channel(command) not in REQUIRED
        assert venue.channel(command) in session.trouble
        venue.hear({"id": command["id"]} | venue.obey(command), 0.0)
        assert venue.channel(command) not in session.trouble
    assert session.ready


def test_a_silent_channel_is_subscribed_to_anew() -> None:
    """A channel without data, on a connection that has others', is left and begun again; it is told once."""
    venue, markets = begun("M1", "M2")
    venue.run(0, 100)
    venue.silent = {"ticker"}
    before = venue.sid("ticker")
    left, begun_anew = venue.run(100, 114)
    assert (left["cmd"], left["params"]["sids"]) == ("unsubscribe", [before])
    assert (begun_anew["cmd"], venue.channel(begun_anew)) == ("subscribe", "ticker")
    refused, confirmed = venue.notices
    assert (refused.event, refused.facts["channel"]) == ("channel.refused", "ticker")
    assert (refused.facts["error"], confirmed.event) == ("silent for 10 s", "channel.confirmed")
    venue.silent = set()
    assert venue.run(114, 200) == []
    assert (venue.session.ready, markets.quoted) == (True, True)


def test_silence_that_another_subscription_does_not_end() -> None:
    """Armed from the subscription on: quotes that never come, also after another try, are worth another connection."""
    venue, _ = begun("M1")
    venue.silent = {"ticker"}
    with pytest.raises(RefusedError, match="ticker is silent"):
        venue.run(0, 130)


def test_an_optional_channel_that_stays_silent() -> None:
    """It costs no connection, is asked for more and more rarely, and told once, until it brings something again."""
    venue, _ = begun("M1")
    venue.silent = {"cfbenchmarks_value"}
    asked = len(venue.times)
    assert {venue.channel(each) for each in venue.run(0, 4000) if each["cmd"] == "subscribe"} == venue.silent
    times = [now_s for now_s, each in zip(venue.times, venue.commands, strict=True) if each["cmd"] == "unsubscribe"]
    assert len(venue.times) == asked + 2 * len(times)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [pause // 10 for pause in pauses[:5]] == [1, 2, 4, 8, 16]
    assert all(300 < pause < 370 for pause in pauses[6:])
    assert venue.session.ready
    assert venue.session.trouble.startswith("cfbenchmarks_value: silent for 30")
    assert [notice.event for notice in venue.notices] == ["channel.refused"]
    venue.silent = set()
    venue.run(4000, 4001)
    assert venue.session.trouble == ""
    assert venue.session.listens(b'{"type":"ticker"}')  # whatever comes next lets it be told
    venue.hear({"type": "ticker", "sid": 1, "msg": {}}, 4001.0)
    assert not venue.session.listens(b'{"type":"ticker"}')
    assert [notice.event for notice in venue.notices] == ["channel.refused", "channel.confirmed"]
    venue.silent = {"cfbenchmarks_value"}
    venue.run(4001, 4060)
    assert [notice.event for notice in venue.notices] == ["channel.refused", "channel.confirmed", "channel.refused"]


def test_a_pause_of_this_side_is_no_silence() -> None:
    """Neither channels nor commands whose messages were not read are given up; what is silent afterwards is."""
    venue, _ = begun("M1")
    venue.run(0, 100)
    venue.mute = lambda _: True
    venue.hear({"type": "unsubscribed", "sid": venue.sid("trade"), "seq": 3}, 100.0)
    assert [venue.channel(each) for each in venue.run(100, 104)] == ["trade"]
    venue.session.resumed(3600)
    assert venue.run(3704, 3708) == []
    assert [venue.channel(each) for each in venue.run(3708, 3718)] == ["trade"]
    venue.mute, venue.silent = lambda _: False, {"ticker"}
    assert "unsubscribe" in [each["cmd"] for each in venue.run(3718, 3735)]


def test_rare_trades_never_cost_the_connection() -> None:
    """Trades and steps of life that stay away are asked for again, more and more rarely, and nothing else."""
    venue, _ = begun("M1")
    venue.silent = {"trade", "market_lifecycle_v2"}
    again = [venue.channel(each) for each in venue.run(0, 7200) if each["cmd"] == "subscribe"]
    assert set(again) == {"trade", "market_lifecycle_v2"}
    assert 2 <= len(again) <= 60


def test_nothing_is_expected_where_nothing_trades() -> None:
    """In a pause of the exchange, and without an open market, silence is no fault; the index goes on."""
    venue, markets = begun("M1")
    markets.exchange_trades = False
    venue.silent = {"ticker", "trade", "market_lifecycle_v2"}
    assert venue.run(0, 7200) == []
    markets.exchange_trades = True
    venue.run(7200, 7300)
    assert any(each["cmd"] == "unsubscribe" for each in venue.commands)


def test_the_limit_follows_the_rate() -> None:
    """A channel that usually comes every ten seconds is not taken for silent after a minute."""
    venue, _ = begun("M1")
    for number in range(1000):
        venue.silent = set() if number % 20 == 0 else {"ticker"}
        venue.turn(number / 2)
    venue.silent = {"ticker"}
    assert venue.run(500, 600) == []
    assert venue.run(600, 720) != []
