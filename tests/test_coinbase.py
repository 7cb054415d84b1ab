"""Coinbase's messages: exact rows from good ones, one known error from all others."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import START_NS, control, data, heartbeat, match, subscriptions, ticker

from recio_ingest.errors import BadMessageError, RefusedError
from recio_ingest.feeds import coinbase
from recio_ingest.feeds.coinbase import CoinbaseParser
from recio_ingest.feeds.coinbase_session import CoinbaseSession
from recio_ingest.records import DAEMON_FEED, BtcPrice, Decoded, Frame, Gap, Kind, Outcome
from recio_ingest.settings import Coinbase

START_US = START_NS // 1000
HOUR_LATER = "2026-09-21T15:13:20.001000Z"
"""An hour after the arrival of frame 1."""


@pytest.fixture
def parser() -> CoinbaseParser:
    """Return a parser that has seen nothing."""
    return CoinbaseParser({})


def row(frame_no: int, trade_id: int = 1001, **changes: Any) -> BtcPrice:
    """Return the row of `samples.match`."""
    plain = BtcPrice(
        START_US, START_US + frame_no * 1000, "coinbase", "BTC-USD", "60123.40", "0.01020000", "sell", trade_id,
        None, None, frame_no,
    )  # fmt: skip
    return plain._replace(**changes)


def refusal(parser: CoinbaseParser, message: object) -> str:
    """Return the reason for which a message is refused; the parser's state must stay as it was."""
    before = orjson.dumps(parser.state())
    with pytest.raises(BadMessageError) as caught:
        parser.decode(data(1, message))
    assert orjson.dumps(parser.state()) == before
    return caught.value.reason


def test_a_match_is_one_row(parser: CoinbaseParser) -> None:
    """A match gives one row with everything the venue said, prices and sizes to the last zero."""
    assert parser.decode(data(1, match())) == Decoded(Outcome.SHIPPED, (row(1),), START_US)


@pytest.mark.parametrize(("maker", "taker"), [("buy", "sell"), ("sell", "buy")])
def test_side_is_the_takers(parser: CoinbaseParser, maker: str, taker: str) -> None:
    """The venue names the maker's side; the row has the other one."""
    assert parser.decode(data(1, match(side=maker))).rows == (row(1, side=taker),)


@pytest.mark.parametrize("text", ["0.00000001", "60123.4000000000", "99999999999999999999", "1", "0001.50"])
def test_decimals_are_kept(parser: CoinbaseParser, text: str) -> None:
    """Price and size are stored as the text that came, whatever zeros it has."""
    assert parser.decode(data(1, match(price=text, size=text))).rows == (row(1, price=text, size=text),)


def test_best_bid_and_ask_are_the_last_tickers(parser: CoinbaseParser) -> None:
    """A trade carries the bid and ask of the newest ticker of its own product, and none before the first."""
    assert parser.decode(data(1, match(1))).rows == (row(1, 1),)
    assert parser.decode(data(2, ticker("10.10", "10.20"))) == Decoded(Outcome.STATE, (), START_US)
    parser.decode(data(3, ticker("10.30", "10.40")))
    parser.decode(data(4, ticker("7", "8", product_id="ETH-USD")))
    assert parser.decode(data(5, match(2))).rows == (row(5, 2, best_bid="10.30", best_ask="10.40"),)
    assert parser.decode(data(6, match(9, product_id="ETH-USD"))).rows == (
        row(6, 9, symbol="ETH-USD", best_bid="7", best_ask="8"),
    )


@pytest.mark.parametrize(
    "end",
    [
        control(3, Kind.DISCONNECTED, cause="reset"),
        control(3, Kind.CONNECTED, products=["BTC-USD"]),
        data(3, {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}]}),
        control(3, Kind.LOST, feed=DAEMON_FEED, from_no=3, to_no=3, cause="spool_lost"),
    ],
    ids=["disconnected", "connected", "without tickers", "lost"],
)
def test_a_book_does_not_outlive_its_tickers(parser: CoinbaseParser, end: Frame) -> None:
    """After an outage, and without the channel, a trade has no quotes until the next ticker."""
    parser.decode(data(1, ticker("10.10", "10.20")))
    parser.decode(data(2, subscriptions()))
    assert parser.decode(data(2, match(1))).rows == (row(2, 1, best_bid="10.10", best_ask="10.20"),)
    parser.decode(end)
    assert [each for each in parser.decode(data(4, match(2))).rows if isinstance(each, BtcPrice)] == [row(4, 2)]
    parser.decode(data(5, ticker("10.30", "10.40")))
    assert parser.decode(data(6, match(3))).rows == (row(6, 3, best_bid="10.30", best_ask="10.40"),)


