"""What a parser remembers of what did not arrive."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import START_NS, data

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds.ledger import MAX_RANGES, Latest, TradeIds
from recio_ingest.records import Gap

START_US = START_NS // 1000
Told = list[tuple[str, int]]


class Ids:
    """A ledger whose frames number themselves, and which passes through JSON before every id."""

    def __init__(self) -> None:
        self.frame_no = 0
        self.state: dict[str, Any] = {}

    def take(self, *numbers: int) -> list[bool]:
        """See ids, each in a frame of its own; return which were new."""
        return [self.take_one(number)[0] for number in numbers]

    def take_one(self, number: int) -> tuple[bool, tuple[Gap, ...]]:
        """See one id in the next frame."""
        self.frame_no += 1
        ledger = TradeIds("f", "matches", "X", self.state)
        try:
            return ledger.see(number, data(self.frame_no, b""))
        finally:
            self.state = orjson.loads(orjson.dumps(ledger.state()))


def gap(frame_no: int, from_us: int, to_us: int, from_seq: int, to_seq: int, *, recovered: int = 0) -> Gap:
    """Return a sequence gap as the ledger declares it, times in microseconds after the start."""
    times = (START_US + from_us, START_US + to_us)
    return Gap(frame_no, 1, "f", "matches", "X", "sequence", *times, from_seq, to_seq, to_seq - from_seq + 1, recovered)


def test_contiguous_ids_are_new_and_declare_nothing() -> None:
    """One after another is how ids should come: all new, no gap."""
    ids = Ids()
    assert [ids.take_one(number) for number in (7, 8, 9, 10)] == [(True, ())] * 4


def test_repeated_ids_are_duplicates() -> None:
    """An id between the first and the last that is not missing was seen."""
    ids = Ids()
    assert ids.take(7, 8, 9) == [True, True, True]
    assert [ids.take_one(number) for number in (7, 8, 9, 9)] == [(False, ())] * 4


def test_a_hole_is_declared_at_once() -> None:
    """A jump declares the ids between, from the last one before to the first one after."""
    ids = Ids()
    ids.take(7)
    assert ids.take_one(11) == (True, (gap(2, 1000, 2000, 8, 10),))
    assert ids.take_one(12) == (True, ())


def test_a_late_id_fills_the_hole_from_either_side() -> None:
    """Late ids are new, count as recovered, and the last of them closes the gap with the time it came."""
    ids = Ids()
    ids.take(7, 12)
    assert ids.take_one(8) == (True, (gap(2, 1000, 2000, 8, 11, recovered=1),))
    assert ids.take_one(11) == (True, (gap(2, 1000, 2000, 8, 11, recovered=2),))
    assert ids.take(8, 11) == [False, False]
    assert ids.take_one(10) == (True, (gap(2, 1000, 2000, 8, 11, recovered=3),))
    assert ids.take_one(9) == (True, (gap(2, 1000, 2000, 8, 11, recovered=4)._replace(repaired_at=START_US + 8000),))
    assert ids.take(8, 9, 10, 11) == [False] * 4
    assert "holes" not in ids.state


def test_an_id_in_the_middle_of_a_hole_splits_it() -> None:
    """What is left on both sides of a late id is still missing, each once."""
    ids = Ids()
    ids.take(1, 10)
    assert ids.take(5, 5, 4, 6, 2, 9, 3, 7, 8, 8) == [True, False, True, True, True, True, True, True, True, False]


def test_ids_before_the_first_are_new() -> None:
    """A recording that began in the middle takes older trades, and declares what lies between."""
    ids = Ids()
    ids.take(100)
    assert ids.take_one(99) == (True, ())
    assert ids.take_one(95) == (True, (gap(3, 1000, 3000, 96, 98),))
    assert ids.take(96, 99, 95, 94) == [True, False, False, True]


def test_holes_are_bounded() -> None:
    """Past the limit the oldest holes are final: their ids are not guessed about, the newest are still filled."""
    ids = Ids()
    ids.take(*range(1, 2 * MAX_RANGES + 102, 2))
    assert len(ids.state["holes"]) == 200
    assert ids.take(102, 500) == [True, True]
    for old in (2, 3, 100):
        with pytest.raises(BadMessageError) as caught:
            ids.take_one(old)
        assert caught.value.reason == "order"
    assert ids.take(101, 103, 499, 502, 501) == [False, False, False, True, False]


def test_a_single_hole_cannot_grow_the_state() -> None:
    """One absurd id makes a hole of millions; what then trickles into it leaves a bounded number of ranges."""
    ids = Ids()
    ids.take(1, 10**12)
    assert all(ids.take(*range(3, 4001, 2)))
    assert len(orjson.dumps(ids.state)) < 5000
    assert ids.take(4000, 3997, 4001, 4002) == [True, False, True, True]
    with pytest.raises(BadMessageError):
        ids.take_one(2)


def test_a_refused_id_changes_nothing() -> None:
    """After an id too old to be judged the ledger is what it was."""
    ids = Ids()
    ids.take(*range(1, 2 * MAX_RANGES + 102, 2))
    before = ids.state
    with pytest.raises(BadMessageError):
        ids.take_one(2)
    assert ids.state == before


@given(st.lists(st.integers(1000, 1040), min_size=1, max_size=80))
def test_each_id_is_new_once_and_the_gaps_are_what_is_missing(numbers: list[int]) -> None:
    """In any order and with any repeats: new exactly once, and declared less recovered is what never came."""
    ids, new, gaps = Ids(), list[int](), dict[tuple[int, int], Gap]()
    for number in numbers:
        is_new, changed = ids.take_one(number)
        new += [number] if is_new else []
        gaps |= {(one.frame_no, one.gap_no): one for one in changed}
    assert sorted(new) == sorted(set(numbers))
    never = set(range(min(numbers), max(numbers) + 1)) - set(numbers)
    assert sum((one.expected or 0) - one.recovered for one in gaps.values()) == len(never)
    declared = [number for one in gaps.values() for number in range(one.from_seq or 0, (one.to_seq or 0) + 1)]
    assert len(declared) == len(set(declared))
    assert never <= set(declared)
    assert {one.repaired_at is None for one in gaps.values() if one.recovered == one.expected} <= {False}
    assert {one.repaired_at is None for one in gaps.values() if one.recovered != one.expected} <= {True}


@given(st.permutations(range(50, 75)))
def test_any_order_of_a_whole_range_leaves_nothing_open(numbers: list[int]) -> None:
    """When all of a range has come, in whatever order, no hole is left and every gap is repaired."""
    ids, gaps = Ids(), dict[tuple[int, int], Gap]()
    for number in numbers:
        gaps |= {(one.frame_no, one.gap_no): one for one in ids.take_one(number)[1]}
    assert ids.state.keys() == {"first", "last", "last_ns"}
    assert all(one.repaired_at and one.recovered == one.expected for one in gaps.values())


CHANGES = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), max_size=40)


@given(CHANGES, CHANGES, st.integers(1, 8))
def test_the_last_rows_build_the_same_memory(before: Told, after: Told, size: int) -> None:
    """What was changed is told again by the same names and values, with the memory kept or built from the last rows."""
    kept = Latest(size)
    rows = [told for told in before if kept.changes(*told)]
    newest: dict[str, tuple[int, int]] = {}
    for age, (name, value) in enumerate(reversed(rows[-size:]), 1):
        newest.setdefault(name, (age, value))
    again = Latest(size, ((age, name, value) for name, (age, value) in newest.items()))
    assert [again.changes(*told) for told in after] == [kept.changes(*told) for told in after]


def claim(ids: Ids, number: int, at_ms: int) -> tuple[Gap, ...]:
    """Take a heartbeat in, at a time in milliseconds after the start."""
    ledger = TradeIds("f", "matches", "X", ids.state)
    try:
        return ledger.claim(number, data(at_ms, b""))
    finally:
        ids.state = orjson.loads(orjson.dumps(ledger.state()))


def test_an_id_that_is_told_of_and_does_not_come_is_missing() -> None:
    """What the venue says it has sent is missing when it has not come for a while, and fills its hole if it does."""
    ids = Ids()
    ids.take(7)
    assert claim(ids, 9, 1000) == ()
    assert claim(ids, 9, 2000) == ()
    assert claim(ids, 11, 2500) == (gap(2500, 1000, 2_500_000, 8, 9),)
    ids.frame_no = 2600
    assert ids.take_one(8)[0]
    assert ids.take_one(10) == (True, ())
    assert "claim" not in ids.state


def test_an_id_that_is_told_of_and_comes_is_not_missing() -> None:
    """A heartbeat that overtakes its trade declares nothing."""
    ids = Ids()
    ids.take(7)
    assert claim(ids, 8, 1000) == ()
    ids.frame_no = 1100
    assert ids.take(8) == [True]
    assert (claim(ids, 8, 3000), claim(ids, 9, 4000), claim(ids, 0, 5000)) == ((), (), ())
    assert ids.state["claim"][0] == 9


def test_before_the_first_id_nothing_is_claimed() -> None:
    """Without a trade there is no hole: a recording begins with the first that comes."""
    ids = Ids()
    assert (claim(ids, 9, 1000), claim(ids, 9, 9000)) == ((), ())
