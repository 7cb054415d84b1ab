"""The derived columns: exact beside a slow reference, whatever the order, and the same across restarts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random

import asyncpg
import orjson
import pytest
from harness.databases import execute
from hypothesis import given
from hypothesis import strategies as st
from rollover_data import roll_all
from samples import START_NS, match
from sources import Frames
from test_store import rows

from recio_ingest import momentum, store
from recio_ingest.decode import Decoder
from recio_ingest.momentum import MINUTE_US, Window, Windows
from recio_ingest.numeric import decode, encode
from recio_ingest.records import LIVE_STREAM, REPAIR, Batch, BtcPrice, Decoded, Frame, Kind, Outcome
from recio_ingest.ship import Shipper, _decoder

START_US = START_NS // 1000
DERIVED = BtcPrice._fields[BtcPrice._fields.index("one_minute_avg") :]
WEIGHTS = {1: 30, 2: 25, 3: 20, 4: 15, 15: 5, 30: 5}
Arrived = Sequence[tuple[int, str]]


def text(value: Fraction, decimals: int) -> str:
    """A fraction, rounded half-even, as the columns show it."""
    units = round(value * 10**decimals)
    digits = str(abs(units)).zfill(decimals + 1)
    return f"{'-' if units < 0 else ''}{digits[:-decimals]}.{digits[-decimals:]}"


def reference(earlier: Arrived, moment: int, price: str) -> tuple[str | None, ...]:
    """The words of the design, in fractions, over all rows that ever arrived."""
    now = Fraction(price)
    minute = [Fraction(old) for at, old in (*earlier, (moment, price)) if moment - MINUTE_US < at <= moment]
    changes: dict[int, Fraction] = {}
    for minutes in WEIGHTS:
        found = [(at, n, old) for n, (at, old) in enumerate(earlier) if at <= moment - minutes * MINUTE_US]
        if found:
            before = Fraction(max(found)[2])
            changes[minutes] = (now - before) / before * 100
    total = sum(WEIGHTS[minutes] for minutes in changes)
    mean = sum(WEIGHTS[minutes] * change for minutes, change in changes.items()) / total if changes else None
    return (
        text(Fraction(sum(minute), len(minute)), 8),
        None if mean is None else text(Fraction(mean), 6),
        *(text(changes[minutes], 6) if minutes in changes else None for minutes in WEIGHTS),
    )


def shown(derived: Iterable[bytes | None]) -> tuple[str | None, ...]:
    """Derived columns, packed as they are, as their text."""
    return tuple(None if number is None else format(decode(number), "f") for number in derived)


PRICES = st.one_of(
    st.sampled_from(["60000", "60000.00", "60030.00", "59970.003", "0.00000001", "1", "3", "64000000.0000005"]),
    st.decimals(min_value="0.0001", max_value="99999", places=4).map(lambda price: format(price, "f")),
)
STEPS_S = st.sampled_from([0, 0, 0.000001, 0.05, 1, 59.999999, 60, 60.000001, 120, 900, 1800, 4000, -0.5, -30, -60])
WALKS = st.lists(st.tuples(STEPS_S, PRICES), min_size=1, max_size=40)


@given(WALKS)
def test_exact_whatever_the_order(walk: list[tuple[float, str]]) -> None:
    """Out of order by up to a minute, or at the same time: every column is what the definition says, digit by digit."""
    window, arrived = Window(), list[tuple[int, str]]()
    newest = moment = START_US
    for step_s, price in walk:
        moment = max(moment + round(step_s * 1e6), newest - MINUTE_US)
        newest = max(newest, moment)
        assert shown(window.add(moment, moment, price)) == reference(arrived, moment, price)
        arrived.append((moment, price))


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("200000000", "200000001", "0.000000"),
        ("200000000", "200000003", "0.000002"),
        ("200000000", "199999999", "0.000000"),
        ("200000000", "199999997", "-0.000002"),
        ("1", "3.5", "250.000000"),
        ("3", "1", "-66.666667"),
    ],
)
def test_ties_go_to_the_even_digit(before: str, after: str, change: str) -> None:
    """A change exactly between two has the even one, and so has the mean of one change; nothing becomes -0."""
    window = Window()
    window.add(START_US, START_US, before)
    assert shown(window.add(START_US + MINUTE_US, START_US + MINUTE_US, after))[1:3] == (change, change)


def test_a_mean_exactly_between_two() -> None:
    """The minute's mean of ...1 and ...2 at the ninth decimal is rounded to the even one."""
    window = Window()
    window.add(START_US, START_US, "1.00000001")
    assert window.add(START_US, START_US, "1.00000002")[0] == encode("1.00000002")
    window = Window()
    window.add(START_US, START_US, "1.00000002")
    assert window.add(START_US, START_US, "1.00000003")[0] == encode("1.00000002")


