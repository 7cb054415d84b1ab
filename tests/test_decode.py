"""Frames in, a batch out: one outcome per frame, books that add up, and no difference where the batch is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import START_NS, control, data, heartbeat, match, subscriptions, tick, ticker

from recio_ingest.decode import Decoder
from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Parser, coinbase
from recio_ingest.momentum import wanted
from recio_ingest.numeric import encode
from recio_ingest.records import (
    DAEMON_FEED,
    Batch,
    BtcPrice,
    Decoded,
    Frame,
    Gap,
    Kind,
    Newest,
    Outcome,
    Quarantined,
)

START_US = START_NS // 1000


def lost(frame_no: int) -> Frame:
    """Return the frame that the spool makes for the ten frames before and with this number, which it has not."""
    facts = {"from_no": frame_no - 9, "to_no": frame_no, "cause": "spool_lost"}
    return control(frame_no, Kind.LOST, feed=DAEMON_FEED, **facts)


KINDS = st.sampled_from(
    [
        lambda no, number: data(no, match(number)),
        lambda no, number: data(no, match(number, product_id="ETH-USD", type="last_match")),
        lambda no, number: data(no, ticker(f"{number}.10", f"{number}.20")),
        lambda no, _: data(no, heartbeat()),
        lambda no, _: data(no, subscriptions()),
        lambda no, _: data(no, b"{"),
        lambda no, _: data(no, {"type": "novelty"}),
        lambda no, number: data(no, match(number, price="NaN")),
        lambda no, number: data(no, match(number), feed="no-such-venue"),
        lambda no, _: control(no, Kind.CONNECTED, products=["BTC-USD"]),
        lambda no, _: control(no, Kind.DISCONNECTED, cause="reset"),
        lambda no, _: control(no, Kind.PAUSED, cause="spool_full"),
        lambda no, _: control(no, Kind.RESUMED),
        lambda no, _: tick(no),
        lambda no, _: lost(no),
    ]
)
MIXES = st.lists(st.tuples(KINDS, st.integers(1, 30)), min_size=1, max_size=60).map(
    lambda draws: [make(20 * at, number) for at, (make, number) in enumerate(draws, 1)]
)


def decode(state: dict[str, Any], frames: list[Frame], stored: Sequence[BtcPrice] = ()) -> tuple[Batch, dict[str, Any]]:
    """Return the batch of these frames, and the state after it as the database gives it back."""
    after = {(venue, symbol): moment for venue, symbol, moment in wanted(state)}
    held = [row for row in stored if row.timestamp > after[row.venue, row.symbol]]
    prices = [(row.venue, row.symbol, row.timestamp, row.price) for row in sorted(held, key=attrgetter("timestamp"))]
    batch = Decoder(state, prices=prices).decode(frames)
    return batch, orjson.loads(orjson.dumps(batch.state))


@given(MIXES)
def test_every_frame_has_one_outcome(frames: list[Frame]) -> None:
    """Whatever mix comes: the counts add up to the frames, shipped ones have rows, quarantined ones are kept whole."""
    batch, _ = decode({}, frames)
    assert sum(batch.counts.values()) == sum(batch.outcomes.values()) == len(frames)
    assert batch.counts == {
        outcome: sum(n for (_, o), n in batch.outcomes.items() if o is outcome) for outcome in Outcome
    }
    assert Counter(frame.feed for frame in frames) == sum(
        (Counter({feed: count}) for (feed, _), count in batch.outcomes.items()), Counter()
    )
    rows = [row for rows in batch.tables.values() for row in rows]
    shipped = {row.frame_no for row in rows}
    quarantined = {entry.frame_no for entry in batch.quarantine}
    assert (len(shipped), len(quarantined)) == (
        batch.counts[Outcome.SHIPPED],
        batch.counts[Outcome.QUARANTINED],
    )
    assert not shipped & quarantined
    kept = {frame.frame_no: frame for frame in frames}
    assert all(
        (entry.frame, entry.feed) == (kept[entry.frame_no].data, kept[entry.frame_no].feed)
        for entry in batch.quarantine
    )
    assert batch.counts[Outcome.CONTROL] == sum(frame.kind != Kind.DATA for frame in frames)
    assert (batch.first_no, batch.last_no, batch.frames) == (frames[0].frame_no, frames[-1].frame_no, frames)


@given(MIXES, st.data())
def test_where_a_batch_is_cut_makes_no_difference(frames: list[Frame], draw: st.DataObject) -> None:
    """In one go, again, or cut anywhere with the state taken through JSON: same rows, gaps, quarantine and state."""
    whole, state = decode({}, frames)
    assert decode({}, frames) == (whole, state)
    at = draw.draw(st.integers(0, len(frames)), label="cut")
    parts, after = list[Batch](), dict[str, Any]()
    for part in (frames[:at], frames[at:]):
        if part:
            stored = [row for earlier in parts for row in earlier.tables.get(BtcPrice, []) if type(row) is BtcPrice]
            batch, after = decode(after, part, stored)
            parts.append(batch)
    assert after == state
    assert [row for part in parts for row in part.tables.get(BtcPrice, [])] == whole.tables.get(BtcPrice, [])
    assert [entry for part in parts for entry in part.quarantine] == whole.quarantine
    assert {name: gap for part in parts for name, gap in part.gaps.items()} == whole.gaps
    assert sum((Counter(part.counts) for part in parts), Counter()) == +Counter(whole.counts)


def test_a_batch_in_full() -> None:
    """A trade, its repetition, a ticker, a broken message, a stranger's, a tick and a jump, each where it belongs."""
    frames = [
        control(1, Kind.CONNECTED, products=["BTC-USD"]),
        data(2, match(7)),
        data(3, match(7, type="last_match")),
        data(4, ticker("1.10", "1.20")),
        data(5, b"{"),
        data(6, match(8), feed="elsewhere"),
        tick(7),
        data(8, match(10)),
    ]
    batch, _ = decode({}, frames)
    first = BtcPrice(
        START_US, START_US + 2000, "coinbase", "BTC-USD", "60123.40", "0.01020000", "sell", 7, None, None, 2,
        one_minute_avg=encode("60123.40000000"),
    )  # fmt: skip
    assert batch.tables == {
        BtcPrice: [
            first,
            first._replace(received_at=START_US + 8000, trade_id=10, best_bid="1.10", best_ask="1.20", frame_no=8),
        ]
    }
    times = (START_US + 2000, START_US + 8000)
    assert batch.gaps == {(8, 1): Gap(8, 1, "coinbase", "matches", "BTC-USD", "sequence", *times, 8, 9, 2)}
    assert [(entry[:5], entry.frame) for entry in batch.quarantine] == [
        ((5, 0, "coinbase", START_US + 5000, "json"), b"{"),
        ((6, 0, "elsewhere", START_US + 6000, "unknown_type"), frames[5].data),
    ]
    assert batch.counts == {
        Outcome.SHIPPED: 2,
        Outcome.STATE: 1,
        Outcome.DUPLICATE: 1,
        Outcome.CONTROL: 2,
        Outcome.QUARANTINED: 2,
    }
    assert batch.outcomes == {
        ("coinbase", Outcome.CONTROL): 1,
        ("coinbase", Outcome.SHIPPED): 2,
        ("coinbase", Outcome.DUPLICATE): 1,
        ("coinbase", Outcome.STATE): 1,
        ("coinbase", Outcome.QUARANTINED): 1,
        ("elsewhere", Outcome.QUARANTINED): 1,
        ("daemon", Outcome.CONTROL): 1,
    }
    assert batch.newest == {"coinbase": Newest(START_NS + 8_000_000, START_US)}


