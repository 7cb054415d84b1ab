"""Kalshi's messages: exact rows from good ones, one known error from all others, and no trace of what is refused."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import START_NS, control, data

from recio_ingest.decode import Decoder
from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Recalled, coinbase, kalshi
from recio_ingest.feeds.kalshi import KalshiParser
from recio_ingest.records import (
    DAEMON_FEED,
    BtcPrice,
    Frame,
    Gap,
    Kind,
    MarketEvent,
    MarketState,
    Outcome,
    Quarantined,
)

START_US = START_NS // 1000
MARKET = "KXBTCD-26SEP2111-T60199.99"


def sent(number: int, message: object) -> Frame:
    """Return a frame of this venue."""
    return data(number, message, feed="kalshi")


def quote(**changes: Any) -> dict[str, Any]:
    """Return a ticker."""
    body = {
        "market_ticker": MARKET, "market_id": "m-1", "price_dollars": "0.4500", "yes_bid_dollars": "0.4400",
        "yes_ask_dollars": "0.4700", "volume_fp": "120.50", "open_interest_fp": "80.00", "yes_bid_size_fp": "10.00",
        "yes_ask_size_fp": "20.00", "last_trade_size_fp": "1.00", "ts_ms": START_US // 1000,
    }  # fmt: skip
    return {"type": "ticker", "sid": 3, "msg": body | changes}


def trade(seq: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a trade."""
    body = {
        "trade_id": f"t-{seq}", "market_ticker": MARKET, "yes_price_dollars": "0.4600", "no_price_dollars": "0.5400",
        "count_fp": "3.25", "taker_outcome_side": "no", "ts_ms": START_US // 1000,
    }  # fmt: skip
    return {"type": "trade", "sid": 2, "seq": seq, "msg": body | changes}


def step(seq: int, word: str, **changes: Any) -> dict[str, Any]:
    """Return a lifecycle message."""
    return {
        "type": "market_lifecycle_v2",
        "sid": 4,
        "seq": seq,
        "msg": {"market_ticker": MARKET, "event_type": word} | changes,
    }