def test_a_row_of_the_future_empties_no_window() -> None:
    """After a row that is 59 minutes ahead the others still have all that they would have without it."""
    plain, disturbed = Window(), Window()
    for second in range(0, 4000, 10):
        moment, price = START_US + second * 10**6, str(60_000 + second)
        if second == 2000:
            disturbed.add(moment + 59 * MINUTE_US, moment, "1")
        assert disturbed.add(moment, moment, price) == plain.add(moment, moment, price)


def test_what_is_out_of_reach_is_none() -> None:
    """A row that is too late for what the window holds has no change that would need more, and a mean all the same."""
    window = Window()
    for minute in range(100):
        window.add(START_US + minute * MINUTE_US, START_US + minute * MINUTE_US, "10")
    late = window.add(START_US + 10 * MINUTE_US, START_US + 100 * MINUTE_US, "11")
    assert late == (encode("11.00000000"), *[None] * 7)


def test_a_window_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit a window loses its oldest prices: long changes are None, the minute's mean is of the rest."""
    monkeypatch.setattr(momentum, "MAX_PRICES", 100)
    window = Window()
    for n in range(5000):
        got = window.add(START_US + n * 100_000, START_US + n * 100_000, str(1 + n))
    assert len(window._times) < 100 + 2 * momentum._COMPACT_AT
    assert len(window._times) - window._first == 100
    assert got == (encode(text(Fraction(sum(range(4900, 5001)), 101), 8)), *[None] * 7)


def test_symbols_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one symbol too many are left as they came; those that have a window go on."""
    monkeypatch.setattr(momentum, "MAX_WINDOWS", 1)
    windows = Windows()
    first = BtcPrice(START_US, START_US, "v", "A", "1", None, None, None, None, None, 1)
    other = first._replace(symbol="B", frame_no=2)
    assert windows.derive(first).one_minute_avg == encode("1.00000000")
    assert windows.derive(other) is other
    assert windows.derive(first).one_minute_avg == encode("1.00000000")


def frames(count: int, seed: int = 7) -> list[Frame]:
    """Trades of two products over two hours: late ones, equal times, a quiet hour, and prices that repeat."""
    random, moment, made = Random(seed), 0, list[Frame]()
    for n in range(1, count + 1):
        moment += random.choice([0, 0, 1, 50_000, 7_000_000, 61_000_000]) if n != count // 2 else 3_600_000_000
        late = random.choice([0, 0, 0, 1, 1_000_000, 59_000_000])
        when = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC) + timedelta(microseconds=max(0, moment - late))
        message = match(
            n,
            price=random.choice(["60000.00", f"{random.randint(1, 9999999)}.{random.randint(0, 99):02d}"]),
            product_id=random.choice(["BTC-USD", "ETH-USD"]),
            time=when.isoformat().replace("+00:00", "Z"),
        )
        made.append(Frame(n, START_NS + moment * 1000, "coinbase", Kind.DATA, orjson.dumps(message)))
    return made


SAME_AS_THE_DEFINITION = """
WITH arrived AS (SELECT *, frame_no * 10 + row_no AS no FROM live_data.btc_price_log),
compared AS (
  SELECT a.venue, a.symbol, a.no, n, w, (a.price - b.price) * 100 AS over, b.price AS under
    FROM arrived a, unnest(ARRAY[1, 2, 3, 4, 15, 30], ARRAY[30, 25, 20, 15, 5, 5]) AS age (n, w),
         LATERAL (SELECT price FROM arrived b
                   WHERE (b.venue, b.symbol) = (a.venue, a.symbol) AND b.no < a.no
                     AND b."timestamp" <= a."timestamp" - n * interval '1 minute'
                   ORDER BY b."timestamp" DESC, b.no DESC LIMIT 1) AS b),