def test_frames_that_the_spool_lost_are_a_gap() -> None:
    """The gap lasts from the frame before to the moment of the discovery, and says which frames are gone."""
    _, state = decode({}, [tick(3)])
    batch, _ = decode(state, [lost(20)])
    assert batch.gaps == {
        (20, 0): Gap(20, 0, "*", "*", "spool", "spool_lost", START_US + 3000, START_US + 20_000, 11, 20)
    }
    assert batch.counts[Outcome.CONTROL] == 1


class Buggy(coinbase.CoinbaseParser):
    """A parser with a bug that some messages meet."""

    def decode(self, frame: Frame) -> Decoded:
        """Divide by zero at trade 13."""
        if b'"trade_id":13,' in frame.data:
            raise ZeroDivisionError("a bug of ours")
        return super().decode(frame)


def test_a_parsers_bug_costs_that_frame_only() -> None:
    """Its frame goes to the quarantine with the bug's words; the frames before and after it are shipped."""
    decoder = Decoder({})
    buggy: Parser = Buggy({})
    decoder._parsers["coinbase"] = buggy
    batch = decoder.decode([data(1, match(12)), data(2, match(13)), data(3, match(14))])
    assert [row.trade_id for row in batch.tables[BtcPrice] if isinstance(row, BtcPrice)] == [12, 14]
    assert batch.quarantine == [
        Quarantined(
            2, 0, "coinbase", START_US + 2000, "bug", "ZeroDivisionError('a bug of ours')", data(2, match(13)).data
        )
    ]
    assert batch.counts[Outcome.SHIPPED] == 2


def test_one_frame_alone() -> None:
    """A single frame is decoded as in a batch, and what is wrong with it is raised."""
    decoder = Decoder({})
    assert decoder.decode_one(tick(1)) == Decoded(Outcome.CONTROL)
    assert decoder.decode_one(data(2, match(1))).outcome is Outcome.SHIPPED
    with pytest.raises(BadMessageError, match="no venue"):
        decoder.decode_one(data(3, match(1), feed="elsewhere"))


def test_moved_frames_are_counted_anew() -> None:
    """Shipped frames that turn out to be something else change their outcome, and the books still add up."""
    batch, _ = decode({}, [data(1, match(1)), data(2, match(2)), data(3, heartbeat())])
    moved = batch.moved({2}, Outcome.DUPLICATE)
    assert moved.counts == {
        Outcome.SHIPPED: 1,
        Outcome.STATE: 1,
        Outcome.DUPLICATE: 1,
        Outcome.CONTROL: 0,
        Outcome.QUARANTINED: 0,
    }
    assert moved.outcomes == {
        ("coinbase", Outcome.SHIPPED): 1,
        ("coinbase", Outcome.STATE): 1,
        ("coinbase", Outcome.DUPLICATE): 1,
    }
    assert batch.counts[Outcome.SHIPPED] == 2