def test_a_zero_is_no_quote(parser: CoinbaseParser) -> None:
    """A bid or ask of zero is an empty side of the book, and not a price of zero."""
    parser.decode(data(1, ticker("0", "10.20")))
    parser.decode(data(2, ticker("0.00", "0.00", product_id="ETH-USD")))
    assert parser.decode(data(3, match())).rows == (row(3, best_ask="10.20"),)
    assert parser.decode(data(4, match(product_id="ETH-USD"))).rows == (row(4, symbol="ETH-USD"),)


@pytest.mark.parametrize("missing", [{"time": None}, {"time": "0001-01-01T00:00:00.000000Z"}], ids=["none", "year 1"])
def test_a_ticker_without_time_has_that_of_its_arrival(parser: CoinbaseParser, missing: dict[str, Any]) -> None:
    """The first ticker of a subscription may lack its time; its bid and ask hold all the same."""
    assert parser.decode(data(5, ticker(**missing))) == Decoded(Outcome.STATE, (), START_US + 5000)


def test_the_last_match_again_is_a_duplicate(parser: CoinbaseParser) -> None:
    """`last_match` is a trade like any other the first time, and none the second."""
    assert parser.decode(data(1, match(type="last_match"))).rows == (row(1),)
    assert parser.decode(data(2, match())) == Decoded(Outcome.DUPLICATE, (), START_US)
    assert parser.decode(data(3, match(1002))).rows == (row(3, 1002),)
    assert parser.decode(data(4, match(1002, type="last_match"))) == Decoded(Outcome.DUPLICATE, (), START_US)


def test_products_number_their_trades_apart(parser: CoinbaseParser) -> None:
    """The same id in two products is two trades."""
    assert parser.decode(data(1, match(5))).outcome is Outcome.SHIPPED
    assert parser.decode(data(2, match(5, product_id="ETH-USD"))).outcome is Outcome.SHIPPED


def test_a_jump_in_the_ids_is_a_gap(parser: CoinbaseParser) -> None:
    """The trade that reveals missing ones comes with a gap that names them."""
    parser.decode(data(1, match(10)))
    times = (START_US + 1000, START_US + 2000)
    assert parser.decode(data(2, match(13))).rows == (
        row(2, 13),
        Gap(2, 1, "coinbase", "matches", "BTC-USD", "sequence", *times, 11, 12, 2),
    )


def test_heartbeats_and_answers_change_state_only(parser: CoinbaseParser) -> None:
    """They give no row; the heartbeat's time counts for the lag."""
    assert parser.decode(data(1, heartbeat())) == Decoded(Outcome.STATE, (), START_US)
    assert parser.decode(data(2, subscriptions())) == Decoded(Outcome.STATE)
    assert parser.decode(data(3, {"type": "error", "message": "slow down"})) == Decoded(Outcome.STATE)