def index(seq: int, value: Any = "60123.45", **changes: Any) -> dict[str, Any]:
    """Return a print of the index."""
    inner = {"type": "value", "time": START_US // 1000 + seq * 1000, "id": "BRTI", "value": value} | changes
    return {"type": "cfbenchmarks_value", "sid": 5, "seq": seq, "msg": {"index_id": "BRTI", "data": json.dumps(inner)}}


def market(**changes: Any) -> dict[str, Any]:
    """Return one market of a REST answer."""
    return {
        "ticker": MARKET, "event_ticker": "KXBTCD-26SEP2111", "title": "Price?", "subtitle": "$60,200 or above",
        "status": "active", "strike_type": "greater", "floor_strike": 60199.99, "yes_bid_dollars": "0.0000",
        "yes_bid_size_fp": "0.00", "yes_ask_dollars": "0.0100", "yes_ask_size_fp": "5.00", "no_bid_dollars": "0.9900",
        "no_ask_dollars": "1.0000", "result": "", "expiration_value": "60,123.45", "close_time": "2026-09-21T15:00:00Z",
    } | changes  # fmt: skip


def test_a_ticker_has_both_scales() -> None:
    """NO's quotes are 1 minus YES's, exactly and with the venue's decimals."""
    (row,) = KalshiParser({}).decode(sent(1, quote())).rows
    assert isinstance(row, MarketEvent)
    assert (row.yes_bid, row.yes_ask, row.no_bid, row.no_ask) == ("0.4400", "0.4700", "0.5300", "0.5600")
    assert (row.ticker, row.last_price, row.volume, row.sid, row.seq) == (MARKET, "0.4500", "120.50", 3, None)


def test_an_empty_side_is_no_price() -> None:
    """Bid 0 and ask 1 with nothing behind them are NULL on both scales, and what is missing is NULL."""
    empty = {
        "yes_bid_dollars": "0.0000",
        "yes_bid_size_fp": "0.00",
        "yes_ask_dollars": "1.0000",
        "yes_ask_size_fp": "0.00",
    }
    (row,) = KalshiParser({}).decode(sent(1, quote(**empty, volume_fp=None))).rows
    assert isinstance(row, MarketEvent)
    assert (row.yes_bid, row.yes_ask, row.no_bid, row.no_ask, row.volume) == (None,) * 5


def test_numbers_of_a_subscription() -> None:
    """A jump is a gap, a repetition a duplicate, and another connection begins anew."""
    parser = KalshiParser({})
    parser.decode(sent(1, {"type": "subscribed", "id": 1, "msg": {"channel": "trade", "sid": 2}}))
    parser.decode(sent(2, {"type": "ok", "id": 2, "sid": 2, "seq": 1, "msg": {}}))
    outcome, found, _ = parser.decode(sent(3, trade(4)))
    assert outcome is Outcome.SHIPPED
    times = (START_US + 2000, START_US + 3000)
    assert found[1] == Gap(3, 1, "kalshi", "trade", "sid 2", "sequence", *times, 2, 3, 2)
    assert parser.decode(sent(4, trade(4))).outcome is Outcome.DUPLICATE
    assert parser.decode(sent(5, trade(5, trade_id="t-4"))).outcome is Outcome.DUPLICATE
    parser.decode(control(6, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"]))
    assert parser.decode(sent(7, trade(1))).outcome is Outcome.SHIPPED


def confirmed(number: int, sid: int, channel: str = "trade") -> Frame:
    """Return the confirmation of a subscription."""
    return sent(number, {"type": "subscribed", "id": sid, "msg": {"channel": channel, "sid": sid}})


def at_ms(number: int, message: dict[str, Any]) -> Frame:
    """Return a frame that the venue sent when it came, so many milliseconds after the start."""
    return sent(number, message | {"msg": message["msg"] | {"ts_ms": START_US // 1000 + number}})


def test_a_subscription_that_the_venue_forgot() -> None:
    """An error may name no subscription; the confirmation of the next one ends the old one, and opens its gap."""
    parser = KalshiParser({})
    parser.decode(control(1, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"]))
    parser.decode(confirmed(2, 3, "ticker"))
    parser.decode(confirmed(3, 2))
    parser.decode(at_ms(4000, trade(1)))
    parser.decode(at_ms(5000, quote()))
    forgotten = {"type": "error", "id": 9, "msg": {"code": 7, "msg": "Unknown subscription ID"}}
    assert parser.decode(sent(6000, forgotten)).rows == ()
    gap = Gap(7000, 3, "kalshi", "trade", "connection", "channel_lost", START_US + 4_000_000, None)
    assert parser.decode(confirmed(7000, 6)).rows == (gap, gap._replace(to_time=START_US + 7_000_000))
    assert sorted(parser.state()["sids"]) == ["3", "6"]
    assert parser.decode(at_ms(8000, trade(1, trade_id="t-9") | {"sid": 6})).outcome is Outcome.SHIPPED


def test_an_index_that_stays_silent() -> None:
    """Begun anew again and again, it is one gap, which only a print ends; so after an outage too."""
    parser = KalshiParser({})
    parser.decode(control(1, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"]))
    parser.decode(confirmed(2, 5, "cfbenchmarks_value"))
    parser.decode(sent(1000, index(1)))
    parser.decode(at_ms(9000, quote()))
    left = {"type": "unsubscribed", "id": 9, "sid": 5, "seq": 2}
    gap = Gap(11_000, 5, "kalshi", "cfbenchmarks_value", "connection", "channel_lost", START_US + 1_000_000, None)
    assert parser.decode(sent(11_000, left)).rows == (gap,)
    assert parser.decode(confirmed(12_000, 6, "cfbenchmarks_value")).rows == ()
    assert parser.decode(sent(22_000, left | {"sid": 6, "seq": 1})).rows == ()
    assert parser.decode(confirmed(23_000, 7, "cfbenchmarks_value")).rows == ()
    assert parser.decode(at_ms(24_000, quote())).rows[1:] == ()
    assert parser.decode(sent(25_000, index(24) | {"sid": 7, "seq": 1})).rows[1:] == (
        gap._replace(to_time=START_US + 25_000_000),
    )


def test_frames_that_the_spool_lost() -> None:
    """Marks and confirmations may be among them: numbers begin anew, and a channel's gap ends with its own message."""
    frames = [control(1, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"]), confirmed(2, 3, "ticker"), confirmed(3, 2)]
    frames += [at_ms(number, trade(number)) for number in range(11, 61)]
    frames.append(at_ms(70, quote()))
    lost = control(100, Kind.LOST, feed=DAEMON_FEED, from_no=71, to_no=100, cause="spool_lost")
    again = [at_ms(number, trade(number - 199, trade_id=f"u-{number}")) for number in range(200, 230)]
    batch = Decoder({}).decode([*frames, lost, at_ms(150, quote()), *again])
    events = [row for row in batch.tables[MarketEvent] if isinstance(row, MarketEvent)]
    trades = [row.trade_id for row in events if row.event_type == "trade"]
    assert trades[50:] == [f"u-{number}" for number in range(200, 230)]
    assert batch.counts[Outcome.DUPLICATE] == 0
    gap = Gap(100, 3, "kalshi", "trade", "connection", "spool_lost", START_US + 60_000, START_US + 200_000)
    quotes = gap._replace(gap_no=2, channel="ticker", from_time=START_US + 70_000, to_time=START_US + 150_000)
    assert {name: each for name, each in batch.gaps.items() if each.feed == "kalshi" and each.frame_no == 100} == {
        (100, 2): quotes, (100, 3): gap,
    }  # fmt: skip
    assert (100, 0) in batch.gaps
    sids = batch.state["feeds"]["kalshi"]["sids"]
    assert {sid: kept[:2] for sid, kept in sids.items()} == {"3": ["ticker", 0], "2": ["trade", 30]}


def test_a_second_confirmation_of_the_same_subscription() -> None:
    """Markets added to it by another command: nothing has ended, and its numbering goes on."""
    parser = KalshiParser({})
    parser.decode(confirmed(1, 2))
    parser.decode(sent(2, trade(1)))
    assert parser.decode(confirmed(3, 2)).rows == ()
    assert len(parser.decode(sent(4, trade(2))).rows) == 1


def test_a_markets_life() -> None:
    """Only followed series give rows; a step that describes the market gives its state too; settled counts once."""
    parser = KalshiParser({})
    parser.decode(control(1, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"]))
    about = {"event_ticker": "KXBTCD-26SEP2111", "title": "Price?", "floor_strike": 60199.99, "strike_type": "greater"}
    event, state = parser.decode(
        sent(2, step(1, "created", additional_metadata=about, open_ts=START_US // 10**6 + 90_000))
    ).rows
    assert isinstance(event, MarketEvent)
    assert isinstance(state, MarketState)
    assert (event.event_type, state.floor_strike, state.series_ticker, state.row_no) == (
        "created",
        "60199.99",
        "KXBTCD",
        1,
    )
    assert parser.decode(sent(3, step(2, "settled", settled_ts=START_US // 10**6))).outcome is Outcome.SHIPPED
    assert parser.decode(sent(4, step(3, "settled", settled_ts=START_US // 10**6))).outcome is Outcome.DUPLICATE
    assert parser.decode(sent(5, step(4, "created", market_ticker="KXOTHER-1"))).outcome is Outcome.STATE


def test_a_print_of_the_index() -> None:
    """The inner time and value are stored, once for each time."""
    parser = KalshiParser({})
    (row,) = parser.decode(sent(1, index(1))).rows
    assert isinstance(row, BtcPrice)
    assert row[:5] == (START_US + 1_000_000, START_US + 1000, "cfbenchmarks", "BRTI", "60123.45")
    assert parser.decode(sent(2, index(2, time=START_US // 1000 + 1000))).outcome is Outcome.DUPLICATE


def test_an_answer_about_markets() -> None:
    """Each market is a row; strikes keep their digits, empty words are NULL, and the line is not touched."""
    parser = KalshiParser({})
    before = parser.state()
    other = market(ticker="OTHER", cap_strike=70000, status="initialized")
    first, quoted, second = parser.decode(sent(1, {"markets": [market(), other], "cursor": ""})).rows
    assert isinstance(first, MarketState)
    assert isinstance(quoted, MarketEvent)
    assert isinstance(second, MarketState)
    assert (first.floor_strike, second.cap_strike) == ("60199.99", "70000")
    assert (first.row_no, quoted.row_no, second.row_no) == (0, 1, 2)
    assert (quoted.event_type, quoted.yes_bid, quoted.yes_ask, quoted.no_bid) == (
        "rest_quote",
        None,
        "0.0100",
        "0.9900",
    )
    assert (first.yes_bid, first.yes_ask, first.no_bid, first.no_ask) == (None, "0.0100", "0.9900", None)
    assert (first.result, first.expiration_value, first.status) == (None, "60123.45", "active")
    assert parser.state() == before


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"{", "json"),
        ([], "unknown_type"),
        ({"type": "orderbook_delta", "sid": 1, "seq": 2, "msg": {}}, "unknown_type"),
        ({"type": "ticker", "sid": 3}, "schema"),
        (quote(yes_bid_dollars=0.44), "schema"),
        (quote(yes_bid_dollars="1.0100"), "bounds"),
        (quote(ts_ms=None), "schema"),
        (quote(ts_ms=START_US // 1000 + 3_700_000), "future"),
        (quote(price_dollars=None, yes_bid_dollars=None, yes_ask_dollars=None), "schema"),
        (trade(taker_outcome_side="buy"), "schema"),
        (trade(trade_id=None), "schema"),
        (trade() | {"seq": None}, "schema"),
        (step(1, "Created"), "schema"),
        (step(1, "created", additional_metadata=[]), "schema"),
        (index(1, "0.00"), "bounds"),
        (index(1, 5.5), "schema"),
        (index(1, id="ETH"), "schema"),
        ({"markets": 5}, "schema"),
        ({"markets": [], "places": 5}, "schema"),
        ({"markets": [market()], "places": ["x"]}, "schema"),
    ],
    ids=lambda value: repr(value)[-60:],
)
def test_refused(message: object, reason: str) -> None:
    """What is wrong with a message has one of the fixed reasons, and it leaves no trace in the state but its number."""
    parser = KalshiParser({})
    before = without_numbers(parser)
    with pytest.raises(BadMessageError) as caught:
        parser.decode(sent(1, message))
    assert (caught.value.reason, without_numbers(parser)) == (reason, before)


def without_numbers(parser: KalshiParser) -> bytes:
    """A parser's state but for the numbering."""
    return orjson.dumps(parser.state() | {"sids": None})


def test_a_refused_message_has_come() -> None:
    """The number of a message that is of no use is not missing; what is missing before it is declared all the same."""
    parser = KalshiParser({})
    parser.decode(sent(1, trade(1)))
    with pytest.raises(BadMessageError) as caught:
        parser.decode(sent(2, trade(4, taker_outcome_side="buy")))
    (found,) = caught.value.rows
    assert (found.from_seq, found.to_seq) == (2, 3)
    assert parser.decode(sent(3, trade(5))).rows[1:] == ()

    decoder = Decoder({})
    batch = decoder.decode([sent(1, trade(1)), sent(2, trade(4, taker_outcome_side="buy"))])
    assert [(gap.from_seq, gap.to_seq) for gap in batch.gaps.values()] == [(2, 3)]
    assert len(batch.quarantine) == 1


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (market(floor_strike="60199.99"), "schema"),
        (market(close_time="soon"), "schema"),
        (market(status=None), "schema"),
        (market(yes_bid_dollars="1.5"), "bounds"),
        (market(ticker=5), "schema"),
        ("market", "schema"),
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_an_odd_market_among_others(odd: object, reason: str) -> None:
    """One market of another shape is put aside alone, once; out of the quarantine it is decoded in its own place."""
    parser = KalshiParser({})
    answer = {"markets": [market(ticker="A"), odd, market(ticker="B")]}
    outcome, found, _ = parser.decode(sent(1, answer))
    assert (outcome, [type(row) for row in found].count(MarketState)) == (Outcome.QUARANTINED, 2)
    entry = found[-1]
    assert isinstance(entry, Quarantined)
    assert (entry.reason, json.loads(entry.frame)) == (reason, {"places": [1], "markets": [odd]})
    assert parser.decode(sent(2, answer)) == (Outcome.STATE, (), None)

    mended = entry.frame.replace(orjson.dumps(odd), orjson.dumps(market(ticker="C")))
    (row, quoted) = KalshiParser({}).decode(sent(1, mended)).rows
    assert isinstance(row, MarketState)
    assert isinstance(quoted, MarketEvent)
    assert (row.row_no, quoted.row_no) == (2, 3)


def test_odd_markets_are_remembered_by_little() -> None:
    """An odd market of any length is known again, and only when it is the same; what is kept of it is short."""
    parser = KalshiParser({})

    def outcome(number: int, title: object) -> Outcome:
        return parser.decode(sent(number, {"markets": [market(ticker=["x" * 1000], title=title)]})).outcome

    told = [outcome(number, ["y" * 100_000 + str(number // 2)]) for number in range(4)]
    assert told == [Outcome.QUARANTINED, Outcome.STATE] * 2
    assert len(repr(parser._answers._refused)) < 400


def test_only_changes_of_a_market_are_rows() -> None:
    """A description that came before gives no row, nor does a quote; each that changes gives one."""
    parser = KalshiParser({})

    def kinds(number: int, **changes: object) -> list[type]:
        return [type(row) for row in parser.decode(sent(number, {"markets": [market(**changes)]})).rows]

    assert kinds(1) == [MarketState, MarketEvent]
    assert kinds(2) == []
    assert kinds(3, yes_ask_size_fp="6.00") == [MarketEvent]
    assert kinds(4, yes_ask_size_fp="6.00", close_time="2026-09-21T16:00:00Z") == [MarketState]
    assert kinds(5, yes_ask_size_fp="6.00", close_time="2026-09-21T16:00:00Z", status="closed") == [MarketState]


def test_quotes_by_rest_only_without_a_subscription() -> None:
    """While the socket brings a market's quotes, an answer's older ones are no rows; after it they are."""
    parser = KalshiParser({})

    def quotes(number: int, size: str) -> int:
        found = parser.decode(sent(number, {"markets": [market(yes_ask_size_fp=size)]})).rows
        return [type(row) for row in found].count(MarketEvent)

    parser.decode(control(1, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"], by="socket"))
    assert quotes(2, "1.00") == 1
    parser.decode(sent(3, {"type": "subscribed", "id": 1, "msg": {"channel": "ticker", "sid": 3}}))
    assert quotes(4, "2.00") == 0
    parser.decode(sent(5, {"type": "error", "sid": 3, "msg": {"code": 10, "msg": "Channel error"}}))
    assert quotes(6, "3.00") == 1
    parser.decode(sent(7, {"type": "subscribed", "id": 2, "msg": {"channel": "ticker", "sid": 4}}))
    parser.decode(control(8, Kind.DISCONNECTED, feed="kalshi", cause="reset"))
    assert quotes(9, "4.00") == 1


def test_what_the_tables_hold_comes_back() -> None:
    """A parser that goes on from the tables drops what a parser that remembers would drop."""
    recalled: Recalled = {
        "kalshi_trades": [("t-1", "trade")],
        "kalshi_prints": [("BRTI", START_US + 1_000_000)],
        "kalshi_settled": [(MARKET,)],
        "kalshi_states": [
            (1, MARKET, "KXBTCD-26SEP2111", "Price?", "$60,200 or above", "active", "greater", "60199.99", None, None,
             1_790_002_800_000_000, None, None, None, "60123.45"),
        ],
        "kalshi_quotes": [(1, MARKET, None, "0.00", "0.0100", "5.00", None, None, None)],
    }  # fmt: skip
    parser = KalshiParser({}, recalled)
    assert parser.decode(sent(1, trade(1))).outcome is Outcome.DUPLICATE
    assert parser.decode(sent(2, index(1))).outcome is Outcome.DUPLICATE
    assert parser.decode(sent(3, step(1, "settled", settled_ts=START_US // 10**6))).outcome is Outcome.DUPLICATE
    assert parser.decode(sent(4, {"markets": [market()]})) == (Outcome.STATE, (), None)


def test_a_line_of_answers() -> None:
    """Without a socket an answer is a sign of life: it ends the gap of a failure, and its arrival is its time."""
    parser = KalshiParser({})
    parser.decode(control(1, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"], by="rest"))
    assert parser.decode(sent(2, {"markets": []})) == (Outcome.STATE, (), START_US + 2000)
    (begun,) = parser.decode(control(3, Kind.DISCONNECTED, feed="kalshi", cause="timeout")).rows
    parser.decode(control(4, Kind.CONNECTED, feed="kalshi", series=["KXBTCD"], by="rest"))
    (ended,) = parser.decode(sent(5, {"markets": []})).rows
    assert isinstance(begun, Gap)
    assert isinstance(ended, Gap)
    assert (begun.cause, begun.from_time, begun.to_time) == ("timeout", START_US + 2000, None)
    assert (ended.frame_no, ended.to_time) == (begun.frame_no, START_US + 5000)


GOOD: list[dict[str, Any]] = [quote(), trade(), step(1, "created", additional_metadata={"floor_strike": 6.5}), index(1)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400)
@given(st.sampled_from(GOOD), st.data())
def test_any_mutation_gives_what_was_sent_or_one_known_error(message: dict[str, Any], draw: st.DataObject) -> None:
    """Whatever comes is a row of the fields sent, or is refused without a trace; nothing else is raised."""
    field = draw.draw(st.sampled_from(sorted(message["msg"])))
    raw = json.dumps(message | {"msg": message["msg"] | {field: draw.draw(JSON)}}).encode()
    parser = KalshiParser({})
    before = without_numbers(parser)
    try:
        found = parser.decode(sent(1, raw)).rows
    except BadMessageError:
        assert without_numbers(parser) == before
        return
    body = json.loads(raw)["msg"]
    for row in found:
        if isinstance(row, MarketEvent):
            assert (row.ticker, row.volume, row.last_size) == (
                body["market_ticker"], body.get("volume_fp"), body.get("count_fp", body.get("last_trade_size_fp")),
            )  # fmt: skip
    assert orjson.dumps(kalshi.parser(orjson.loads(orjson.dumps(parser.state())), {}).state()) == orjson.dumps(
        parser.state()
    )


def test_the_venues_messages_are_recognised() -> None:
    """Each venue knows its own messages in a file without names, and none of the other's."""
    for message in (*GOOD, {"type": "ok", "sid": 2, "seq": 1}, {"markets": []}):
        assert (kalshi.recognises(message), coinbase.recognises(message)) == (True, False)
    timed: list[Any] = [quote(), {}, None, {"markets": []}]
    assert [kalshi.venue_time(message) for message in timed] == [START_US, None, None, None]
