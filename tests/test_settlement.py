"""The settlement check, without a database: the minute, the mean, and what is said where there is none."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recio_ingest.feeds import rules
from recio_ingest.records import micros
from recio_ingest.settlement import SECOND_US, Event, Hole, Print, Result, Settlement, by_second, check, mean, minute

CLOSE = micros(datetime(2026, 9, 25, 20, tzinfo=UTC))
(RULE,) = rules()
PRINTS: list[Print] = [(CLOSE + n * SECOND_US, Decimal(8402857 + n % 7).scaleb(-2)) for n in range(-60, 0)]
VALUE = Decimal("84028.60")


def event(*published: str, closes: tuple[int, ...] = (CLOSE,), computed: Decimal | None = None) -> Event:
    """An event with what its markets say."""
    return Event("KXBTCD-26SEP2516", closes, [Decimal(value) for value in published], computed)


def expirations() -> list[dict[str, Any]]:
    """What was recorded of the index and published by the venue."""
    folder = os.environ.get("RECIO_CAPTURES")
    if not folder:
        pytest.skip("RECIO_CAPTURES IS NOT SET: the settlement was NOT checked against values that the venue published")
    found: list[dict[str, Any]] = json.loads((Path(folder) / "brti-2026-09-25.json").read_text())["expirations"]
    return found


def captured(about: dict[str, Any]) -> tuple[int, list[Print]]:
    """Return the close of a recorded expiration, and its prints."""
    first = about["first_second"] * SECOND_US
    prints = [(first + n * SECOND_US, Decimal(c).scaleb(-2)) for n, c in enumerate(about["brti_cents"])]
    return micros(datetime.fromisoformat(about["close_time"])), prints


def test_capture() -> None:
    """Both recorded minutes give what the venue published, to the cent; with any one print less there is no value."""
    for about in expirations():
        close, prints = captured(about)
        told = event(about["expiration_value"], closes=(close,))
        found = check(RULE, told, prints)
        assert (found.outcome, str(found.computed), found.why) == (Result.EQUAL, about["expiration_value"], None)
        for second in minute(close):
            less = check(RULE, told, [each for each in prints if each[0] != second])
            assert (less.outcome, less.computed, less.prints) == (Result.INCOMPLETE, None, 59)
    assert len(expirations()) == 2


@given(st.lists(st.decimals("0.01", "999999.99", places=2), min_size=60, max_size=60))
def test_mean(prices: list[Decimal]) -> None:
    """The mean is that of exact decimals, rounded half up once."""
    exact = Context(prec=200, rounding=ROUND_HALF_UP)
    total = Decimal(0)
    for price in prices:
        total = exact.add(total, price)
    assert mean(prices) == exact.quantize(exact.divide(total, Decimal(60)), Decimal("0.01"))


def test_half_a_cent_goes_up() -> None:
    """A mean of exactly half a cent is rounded up, and what lies below it by however little is not."""
    low, high = Decimal("84028.56"), Decimal("84028.57")
    assert mean([low] * 30 + [high] * 30) == high
    assert mean([low] * 30 + [high] * 29 + [high - Decimal("1E-20")]) == low


def test_which_seconds_count() -> None:
    """From a minute before the close to a second before it, both included; the print at the close does not count."""
    assert (minute(CLOSE)[0], minute(CLOSE)[-1], len(minute(CLOSE))) == (CLOSE - 60 * SECOND_US, CLOSE - SECOND_US, 60)
    outside = [(CLOSE - 61 * SECOND_US, Decimal(1)), (CLOSE, Decimal(1)), (CLOSE - SECOND_US // 2, Decimal(1))]
    assert by_second(CLOSE, [*outside, *PRINTS]) == {moment: {price} for moment, price in PRINTS}
    assert len(minute(CLOSE + 1)) == 60
    assert minute(CLOSE + 1)[-1] == CLOSE


@given(st.permutations(PRINTS), st.lists(st.sampled_from(PRINTS), max_size=60))
def test_order_and_repetition_do_not_matter(prints: list[Print], again: list[Print]) -> None:
    """Whatever the order in which prints are read, and however often one is, the result is the same."""
    found = check(RULE, event("84028.60"), prints + again)
    assert found == Settlement("KXBTCD-26SEP2516", RULE.venue, CLOSE, 60, VALUE, VALUE, Result.EQUAL, None)


def test_a_wrong_value_differs() -> None:
    """A published value that the prints do not give is told with both; one wrong market among right ones is enough."""
    found = check(RULE, event("84028.59"), PRINTS)
    assert (found.outcome, found.published) == (Result.DIFFERS, Decimal("84028.59"))
    assert found.why == "the prints give 84028.60; published 84028.59, which is -0.01"
    found = check(RULE, event("84028.60", "84128.6"), PRINTS)
    assert (found.outcome, found.published) == (Result.DIFFERS, Decimal("84128.60"))
    assert check(RULE, event("84028.600"), PRINTS).outcome == Result.EQUAL


def test_nothing_published() -> None:
    """Without a published value there is a computed one, and no verdict."""
    found = check(RULE, event(), PRINTS)
    assert (found.outcome, found.computed, found.published) == (Result.UNPUBLISHED, VALUE, None)


def test_missing_prints_are_explained() -> None:
    """The missing seconds are named, with the gaps that cover them, and those that no gap covers."""
    rest = PRINTS[:10] + PRINTS[13:40] + PRINTS[41:]
    covering = Hole(1790366300000123, 5, "reset", PRINTS[10][0] + 40_000, PRINTS[12][0] + 700_000)
    before = Hole(7, 5, "reset", CLOSE - 90 * SECOND_US, CLOSE - 61 * SECOND_US)
    found = check(RULE, event("84028.60"), rest, [before, covering])
    assert (found.outcome, found.prints, found.computed) == (Result.INCOMPLETE, 56, None)
    assert found.why == (
        "56 of 60 prints; missing 2026-09-25T19:59:10Z to 2026-09-25T19:59:12Z, 2026-09-25T19:59:40Z; "
        "gap 1790366300000123/5 (reset, 2026-09-25T19:59:10.040Z to 2026-09-25T19:59:12.700Z); "
        "in no gap: 2026-09-25T19:59:40Z"
    )
    still = Hole(7, 5, "restart", CLOSE - 90 * SECOND_US, None)
    words = check(RULE, event(), [], [still]).why
    assert words == (
        "0 of 60 prints; missing 2026-09-25T19:59:00Z to 2026-09-25T19:59:59Z; "
        "gap 7/5 (restart, 2026-09-25T19:58:30Z and still open)"
    )
    assert (check(RULE, event(), PRINTS[1:]).why or "").endswith("; missing 2026-09-25T19:59:00Z; in no gap")


def test_a_long_list_is_cut() -> None:
    """However torn a minute is, the words about it stay short."""
    holes = [Hole(n, 5, "reset", moment, moment) for n, (moment, _) in enumerate(PRINTS)]
    words = check(RULE, event(), PRINTS[::2], holes).why or ""
    assert "and 25 more; " in words
    assert " more gaps" in words
    assert len(words) < 900


def test_nothing_is_guessed() -> None:
    """Two values for one second, or two closes of one event, give no value."""
    found = check(RULE, event("84028.60"), [*PRINTS, (PRINTS[3][0], Decimal(1))])
    assert (found.outcome, found.why) == (Result.INCOMPLETE, "more than one value for 2026-09-25T19:59:03Z")
    found = check(RULE, event("84028.60", closes=(CLOSE, CLOSE - 60 * SECOND_US)), PRINTS)
    assert (found.outcome, found.close_time) == (Result.INCOMPLETE, CLOSE)
    assert found.why == "its markets close at different times: 2026-09-25T19:59:00Z, 2026-09-25T20:00:00Z"


@pytest.mark.parametrize("published", [["84028.60"], ["84028.59"], []], ids=["equal", "differs", "unpublished"])
def test_what_was_computed_stays_so_when_its_prints_are_archived(published: list[str]) -> None:
    """All prints gone leave what was made of them; some of them gone do not."""
    known = event(*published, computed=VALUE)
    assert check(RULE, known, []) == check(RULE, known, PRINTS)
    assert check(RULE, known, PRINTS[1:]).outcome == Result.INCOMPLETE
    assert check(RULE, event(*published), []).outcome == Result.INCOMPLETE


def test_midnight() -> None:
    """A close at midnight is settled on the last minute of the day before."""
    midnight = micros(datetime(2026, 10, 1, tzinfo=UTC))
    words = check(RULE, event(closes=(midnight,)), []).why or ""
    assert words.startswith("0 of 60 prints; missing 2026-09-30T23:59:00Z to 2026-09-30T23:59:59Z")