changes AS (
  SELECT no, round(sum(w * (over::numeric(60, 40) / under)) / sum(w), 6) AS momentum,
         jsonb_object_agg(n, round(over::numeric(60, 40) / under, 6)) AS by_age
    FROM compared GROUP BY no)
SELECT a.no, a.momentum IS NOT DISTINCT FROM c.momentum
   AND a.one_minute_avg = (SELECT round(avg(b.price::numeric(60, 40)), 8) FROM arrived b
                            WHERE (b.venue, b.symbol) = (a.venue, a.symbol) AND b.no <= a.no
                              AND b."timestamp" > a."timestamp" - interval '1 minute'
                              AND b."timestamp" <= a."timestamp")
   AND (a.delta_1m, a.delta_2m, a.delta_3m, a.delta_4m, a.delta_15m, a.delta_30m) IS NOT DISTINCT FROM
       ((by_age->>'1')::numeric, (by_age->>'2')::numeric, (by_age->>'3')::numeric, (by_age->>'4')::numeric,
        (by_age->>'15')::numeric, (by_age->>'30')::numeric)
  FROM arrived a LEFT JOIN changes c USING (no) ORDER BY 1
"""
"""With 40 decimals a tie of the sixth is one only where it is one; the test's prices have none."""


async def ship(dsn: str, parts: Sequence[Sequence[Frame]], *, past: bool = False) -> list[Batch]:
    """Commit each part by a decoder that knows only what the database says; with `past`, all rows roll over at once."""
    batches = []
    async with store.session(dsn) as opened:
        position = await opened.acquire(LIVE_STREAM, "a", start_no=0)
        for part in parts:
            batches.append((await _decoder(opened, position)).decode(part))
            position = await opened.commit(position, batches[-1])
            position = await opened.acquire(LIVE_STREAM, "a", start_no=0, epoch=position.epoch)
            if past:
                await roll_all(dsn)
    return batches


async def test_restarts_change_nothing_and_sql_agrees(database: str) -> None:
    """Restarted after every third frame, each row is what one run gives, and what the definition says in SQL."""
    given = frames(300)
    parts = await ship(database, [given[at : at + 3] for at in range(0, len(given), 3)])
    whole = Decoder({}).decode(given)
    assert [row for part in parts for row in part.tables.get(BtcPrice, [])] == whole.tables[BtcPrice]
    assert orjson.loads(orjson.dumps(parts[-1].state)) == orjson.loads(orjson.dumps(whole.state))
    compared = await rows(database, SAME_AS_THE_DEFINITION)
    assert len(compared) == 300
    assert [no for no, same in compared if not same] == []
    ((changed,),) = await rows(database, "SELECT count(*) FROM live_data.btc_price_log WHERE delta_30m <> 0")
    assert int(str(changed)) > 50


async def test_a_restart_at_every_place(database: str) -> None:
    """Wherever one restart falls, the rows after it are the same."""
    given = frames(60, seed=3)
    whole = Decoder({}).decode(given).tables[BtcPrice]
    for at in range(1, 60):
        await execute(database, "TRUNCATE live_data.btc_price_log, ingest.offsets")
        parts = await ship(database, [given[:at], given[at:]])
        assert [row for part in parts for row in part.tables[BtcPrice]] == whole


async def test_a_restart_with_a_short_window(database: str) -> None:
    """Where rows have rolled over before they are out of reach, the rows after a restart are the same."""
    given = frames(60, seed=3)
    parts = await ship(database, [given[at : at + 10] for at in range(0, 60, 10)], past=True)
    assert [row for part in parts for row in part.tables[BtcPrice]] == Decoder({}).decode(given).tables[BtcPrice]
    assert await rows(database, "SELECT count(*)::int FROM historical_data.momentum_history") == [(60,)]


