"""The ladder, from rows alone: what is on it, at what price, how far from the spot, and when it leaves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from recio_ingest import feeds
from recio_ingest.decode import Decoder
from recio_ingest.errors import BadMessageError
from recio_ingest.records import (
    DAEMON_FEED,
    BtcPrice,
    Frame,
    Kind,
    LiveStrike,
    MarketEvent,
    MarketState,
    Outcome,
    Row,
)
from recio_ingest.strikes import Ladder

SECOND = 1_000_000
START = 1_790_000_000 * SECOND
CLOSES = START + 1800 * SECOND
EVENT = "E-1"


def market(strike: int, event: str = EVENT, *, at: int = START, **changes: Any) -> MarketState:
    """An active market that pays above a strike, as REST describes it."""
    facts: dict[str, Any] = {
        "event_ticker": event,
        "status": "active",
        "strike_type": "greater",
        "floor_strike": f"{strike}.99",
        "close_time": CLOSES,
    }
    return MarketState(at, at, "v", f"{event}-T{strike}", 1, **(facts | changes))


def quote(strike: int, bid: str | None, event: str = EVENT, kind: str = "ticker", **more: Any) -> MarketEvent:
    """A quote of one market; a step of its life with another `kind`."""
    return MarketEvent(START, START, "v", f"{event}-T{strike}", kind, 2, yes_bid=bid, **more)


def spot(price: str, at: int = START, *, index: bool = False, received_at: int | None = None) -> BtcPrice:
    """A trade, or a print of the index."""
    source = feeds.spot_sources()[0 if index else 1]
    arrival = at if received_at is None else received_at
    return BtcPrice(at, arrival, source.venue, source.symbol, price, None, None, None, None, None, 3)


def ladder(*rows: Row) -> Ladder:
    """A ladder that has seen these rows."""
    made = Ladder(feeds.spot_sources(), {}, {})
    made.see(rows)
    return made


def tick(after_s: float = 1, frame_no: int = 9) -> Frame:
    """The mark of a second."""
    return Frame(frame_no, (START + round(after_s * SECOND)) * 1000, DAEMON_FEED, Kind.TICK, b"")


def names(rows: Iterable[LiveStrike]) -> list[str]:
    """The markets of some rows."""
    return [row.ticker.rpartition("-T")[2] for row in rows]


def strikes(count: int, event: str = EVENT) -> list[MarketState]:
    """A ladder's markets, a thousand apart, from 1,000.99 on."""
    return [market(1000 * number, event) for number in range(1, count + 1)]


def test_a_row_in_full() -> None:
    """A row has the newest quote, the spot, and the exact distance and time that are left."""
    made = ladder(market(60000, open_time=START - 1), spot("60123.450"))
    made.see([quote(60000, "0.4400", yes_ask="0.4700", no_bid="0.5300", no_ask="0.5600", last_price="0.4500",
                    volume="12.50", open_interest="3.00")])  # fmt: skip
    at = START + 1_234_567
    assert made.at(tick(1.234567)) == (
        LiveStrike(at, at, EVENT, "E-1-T60000", "60000.99", "greater", "0.4400", "0.4700", "0.5300", "0.5600",
                   "0.4500", "12.50", "3.00", "60123.450", feeds.spot_sources()[1].name, "122.460", "1798.765", 9),
    )  # fmt: skip


def test_only_what_changed_and_the_nearest() -> None:
    """At first all strikes have a row; then the ten nearest, and a far one whose quote is another than in its last."""
    made = ladder(*strikes(40), spot("20500"))
    assert len(made.at(tick(1))) == 40
    near = [str(1000 * number) for number in range(16, 26)]
    assert names(made.at(tick(2))) == near
    made.see([quote(1000, "0.9900"), quote(40000, "0.0100")])
    assert names(made.at(tick(3))) == ["1000", *near, "40000"]
    made.see([quote(1000, "0.9900", volume="7.00"), quote(40000, "0.0200"), quote(40000, "0.0100")])
    assert names(made.at(tick(4))) == near, "neither a volume nor a quote that is back is a change"


@pytest.mark.parametrize(("price", "first"), [("0.01", 1), ("5001", 1), ("6000.99", 1), ("6001", 2), ("99999", 11)])
def test_ten_nearest_at_both_ends(price: str, first: int) -> None:
    """Below and above all strikes the ten at that end are the nearest; of two as far, the lower one is nearer."""
    made = ladder(*strikes(20), spot(price))
    made.at(tick(1))
    wanted = [str(1000 * number) for number in range(first, first + 10)]
    assert names(made.at(tick(2))) == wanted
    by_distance = sorted(range(1, 21), key=lambda number: abs(Decimal(price) - Decimal(f"{1000 * number}.99")))
    assert set(by_distance[:10]) == set(range(first, first + 10))