def test_the_first_message_closes_the_outage(parser: CoinbaseParser) -> None:
    """What comes first after a disconnect, row or not, carries the gap's end."""
    parser.decode(control(1, Kind.CONNECTED))
    parser.decode(data(2, match(1)))
    opened = Gap(3, 0, "coinbase", "*", "connection", "reset", START_US)  # when the venue sent it, before it arrived
    assert parser.decode(control(3, Kind.DISCONNECTED, cause="reset")) == Decoded(Outcome.CONTROL, (opened,))
    assert parser.decode(control(4, Kind.CONNECTED)) == Decoded(Outcome.CONTROL)
    assert refusal(parser, b"{") == "json"
    assert parser.decode(data(6, match(2))).rows == (row(6, 2), opened._replace(to_time=START_US + 6000))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "json"),
        (b"\xff\xfe", "json"),
        (b'{"type":"match"', "json"),
        (b'{"type":"match","trade_id":NaN}', "json"),
        (b'{"type":"match","price":Infinity}', "json"),
        (b'{"type":"match","price":-Infinity}', "json"),
        (b'{"type":"match","product_id":"\\ud800"}', "json"),
        (b"[" * 100_000, "json"),
        (b"[]", "unknown_type"),
        (b"null", "unknown_type"),
        (b'"match"', "unknown_type"),
        (b"{}", "unknown_type"),
        ({"type": "l2update"}, "unknown_type"),
        ({"type": ["match"]}, "unknown_type"),
        ({"type": None}, "unknown_type"),
        (match(trade_id=0), "schema"),
        (match(trade_id=-5), "schema"),
        (match(trade_id=2**63), "schema"),
        (json.dumps(match(trade_id=2**64)).encode(), "schema"),
        (match(trade_id=True), "schema"),
        (match(trade_id="1001"), "schema"),
        (match(trade_id=1001.0), "schema"),
        (match(price=60123.4), "bounds"),
        (match(price="0.00"), "bounds"),
        (match(price="-1.00"), "bounds"),
        (match(price="NaN"), "bounds"),
        (match(price="1e5"), "bounds"),
        (match(price="1_000"), "bounds"),
        (match(price="1."), "bounds"),
        (match(price="1.0\n"), "bounds"),
        (match(price="1\x00"), "bounds"),
        (match(price="\uff11"), "bounds"),
        (match(price="1" * 21), "bounds"),
        (match(size=None), "bounds"),
        (match(size="0"), "bounds"),
        (match(side="none"), "schema"),
        (match(side=["buy"]), "schema"),
        (match(side={"buy": 1}), "schema"),
        (match(product_id="btc-usd"), "schema"),
        (match(product_id="BTC-USD\n"), "schema"),
        (match(product_id=["BTC-USD"]), "schema"),
        (match(product_id=None), "schema"),
        (match(time=None), "schema"),
        (match(time=1790000000), "schema"),
        (match(time="2026-09-21T14:13:20.000000"), "schema"),
        (match(time="2026-13-21T14:13:20.000000Z"), "schema"),
        (match(time="0001-01-01T00:00:00.000000Z" * 9999), "schema"),
        (match(time="2026-09-21T15:13:20.001001Z"), "future"),
        (match(time="9999-12-31T23:59:59.999999Z"), "future"),
        (heartbeat(time="9999-12-31T23:59:59.999999Z"), "future"),
        (ticker(time="9999-12-31T23:59:59.999999Z"), "future"),
        (heartbeat(time=None), "schema"),
        (heartbeat(product_id=7), "schema"),
        (ticker(best_bid=60123.4), "schema"),
        (ticker(best_ask="-1"), "schema"),
        (ticker(best_ask=None), "schema"),
        (ticker(product_id={}), "schema"),
    ],
    ids=lambda value: repr(value)[-60:],
)
def test_refused(parser: CoinbaseParser, message: object, reason: str) -> None:
    """What is wrong with a message has one of the fixed reasons, and the message leaves no trace in the state."""
    parser.decode(data(0, match(7)))
    assert refusal(parser, message) == reason


@pytest.mark.parametrize(
    ("time", "moment"),
    [
        (HOUR_LATER, START_US + 3_600_001_000),
        ("1970-01-01T00:00:00Z", 0),
        ("2021-04-17T16:43:30.244075Z", 1_618_677_810_244_075),
        ("2026-09-21T16:13:20.000001+02:00", START_US + 1),
    ],
)
def test_old_is_not_wrong(parser: CoinbaseParser, time: str, moment: int) -> None:
    """Any time up to an hour after the arrival is taken as it is, to the microsecond, in UTC."""
    assert parser.decode(data(1, match(time=time))).rows == (row(1, timestamp=moment),)


def test_products_are_bounded(parser: CoinbaseParser) -> None:
    """A venue that invents products without end is refused past the limit, and those already known go on."""
    for number in range(1000):
        parser.decode(data(1, match(product_id=f"P{number}-USD")))
    assert refusal(parser, match()) == "bounds"
    assert refusal(parser, ticker()) == "bounds"
    assert parser.decode(data(1, match(1002, product_id="P999-USD"))).outcome is Outcome.SHIPPED


def test_state_goes_on_in_another_parser(parser: CoinbaseParser) -> None:
    """The state, through JSON, is all that the next parser needs: ids, books and the line."""
    frames = (data(1, ticker("1.10", "1.20")), data(2, match(1)), control(3, Kind.DISCONNECTED, cause="reset"))
    for frame in frames:
        parser.decode(frame)
    heir = coinbase.parser(orjson.loads(orjson.dumps(parser.state())), {})
    for frame in (data(4, match(1)), data(5, match(4)), data(6, match(3))):
        assert heir.decode(frame) == parser.decode(frame)
    assert orjson.dumps(heir.state()) == orjson.dumps(parser.state())


# Any mutation at all.

