"""What is asked of Kalshi for a gap, of trades and of how markets stand, the rows of the answers, and the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest
from harness.kalshi_client import START, simulated
from rollover_data import roll_all
from samples import START_NS, TIME, data

from recio_ingest import rest, store
from recio_ingest.demo import kalshi_market
from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Missing, Request
from recio_ingest.feeds import repair as frames
from recio_ingest.feeds.kalshi import KalshiParser
from recio_ingest.feeds.kalshi_repair import CLOCK_MARGIN_S, MAX_MARKETS, KalshiRepair
from recio_ingest.feeds.kalshi_states import MARGIN_S
from recio_ingest.records import COMPLETE, STATE, MarketEvent, MarketState, Outcome, Quarantined, Repaired, Row
from recio_ingest.sql import statement

if TYPE_CHECKING:
    from recio_ingest.demo.kalshi import KalshiVenue

START_US = START_NS // 1000
FROM_US, TO_US = 1_790_000_000_400_000, 1_790_000_010_200_000
TRADES = Missing(9, 3, "trade", FROM_US, TO_US, None, None, ("KXBTCD-1-T1", "KXBTCD-1-T2"))
STATES = TRADES._replace(gap_no=4, channel="market_lifecycle_v2", parts=())
ASKS = KalshiRepair(("KXBTCD",))


def rest_trade(name: str, ticker: str = "KXBTCD-1-T1", **changes: Any) -> dict[str, Any]:
    """A trade as Kalshi's REST tells it."""
    return {
        "trade_id": name, "ticker": ticker, "yes_price_dollars": "0.4600", "no_price_dollars": "0.5400",
        "count_fp": "3.25", "taker_outcome_side": "no", "created_time": TIME,
    } | changes  # fmt: skip


def market_page(*trades: dict[str, Any], cursor: str = "") -> bytes:
    """One page of them."""
    return orjson.dumps({"trades": trades, "cursor": cursor})