def test_a_short_ladder_is_all_near() -> None:
    """With fewer than ten strikes each has a row every second, and each open event has its own ten."""
    made = ladder(*strikes(3), *strikes(12, "E-2"), spot("100"))
    made.at(tick(1))
    assert names(made.at(tick(2))) == ["1000", "2000", "3000", *(str(1000 * number) for number in range(1, 11))]


def test_the_hour_boundary() -> None:
    """An event has rows until its close and none from then on; the next has rows from its activation on."""
    made = ladder(market(60000), spot("60000"))
    made.see([market(61000, "E-2", status="initialized", close_time=CLOSES + 3600 * SECOND)])
    (last,) = made.at(tick(1799.999))
    assert (last.event_ticker, last.seconds_to_close) == (EVENT, "0.001")
    assert made.at(tick(1800)) == ()
    made.see([quote(61000, None, "E-2", kind="activated")])
    (row,) = made.at(tick(1801))
    assert (row.event_ticker, row.yes_bid, row.seconds_to_close) == ("E-2", None, "3599.000")


@pytest.mark.parametrize("word", ["deactivated", "determined", "settled"])
def test_a_market_that_ends_leaves(word: str) -> None:
    """A step that ends a market takes it off the ladder at once; one that says nothing of that does not."""
    made = ladder(market(60000), market(61000), spot("60000"))
    made.see([quote(60000, None, kind="metadata_updated")])
    assert names(made.at(tick(1))) == ["60000", "61000"]
    made.see([quote(60000, None, kind=word)])
    assert names(made.at(tick(2))) == ["61000"]


@pytest.mark.parametrize("status", ["initialized", "inactive", "closed", "determined", "finalized"])
def test_a_described_end_counts_too(status: str) -> None:
    """What REST says of a market's status counts as a step does, and so does its opening again."""
    made = ladder(market(60000), spot("60000"))
    made.see([market(60000, status=status)])
    assert made.at(tick(1)) == ()
    made.see([market(60000)])
    assert names(made.at(tick(2))) == ["60000"]


def test_what_is_told_in_parts() -> None:
    """A strike, or another close, that comes later and alone is put over what was known."""
    made = ladder(market(60000, floor_strike=None), spot("60000"))
    assert made.at(tick(1)) == ()
    made.see([market(60000, status=None, close_time=None, strike_type=None)])
    (row,) = made.at(tick(2))
    assert (row.strike_price, row.distance) == ("60000.99", "-0.99")
    made.see([market(60000, status=None, close_time=START + 3 * SECOND)])
    assert made.at(tick(3)) == ()


@pytest.mark.parametrize(
    ("kind", "strike"),
    [("greater_or_equal", "1.5"), ("less", "2.5"), ("less_or_equal", "2.5"), ("between", "1.5"), ("custom", None),
     ("\x00", None)],
)  # fmt: skip
def test_which_number_is_the_strike(kind: str, strike: str | None) -> None:
    """The floor; of `less` the cap; of `between` the floor; a market of another kind has no place on the ladder."""
    made = ladder(market(1, strike_type=kind, floor_strike="1.5", cap_strike="2.5"))
    assert [row.strike_price for row in made.at(tick())] == ([strike] if strike else [])


@pytest.mark.parametrize("event", [None, "", "E\x00", "\ud800"])
def test_a_name_that_no_table_takes(event: str | None) -> None:
    """A market whose event has no usable name costs nothing but its own place."""
    made = ladder(market(1, event_ticker=event), market(2))
    assert names(made.at(tick())) == ["2"]


def test_the_index_stops_and_comes_back() -> None:
    """The index is the spot until five seconds after its last print, then the newest trade is, then the index again."""
    made = ladder(market(60000), spot("60001", index=True), spot("60002", START + SECOND))
    index, trades = (source.name for source in feeds.spot_sources())
    seen = [row for after in (1, 5, 5.000001) for row in made.at(tick(after))]
    assert [(row.spot_source, row.spot_price) for row in seen] == [
        (index, "60001"),
        (index, "60001"),
        (trades, "60002"),
    ]
    made.see([spot("60003", START + 6 * SECOND, index=True)])
    assert [row.spot_source for row in made.at(tick(7))] == [index]