TOKENS = [
    b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"-1", b"-0", b"0", b"9223372036854775807",
    b"9223372036854775808", b"18446744073709551616", b"1" * 400, b"0.1", b"true", b"null", b"[]", b"{}", b'""',
    b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xed\xa0\x80"', b'"1\\u0000"', b'"1e5"', b'"NaN"', b'"-5.00"',
    b'"\xef\xbc\x91"', b'"buy"', b'"BTC-USD"', b'"match"', b'"ticker"', b'["buy"]', b'{"buy":"buy"}',
    b"[" * 2000 + b"]" * 2000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b'"' + b"9" * 5000 + b'"',
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())
GOOD = [match(1002), match(1001, type="last_match"), match(1005), ticker(), heartbeat(), subscriptions()]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Draw a good message with something wrong in it: a key gone, another value, or other bytes."""
    message = draw(st.sampled_from(GOOD))
    fields = {key: json.dumps(value).encode() for key, value in message.items()}
    for key in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True)):
        value = draw(st.none() | st.sampled_from(TOKENS) | JSON)
        if value is None:
            del fields[key]
        else:
            fields[key] = value
    raw = b"{" + b",".join(json.dumps(key).encode() + b":" + value for key, value in fields.items()) + b"}"
    match draw(st.sampled_from(["whole", "cut", "flip", "insert"])):
        case "cut":
            return raw[: draw(st.integers(0, len(raw)))]
        case "flip":
            at = draw(st.integers(0, len(raw) - 1))
            return raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
        case "insert":
            at = draw(st.integers(0, len(raw)))
            return raw[:at] + draw(st.binary(max_size=8)) + raw[at:]
        case _:
            return raw


def sent(raw: bytes) -> dict[str, Any]:
    """Return the message as another JSON reader understands it."""
    message: dict[str, Any] = json.loads(raw.decode(), parse_float=str)
    return message


@settings(max_examples=800)
@given(mutants() | st.binary(max_size=40))
@example(b'{"type":"match","side":["buy"],"price":"1","size":"1","trade_id":1002,"time":"2026-09-21T14:13:20Z"}')
def test_any_mutation_gives_what_was_sent_or_one_known_error(raw: bytes) -> None:
    """Whatever comes is a row of exactly the fields sent, or is refused without a trace; nothing else is raised."""
    parser = CoinbaseParser({})
    parser.decode(data(1, match(1001)))
    before = orjson.dumps(parser.state())
    try:
        outcome, rows, venue_time = parser.decode(data(2, raw))
    except BadMessageError as exc:
        reason = exc.reason
    else:
        reason = ""
    if reason:
        assert reason in {"json", "unknown_type", "schema", "bounds", "future", "order"}
        assert orjson.dumps(parser.state()) == before
        return
    assert (outcome is Outcome.SHIPPED) == any(isinstance(one, BtcPrice) for one in rows)
    for one in rows:
        if isinstance(one, BtcPrice):
            message = sent(raw)
            assert message["type"] in {"match", "last_match"}
            assert (one.price, one.size, one.trade_id) == (message["price"], message["size"], message["trade_id"])
            assert (one.symbol, {one.side, message["side"]}) == (message["product_id"], {"buy", "sell"})
            since_1970 = datetime.fromisoformat(message["time"]) - datetime(1970, 1, 1, tzinfo=UTC)
            assert one.timestamp == venue_time == since_1970 // timedelta(microseconds=1)
            assert (one.received_at, one.frame_no, one.row_no) == (START_US + 2000, 2, 0)
    assert orjson.loads(orjson.dumps(parser.state())).keys() == {"line", "products"}


# The rest of the module.


def test_what_is_asked_for() -> None:
    """The subscription asks for three channels of every configured product, and the mark says the same."""
    feed = coinbase.feed(Coinbase(products=("BTC-USD", "ETH-USD"), url="ws://localhost:1"))
    assert (feed.name, feed.url, feed.idle_timeout_s) == ("coinbase", "ws://localhost:1", 10.0)
    assert [orjson.loads(message) for message in feed.converse().say(0)] == [
        {
            "type": "subscribe",
            "product_ids": ["BTC-USD", "ETH-USD"],
            "channels": ["matches", "ticker", "heartbeat"],
        }
    ]
    assert feed.describe == {"products": ["BTC-USD", "ETH-USD"], "channels": ["matches", "ticker", "heartbeat"]}


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        (subscriptions(), ""),
        ({"type": "subscriptions", "channels": []}, "heartbeat of BTC-USD, matches of BTC-USD, ticker of BTC-USD"),
    ],
)
def test_the_confirmation_says_what_is_missing(answer: object, missing: str) -> None:
    """The venue's list of all that is held confirms the subscription; what is not in it is named, once."""
    session = CoinbaseSession(["BTC-USD"])
    session.say(0)
    notices = session.hear(data(1, answer).data, 0)
    assert (session.ready, session.trouble) == (True, missing)
    assert [notice.facts["refused"] for notice in notices] == ([missing] if missing else [])
    assert not session.listens(b"anything")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"type": "error", "message": "Failed to subscribe", "reason": "XYZ is not a valid product"},
         "Failed to subscribe: XYZ is not a valid product"),
        ({"type": "error"}, "error"),
    ],
)  # fmt: skip
def test_a_refused_subscription_ends_the_connection(answer: object, words: str) -> None:
    """An error before the confirmation says that nothing will come."""
    with pytest.raises(RefusedError, match=words):
        CoinbaseSession(["BTC-USD"]).hear(data(1, answer).data, 0)