def spanning(seconds: int, cursor: str = "c") -> bytes:
    """A page of trades that reaches back so far from the end of what was asked for."""
    newest = datetime.fromtimestamp(TO_US // 10**6 + 1 + CLOCK_MARGIN_S, UTC)
    times = (newest, newest - timedelta(seconds=seconds))
    return market_page(*(rest_trade(str(at), created_time=at.isoformat()) for at in times), cursor=cursor)


def market(name: str, **changes: Any) -> dict[str, Any]:
    """A market as Kalshi's REST describes it once it is settled."""
    return {
        "ticker": name, "event_ticker": "KXBTCD-1", "status": "finalized", "result": "yes",
        "expiration_value": "60123.40", "settlement_ts": TIME, "close_time": TIME, "updated_time": TIME,
    } | changes  # fmt: skip


def states_frame(*markets: dict[str, Any], number: int = 1, part: str = "settled KXBTCD", end: str = STATE) -> Any:
    """The frame of an answer about how markets stand."""
    answer = orjson.dumps({"markets": markets, "cursor": ""})
    return data(number, frames.wrap(STATES, part, end, answer), feed="kalshi")


def test_some_seconds_of_all_markets_are_asked_for_at_once() -> None:
    """From whole seconds around the gap, page by page, to the end."""
    first = ASKS.first(TRADES)
    bounds = {"min_ts": str(1_790_000_000 - CLOCK_MARGIN_S), "max_ts": str(1_790_000_011 + CLOCK_MARGIN_S)}
    assert first == Request("/markets/trades", {**bounds, "limit": "1000"})
    more = ASKS.take(TRADES, first, spanning(8)).following
    assert more == first._replace(query={**first.query, "cursor": "c"})
    with pytest.raises(BadMessageError):
        ASKS.take(TRADES, more, spanning(8))
    assert ASKS.take(TRADES, more, market_page()) == (None, COMPLETE)


@pytest.mark.parametrize("page", [spanning(5), market_page(cursor="c"), b'{"trades":[1],"cursor":"c"}'], ids=repr)
def test_the_markets_one_by_one_where_that_is_less(page: bytes) -> None:
    """21 s by 5 s a page are more pages than two markets; of these every page of every one; then it is the end."""
    first = ASKS.first(TRADES)
    one = ASKS.take(TRADES, first, page).following
    assert one == first._replace(query={**first.query, "ticker": "KXBTCD-1-T1"}, about="KXBTCD-1-T1")
    more = ASKS.take(TRADES, one, spanning(1)).following
    assert more == one._replace(query={**one.query, "cursor": "c"})
    other = ASKS.take(TRADES, more, market_page()).following
    assert other is not None
    assert (other.about, other.query.get("cursor")) == ("KXBTCD-1-T2", None)
    assert ASKS.take(TRADES, other, market_page()) == (None, COMPLETE)


@pytest.mark.parametrize("markets", [(), ("M",) * (MAX_MARKETS + 1)], ids=["none", "too many"])
def test_or_all_however_long_it_takes(markets: tuple[str, ...]) -> None:
    """Where no market is known, or too many are, all trades of the time are asked for."""
    gap = TRADES._replace(parts=markets)
    following = ASKS.take(gap, ASKS.first(gap), spanning(0)).following
    assert following is not None
    assert (following.about, following.query["cursor"]) == ("", "c")


def test_how_markets_stand_is_asked_by_series() -> None:
    """Open ones, closed ones, and those that were settled in the gap or a minute around it; every page of each."""
    asks = KalshiRepair(("KXBTCD", "KXBTC"))
    request: Request | None = asks.first(STATES)
    asked = []
    end = ""
    while request is not None:
        asked.append(
            (request.path, request.query["series_ticker"], request.query["status"], request.query.get("cursor"))
        )
        settled = {key: value for key, value in request.query.items() if key.endswith("_settled_ts")}
        assert settled == (
            {"min_settled_ts": str(1_790_000_000 - MARGIN_S), "max_settled_ts": str(1_790_000_011 + MARGIN_S)}
            if request.query["status"] == "settled"
            else {}
        )
        cursor = "c" if request.query["status"] == "open" and "cursor" not in request.query else ""
        request, end = asks.take(STATES, request, orjson.dumps({"markets": [], "cursor": cursor}))
    assert asked == [
        ("/markets", series, *rest_of)
        for series in ("KXBTCD", "KXBTC")
        for rest_of in (("open", None), ("open", "c"), ("closed", None), ("settled", None))
    ]
    assert end == STATE


def test_how_markets_stand_is_a_row_where_it_is_news() -> None:
    """A market that stands otherwise is a row, one that does not is none; no quote comes of it."""
    parser = KalshiParser({"series": ["KXBTCD"]})
    decoded = parser.decode(states_frame(market("KXBTCD-1-T1"), market("KXBTCD-1-T2", status="active", result="")))
    rows = [row for row in decoded.rows if isinstance(row, MarketState)]
    assert [(row.ticker, row.row_no) for row in rows] == [("KXBTCD-1-T1", 0), ("KXBTCD-1-T2", 2)]
    assert len(decoded.rows) == 3
    assert decoded.rows[-1] == Repaired(9, 4, 1, "kalshi", START_US + 1000, counted=False, end=STATE)
    assert (decoded.outcome, decoded.venue_time) == (Outcome.SHIPPED, None)
    again = parser.decode(states_frame(market("KXBTCD-1-T1"), number=2))
    assert (again.outcome, len(again.rows)) == (Outcome.STATE, 1)
    ended = parser.decode(data(3, frames.wrap(STATES, "settled KXBTCD", "refused"), feed="kalshi"))
    assert [row.end for row in ended.rows if isinstance(row, Repaired)] == ["refused"]


def test_one_odd_market_costs_one_market() -> None:
    """Its neighbour is a row, the gap is told, and the quarantine has the odd one alone, to be decoded again."""
    parser = KalshiParser({"series": ["KXBTCD"]})
    decoded = parser.decode(states_frame(market("KXBTCD-1-T1", result=7), market("KXBTCD-1-T2")))
    assert decoded.outcome is Outcome.QUARANTINED
    assert [row.ticker for row in decoded.rows if isinstance(row, MarketState)] == ["KXBTCD-1-T2"]
    assert [row.end for row in decoded.rows if isinstance(row, Repaired)] == [STATE]
    (aside,) = (row for row in decoded.rows if isinstance(row, Quarantined))
    mended = aside.frame.replace(b'"result":7', b'"result":"yes"')
    (row,) = parser.decode(data(1, mended, feed="kalshi")).rows
    assert isinstance(row, MarketState)
    assert (row.ticker, row.row_no) == ("KXBTCD-1-T1", 0)


def test_markets_trades_are_rows_once() -> None:
    """A trade that came by socket is none; one that comes by socket after REST is a duplicate; old times are fine."""
    parser = KalshiParser({"series": ["KXBTCD"]})
    body = {
        "trade_id": "a", "market_ticker": "KXBTCD-1-T1", "yes_price_dollars": "0.4600", "count_fp": "3.25",
        "taker_outcome_side": "no", "ts_ms": START_US // 1000,
    }  # fmt: skip
    parser.decode(data(1, {"type": "trade", "sid": 2, "seq": 1, "msg": body}, feed="kalshi"))
    old = rest_trade("b", created_time="2020-01-01T00:00:00Z")
    answer = market_page(rest_trade("a"), old, rest_trade("c", "KXETHD-1-T1"))
    frame = data(2, frames.wrap(TRADES, "", "", answer), feed="kalshi")
    decoded = parser.decode(frame)
    (row,) = (row for row in decoded.rows if isinstance(row, MarketEvent))
    assert (row.trade_id, row.event_type, row.row_no, row.last_size, row.side) == ("b", "rest_trade", 1, "3.25", "no")
    assert row.raw_json is not None
    assert orjson.loads(row.raw_json) == old
    late = {"type": "trade", "sid": 2, "seq": 2, "msg": body | {"trade_id": "b"}}
    assert parser.decode(data(3, late, feed="kalshi")).outcome is Outcome.DUPLICATE


def test_trades_of_other_series_are_of_no_concern() -> None:
    """However odd they are: no row, no quarantine, and no duplicate."""
    parser = KalshiParser({"series": ["KXBTCD"]})
    answer = market_page(rest_trade("a", "KXETHD-1-T1", count_fp=None), rest_trade("b", "KXETHD-1-T2"))
    decoded = parser.decode(data(1, frames.wrap(TRADES, "", COMPLETE, answer), feed="kalshi"))
    assert (decoded.outcome, len(decoded.rows)) == (Outcome.STATE, 1)
    odd = data(2, frames.wrap(TRADES, "", "", market_page({"trade_id": "a"})), feed="kalshi")
    assert parser.decode(odd).outcome is Outcome.QUARANTINED


@dataclass
class Asked:
    """What a gap took at the simulated venue: the questions, and the rows of the answers."""

    requests: list[Request] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    end: str = ""


async def asked(venue: KalshiVenue, gap: Missing, parser: KalshiParser) -> Asked:
    """Ask for a gap, to the end."""
    found = Asked()
    request: Request | None = ASKS.first(gap)
    async with rest.asking("kalshi", venue.rest_url) as client:
        while request is not None:
            found.requests.append(request)
            answer = await client.get(request)
            page = ASKS.take(gap, request, answer)
            frame = data(len(found.requests), frames.wrap(gap, request.about, page.end, answer), feed="kalshi")
            decoded = parser.decode(frame._replace(recv_ns=venue._exchange.now_s * 10**9))
            found.rows += [row for row in decoded.rows if isinstance(row, Row)]
            request, found.end = page
    return found


def between(venue: KalshiVenue, hours: float, upto_hours: float, channel: str) -> Missing:
    """A gap of the simulated venue, by its age in hours."""
    now_s = venue._exchange.now_s
    from_time, to_time = (round((now_s - 3600 * each) * 10**6) for each in (hours, upto_hours))
    markets = [strike.ticker for strike in venue._exchange.strikes()] if channel == "trade" else ()
    return Missing(1, 3, channel, from_time, to_time, None, None, markets)


async def test_hours_without_the_lifecycle_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator's markets that were settled in three hours, or that are open or closed now, stand as it says."""
    monkeypatch.setattr(kalshi_market, "KEEP_S", 8 * 3600)
    async with simulated(3600, start_s=START - 1080) as venue:  # 18:32
        gap = between(venue, 3, 0, "market_lifecycle_v2")
        found = await asked(venue, gap, KalshiParser({"series": ["KXBTCD"]}))
        now_s = venue._exchange.now_s
        stands = {s.ticker: (s.event.status(now_s), s.event.settled_s) for s in venue._exchange.strikes()}
    wanted = {
        ticker: status
        for ticker, (status, settled_s) in stands.items()
        if status in {"active", "closed", "determined"}
        or (status == "finalized" and settled_s * 10**6 >= gap.from_time)
    }
    assert {row.ticker: row.status for row in found.rows} == wanted
    assert sum(status == "finalized" for status in wanted.values()) == 3 * kalshi_market.STRIKES
    settled = [row for row in found.rows if row.status == "finalized"]
    assert all(row.result in {"yes", "no"} and row.expiration_value and row.settlement_time for row in settled)
    assert (found.end, len(found.requests)) == (STATE, 3)


async def test_a_minute_of_trades_is_one_question() -> None:
    """At the simulator: one question, where its markets are dozens, brings every trade of that minute."""
    async with simulated(3600, start_s=START + 1800) as venue:
        gap = between(venue, 1 / 60 + 0.1, 0.1, "trade")
        found = await asked(venue, gap, KalshiParser({"series": ["KXBTCD"]}))
        lower, upper = gap.from_time // 1000, gap.to_time // 1000
        made = {t.trade_id for s in venue._exchange.strikes() for t in s.trades if lower <= t.ts_ms <= upper}
    assert made
    assert made <= {row.trade_id for row in found.rows}
    assert len(gap.parts) > 20
    assert (found.end, len(found.requests)) == (COMPLETE, 1)


async def declare(connection: asyncpg.Connection, number: int, channel: str, at_s: float, missing: int | None) -> None:
    """Write a closed gap of a second into the ledger; `missing` numbers, if they are counted."""
    await connection.execute(
        "INSERT INTO ingest.gaps (frame_no, gap_no, feed, channel, scope, cause, from_time, to_time, from_seq, to_seq, "
        "expected) SELECT $1, 1, 'kalshi', $2, 'sid 2', 'x', to_timestamp($3), to_timestamp($3 + 1), "
        "CASE WHEN $4::bigint IS NOT NULL THEN 1 END, $4, $4",
        number, channel, at_s, missing,
    )  # fmt: skip


async def ledger(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """What repair makes of the ledger."""
    query = (
        "SELECT expected, recovered, repaired_at IS NOT NULL, repaired_as, given_up_why FROM ingest.gaps ORDER BY 1, 2"
    )
    return [tuple(row) for row in await connection.fetch(query.replace("ORDER BY 1, 2", "ORDER BY frame_no"))]


async def told(connection: asyncpg.Connection, number: int, came: int, end: str) -> None:
    """Take an answer in."""
    await connection.execute(statement("repair_gap"), "live", number, 1, came, end, START_US)


async def test_how_markets_stand_closes_a_gap_as_state(database: str) -> None:
    """With or without a count of what was missed: it is repaired, and says that the messages were not told again."""
    async with store.session(database) as opened:
        connection = opened._connection
        await declare(connection, 1, "market_lifecycle_v2", 100, None)
        await declare(connection, 2, "market_lifecycle_v2", 200, 7)
        await told(connection, 1, 5, "")
        assert await ledger(connection) == [(None, 5, False, None, None), (7, 0, False, None, None)]
        for number in (1, 2):
            await told(connection, number, 2, STATE)
        assert await ledger(connection) == [(7, 7, True, STATE, None), (7, 2, True, STATE, None)]


@pytest.mark.parametrize(
    ("came", "wanted"),
    [
        ((9, 0, 0), [(4, 4, True), (3, 3, True), (2, 2, True)]),
        ((8, 0, 0), [(4, 4, True), (3, 3, True), (2, 1, False)]),
        ((4, 1, 2), [(4, 4, True), (3, 1, False), (2, 2, True)]),
        ((2, 5, 2), [(4, 2, False), (3, 5, True), (2, 2, True)]),
    ],
)
async def test_holes_in_the_same_seconds_share_what_came(
    database: str, came: tuple[int, ...], wanted: list[tuple[int, int, bool]]
) -> None:
    """What one has beyond its number counts for another nearby that lacks some, and only for one; the sum stays."""
    async with store.session(database) as opened:
        connection = opened._connection
        for number, missing in ((1, 4), (2, 3), (3, 2)):
            await declare(connection, number, "trade", 100 + 2 * number, missing)
        for number, count in enumerate(came, 1):
            await told(connection, number, count, COMPLETE)
        found = await ledger(connection)
    assert [(expected, recovered, whole) for expected, recovered, whole, *_ in found] == wanted
    assert sum(recovered for _, recovered, *_ in found) == sum(came)
    assert {why for *_, why in found} == ({None} if all(whole for *_, whole in wanted) else {None, "venue_has_fewer"})


async def test_holes_far_apart_share_nothing(database: str) -> None:
    """What came for one that is minutes away, or of another channel, does not count."""
    async with store.session(database) as opened:
        connection = opened._connection
        await declare(connection, 1, "trade", 100, 1)
        await declare(connection, 2, "trade", 400, 1)
        await told(connection, 1, 5, COMPLETE)
        await told(connection, 2, 0, COMPLETE)
        assert await ledger(connection) == [(1, 5, True, None, None), (1, 0, False, None, "venue_has_fewer")]


@pytest.mark.parametrize("past", [False, True], ids=["live", "past"])
async def test_how_markets_stand_comes_first(database: str, past: bool) -> None:  # noqa: FBT001  # a parameter of pytest's
    """Then trades, the counted holes first; state is asked from the close of the oldest market that is not over.

    Descriptions may have rolled over meanwhile.
    """
    day = 86_400
    async with store.session(database) as opened:
        connection = opened._connection
        for number, channel, missing in (
            (1, "trade", None), (2, "trade", 3), (3, "market_lifecycle_v2", None), (4, "ticker", None),
            (5, "rest", None),
        ):  # fmt: skip
            await declare(connection, number, channel, 3 * day, missing)
        for number, (name, status, closes) in enumerate([
            ("A", "active", 3 * day - 500), ("B", "active", 3 * day - 900), ("B", "finalized", 3 * day - 900),
            ("C", "determined", day), ("D", "active", 3 * day + 600), ("E", None, 3 * day - 990),
        ]):  # fmt: skip
            await connection.execute(
                "INSERT INTO live_data.market_data (timestamp, received_at, venue, ticker, status, open_time, "
                "close_time, frame_no) SELECT at, at, 'kalshi', $1, $2, closes - interval '1 hour', closes, $3::int "
                "FROM (SELECT to_timestamp($4::float8 - 3000) AS at, to_timestamp($4) AS closes) AS of",
                name, status, number, float(closes),
            )  # fmt: skip
        if past:
            await roll_all(database)
        gaps = await opened.gaps(KalshiRepair.GAPS, 10)
    assert [gap.frame_no for gap in gaps] == [3, 5, 2, 1]
    asked = [(gap.from_time // 10**6, list(gap.parts)) for gap in gaps]
    assert asked == [(3 * day - 500, [])] * 2 + [(3 * day, ["D"])] * 2