def test_an_old_price_is_no_spot() -> None:
    """A minute after the last trade there is none, and no distance; the strikes around it have rows all the same."""
    made = ladder(*strikes(40), spot("20500"), spot("30500", START - 600 * SECOND, index=True))
    made.at(tick(1))
    seen = [made.at(tick(after_s)) for after_s in (60, 60.000001, 1700)]
    assert [{(row.spot_price, row.spot_source is None, row.distance is None) for row in rows} for rows in seen] == [
        {("20500", False, False)}, {(None, True, True)}, {(None, True, True)},
    ]  # fmt: skip
    assert [names(rows) for rows in seen] == [[str(1000 * number) for number in range(16, 26)]] * 3
    made.see([spot("21500", START + 1701 * SECOND)])
    assert {row.spot_price for row in made.at(tick(1701))} == {"21500"}


def test_without_a_spot() -> None:
    """Before any price is known a strike has its quote, and no distance; nothing is near."""
    made = ladder(market(60000))
    assert [(row.spot_price, row.spot_source, row.distance) for row in made.at(tick(1))] == [(None, None, None)]
    assert made.at(tick(2)) == ()


def test_late_and_future_prices() -> None:
    """A trade that comes late is not the newest; one from the future is, but only until the next one comes."""
    made = ladder(market(60000), spot("3", START + 3), spot("2", START + 2, received_at=START + 4))
    assert [row.spot_price for row in made.at(tick(1))] == ["3"]
    made.see([spot("4", START + 600 * SECOND, received_at=START + 5)])
    assert [row.spot_price for row in made.at(tick(2))] == ["4"]
    made.see([spot("5", START + 6)])
    assert [row.spot_price for row in made.at(tick(3))] == ["5"]


def test_decimals_are_exact() -> None:
    """Forty digits are no more rounded than four, and nothing has an exponent."""
    strike, price = "12345678901234567890.12345678901234567891", "0.00000000000000000001"
    made = ladder(market(1, floor_strike=strike), spot(price))
    (row,) = made.at(tick())
    assert row.distance == "-12345678901234567890.12345678901234567890"
    assert (row.strike_price, row.spot_price) == (strike, price)


def test_quotes_before_the_description() -> None:
    """A market that nobody described has no place, and its quotes no memory; a REST quote counts as a ticker does."""
    made = ladder(quote(60000, "0.1000"), market(60000), spot("60000"))
    assert [row.yes_bid for row in made.at(tick(1))] == [None]
    made.see([quote(60000, "0.2000", kind="rest_quote"), quote(60000, "0.3000", kind="trade")])
    assert [row.yes_bid for row in made.at(tick(2))] == ["0.2000"]


def test_prices_that_are_no_spot() -> None:
    """Another product's trades say nothing."""
    made = ladder(market(60000), spot("1")._replace(symbol="ETH-USD"))
    assert [row.spot_price for row in made.at(tick())] == [None]


def test_what_is_over_is_forgotten() -> None:
    """After a thousand hours the ladder knows the open hour, and nothing of those before."""
    made = ladder()
    for hour in range(1000):
        closes = START + (hour + 1) * 3600 * SECOND
        made.see([market(n, f"E-{hour}", close_time=closes) for n in range(20)])
        made.see([quote(n, "0.5000", f"E-{hour}") for n in range(20)])
        assert len(made.at(tick(hour * 3600 + 1))) == 20
    assert {len(kept) for kept in (made._markets, made._quotes, made._last)} == {20}
    assert not made._changed


def test_a_mark_out_of_the_quarantine() -> None:
    """A second's mark that stands alone is refused: its ladder cannot be made again from it."""
    with pytest.raises(BadMessageError, match="alone"):
        Decoder({}).decode_one(tick()._replace(kind=Kind.DATA))


def test_a_refused_row_of_a_mark() -> None:
    """A mark that loses a row is counted as quarantined instead of as control: the books still balance."""
    batch = Decoder({}).decode([tick()]).moved({9}, Outcome.QUARANTINED)
    assert {outcome: count for outcome, count in batch.counts.items() if count} == {Outcome.QUARANTINED: 1}


def _cost_ms(made: Ladder, changes: Sequence[MarketEvent], rounds: int = 50) -> float:
    took = []
    for number in range(rounds):
        made.see([each._replace(yes_bid=f"0.{number + 10}00") for each in changes])
        began = time.perf_counter()
        made.at(tick(number + 2))
        took.append(time.perf_counter() - began)
    return min(took) * 1000


def test_a_tick_costs_little() -> None:
    """What a second's mark of 400 open strikes costs follows what has changed: 1 to 2 ms for all, far less for none."""
    made = ladder(*strikes(400), spot("200000"))
    made.at(tick(1))
    all_ms, none_ms = _cost_ms(made, [quote(1000 * n, "0") for n in range(1, 401)]), _cost_ms(made, [])
    print(f"400 strikes: {all_ms:.3f} ms with all changed, {none_ms:.3f} ms with none")
    assert all_ms < 20  # a lent core took 2.005; comparing each with each would take hundreds
    assert none_ms < all_ms / 2