@pytest.mark.parametrize(
    "answer",
    [
        match(), [], {"type": "subscriptions", "channels": 5}, b"\xff", b"null",
        {"type": "subscriptions", "channels": [{"name": ["matches"], "product_ids": ["BTC-USD"]}]},
    ],
)  # fmt: skip
def test_what_is_no_answer_says_nothing(answer: object) -> None:
    """Anything else neither confirms nor refuses, whatever it is; an answer that stays away is a refusal."""
    session = CoinbaseSession(["BTC-USD"])
    session.say(0)
    assert (session.hear(data(1, answer).data, 0), session.ready) == ((), False)
    assert session.say(10) == ()
    with pytest.raises(RefusedError, match="not confirmed within 10 s"):
        session.say(10.1)


def test_a_heartbeat_declares_what_did_not_come() -> None:
    """The last trade that a heartbeat names and nobody saw is a gap after two heartbeats; 0 is no trade."""
    parser = CoinbaseParser({})
    parser.decode(data(1, match(1001)))
    assert parser.decode(data(1000, heartbeat(last_trade_id=1003))).rows == ()
    assert parser.decode(data(2000, heartbeat(last_trade_id=0))).rows == ()
    (found,) = parser.decode(data(3000, heartbeat(last_trade_id=1003))).rows
    assert isinstance(found, Gap)
    assert (found.scope, found.cause, found.from_seq, found.to_seq, found.expected) == (
        "BTC-USD", "sequence", 1002, 1003, 2,
    )  # fmt: skip


def test_the_venues_messages_are_recognised() -> None:
    """In a file without feed names its messages are told from those of a venue that wraps them in `msg`."""
    assert all(coinbase.recognises(message) for message in GOOD)
    strange: list[Any] = [{"type": "trade", "msg": {}}, {"sid": 1}, [], None, "type"]
    assert [coinbase.recognises(message) for message in strange] == [False] * 5
    assert coinbase.venue_time(match()) == START_US
    timeless: list[Any] = [{}, {"time": "2026"}, {"time": 5}, None, []]
    assert [coinbase.venue_time(message) for message in timeless] == [None] * 5


def test_recorded_matches_become_rows_to_the_last_character() -> None:
    """Every trade of the recording of 17 April 2021 is one row with the price and size that stand in the file."""
    folder = os.environ.get("RECIO_CAPTURES")
    if not folder:
        pytest.skip("RECIO_CAPTURES IS NOT SET: the parser was NOT checked against messages that the venue really sent")
    parser = CoinbaseParser({})
    seen = 0
    lines = (Path(folder) / "coinbase-exchange-2021-04-17.jsonl").read_bytes().splitlines()
    for line in lines:
        raw = line.partition(b'"frame":')[2][:-1]
        outcome, rows, _ = parser.decode(data(1, raw)._replace(recv_ns=1_618_677_900_000_000_000))
        kind, price, size, trade_id = (field(raw, name) for name in ("type", "price", "size", "trade_id"))
        if kind not in {"match", "last_match"}:
            assert (outcome, rows) == (Outcome.STATE, ())
            continue
        trades = [one for one in rows if isinstance(one, BtcPrice)]
        assert [(one.price, one.size, str(one.trade_id)) for one in trades] == [(price, size, trade_id)]
        seen += 1
    assert (len(lines), seen) == (108, 54)


def field(raw: bytes, name: str) -> str:
    """Return a field's text as it stands in a message."""
    found = re.search(rf'"{name}":"?([^",}}]*)', raw.decode())
    return found[1] if found else ""