@pytest.mark.parametrize("past", [False, True], ids=["live", "past"])
async def test_repaired_rows_stay_outside(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    past: bool,  # noqa: FBT001  # a parameter of pytest's
) -> None:
    """A row that was fetched again has no derived columns, and nothing is compared with it, even after a restart."""
    given = frames(40, seed=5)
    expected = [row[-8:] for row in Decoder({}).decode(given).tables[BtcPrice]]
    repair = given[20]._replace(frame_no=1000, data=REPAIR + b":1}")
    fetched = Decoder({}).decode_one(given[20]).rows[0]
    assert isinstance(fetched, BtcPrice)
    plain = Decoder.decode_one

    def decoded(self: Decoder, frame: Frame) -> Decoded:
        if frame.data.startswith(REPAIR):
            return Decoded(Outcome.SHIPPED, (fetched._replace(price="1", frame_no=frame.frame_no),))
        return plain(self, frame)

    monkeypatch.setattr(Decoder, "decode_one", decoded)
    later = [frame._replace(frame_no=frame.frame_no + 1000) for frame in given[20:]]
    parts = await ship(database, [given[:20], [repair], later], past=past)
    got = [row for part in parts for row in part.tables[BtcPrice]]
    assert got[20][-8:] == (None,) * 8
    assert [row[-8:] for row in (*got[:20], *got[21:])] == expected


async def test_one_row_per_second(database: str) -> None:
    """The view shows each second's last price, of two of the same time the one that arrived last, as it was derived."""
    made = [("14:13:20.100000", "1"), ("14:13:20.900000", "2"), ("14:13:20.900000", "3"), ("14:13:20.5", "4"),
            ("14:14:21.000000", "6")]  # fmt: skip
    given = [
        Frame(n, START_NS + n, "coinbase", Kind.DATA, orjson.dumps(match(n, price=price, time=f"2026-09-21T{at}Z")))
        for n, (at, price) in enumerate(made, 1)
    ]
    await ship(database, [given])
    await execute(database, "SET ROLE recio_read; SELECT * FROM live_data.btc_price_1s")
    query = (
        "SELECT \"timestamp\" AT TIME ZONE 'UTC', venue, symbol, price::int, momentum::text FROM live_data.btc_price_1s"
    )
    assert await rows(database, f"{query} ORDER BY 1") == [
        (datetime(2026, 9, 21, 14, 13, 20), "coinbase", "BTC-USD", 3, None),  # noqa: DTZ001  # PostgreSQL's, without a zone
        (datetime(2026, 9, 21, 14, 14, 21), "coinbase", "BTC-USD", 6, "100.000000"),  # noqa: DTZ001
    ]
    connection = await asyncpg.connect(database)
    try:
        columns = list((await connection.fetch("SELECT * FROM live_data.btc_price_1s LIMIT 1"))[0].keys())
    finally:
        await connection.close()
    assert columns == ["timestamp", "venue", "symbol", "price", *DERIVED]


async def test_a_refused_row_counts_for_none(database: str) -> None:
    """A row that the database refuses is in no table, and no row of a later batch is compared with it."""
    given = frames(30, seed=11)
    refused = given[8]
    kept = Decoder({}).decode([frame for frame in given if frame is not refused]).tables[BtcPrice]
    await execute(database, f"ALTER TABLE live_data.btc_price_log ADD CHECK (trade_id <> {refused.frame_no})")

    async def acquire(opened: store.Store, epoch: int) -> store.Position:
        return await opened.acquire(LIVE_STREAM, "a", start_no=0, epoch=epoch)

    await Shipper(Frames(given), database, acquire, min_interval_s=0, max_rows=9, patient=False).run()
    query = f"SELECT frame_no, {', '.join(f'{name}::text' for name in DERIVED)} FROM live_data.btc_price_log ORDER BY 1"
    got = await rows(database, query)
    assert len(got) == 29
    assert got == [(row.frame_no, *shown(row[-8:])) for row in kept if isinstance(row, BtcPrice)]
