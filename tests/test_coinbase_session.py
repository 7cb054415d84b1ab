"""What is said to Coinbase: a channel that falls silent is begun anew, and only then the connection given up."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import orjson
import pytest
from samples import heartbeat, match, subscriptions, ticker

from recio_ingest.errors import RefusedError
from recio_ingest.feeds.coinbase_session import CoinbaseSession

MESSAGES = {"matches": match(), "ticker": ticker()}


class Venue:
    """A venue that trades five times a second, and tells what the test lets it."""

    def __init__(self) -> None:
        self.session = CoinbaseSession(["BTC-USD"])
        self.notices: list[str] = []
        self.session.say(0)
        self.tell(subscriptions(), 0)
        self.silent: Collection[str] = ()
        self.trading = True
        self._last = 1000

    def tell(self, message: object, now_s: float) -> None:
        """Send one message as the stream hands it on."""
        data = orjson.dumps(message)
        if self.session.listens(data):
            self.notices += [notice.facts["channel"] for notice in self.session.hear(data, now_s)]

    def run(self, from_s: int, to_s: int) -> list[tuple[str, tuple[str, ...]]]:
        """Let seconds pass; return what was asked for."""
        asked = []
        for now_s in range(from_s, to_s):
            self._last += 5 if self.trading else 0
            for channel, message in MESSAGES.items():
                if self.trading and channel not in self.silent:
                    self.tell(message, now_s)
            if "heartbeat" not in self.silent:
                self.tell(heartbeat(last_trade_id=self._last), now_s)
            for each in self.session.say(now_s):
                order = orjson.loads(each)
                asked.append((order["type"], tuple(order["channels"])))
        return asked


@pytest.mark.parametrize("channel", ["matches", "ticker", "heartbeat"])
def test_a_silent_channel_is_begun_anew(channel: str) -> None:
    """A channel that brings nothing, while others tell of trades, is left and asked for again; then all is well."""
    venue = Venue()
    assert venue.run(0, 60) == []
    venue.silent = {channel}
    assert venue.run(60, 68) == [("unsubscribe", (channel,)), ("subscribe", (channel,))]
    venue.silent = ()
    assert venue.run(68, 200) == []
    assert (venue.notices, venue.session.ready) == ([channel], True)


def test_trades_that_stay_away_cost_the_connection() -> None:
    """What another subscription does not bring back is worth another connection, within some fifteen seconds."""
    venue = Venue()
    venue.silent = {"matches"}
    with pytest.raises(RefusedError, match="matches is silent for 5 s"):
        venue.run(0, 16)


def test_tickers_that_stay_away_cost_no_connection() -> None:
    """They are asked for more and more rarely, every five minutes in the end; it is told once, until they are back."""
    venue = Venue()
    venue.silent = {"ticker"}
    times = [now_s for now_s in range(4000) if venue.run(now_s, now_s + 1)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [round(pause, -1) for pause in pauses[:6]] == [10, 20, 40, 80, 160, 300]
    assert set(pauses[6:]) == {302}  # the second in which it is owed again, and the one in which that is too long
    assert (venue.notices, venue.session.ready, venue.session.trouble) == (["ticker"], True, "ticker is silent")
    venue.silent = ()
    venue.run(4000, 4100)
    assert venue.session.trouble == ""
    venue.silent = {"ticker"}
    assert len(venue.run(4100, 4108)) == 2
    venue.run(4108, 4110)
    assert venue.notices == ["ticker", "ticker"]


def test_a_connection_without_anything_is_given_up() -> None:
    """Armed from the subscription on: where nothing at all comes, two tries are enough."""
    venue = Venue()
    venue.silent = {"matches", "ticker", "heartbeat"}
    with pytest.raises(RefusedError, match="heartbeat is silent for 5 s"):
        venue.run(0, 16)


def test_trades_without_heartbeats_are_kept() -> None:
    """Heartbeats that stay away are asked for once more; while trades come, they cost no connection."""
    venue = Venue()
    venue.silent = {"heartbeat"}
    assert venue.run(0, 600) == [("unsubscribe", ("heartbeat",)), ("subscribe", ("heartbeat",))]


def test_a_market_without_trades_is_not_silent() -> None:
    """Heartbeats that tell of no trade, and no matches, are a quiet market and nothing else."""
    venue = Venue()
    venue.trading = False
    assert venue.run(0, 7200) == []


def test_heartbeats_prove_nothing_for_others() -> None:
    """A heartbeat a second does not keep a stalled channel alive."""
    venue = Venue()
    venue.silent = {"matches"}
    assert venue.run(0, 8) != []


def test_a_pause_of_this_side_is_no_silence() -> None:
    """What was not read is no reproach, in a confirmed connection or before; what is silent afterwards is."""
    venue = Venue()
    assert venue.run(0, 60) == []
    venue.session.resumed(3600)
    assert venue.run(3660, 3800) == []
    venue.silent = {"matches"}
    assert venue.run(3800, 3808) == [("unsubscribe", ("matches",)), ("subscribe", ("matches",))]
    session = CoinbaseSession(["BTC-USD"])
    session.say(0)
    session.resumed(60)
    assert session.say(65) == ()
    with pytest.raises(RefusedError, match="not confirmed"):
        session.say(71)


@pytest.mark.parametrize(
    "message", [{"type": "heartbeat"}, {"type": "heartbeat", "product_id": [], "last_trade_id": 1}]
)
def test_odd_heartbeats_say_nothing(message: object) -> None:
    """A heartbeat of another shape is for the parser to tell."""
    venue = Venue()
    venue.tell(message, 1)
    assert venue.run(1, 4) == []
