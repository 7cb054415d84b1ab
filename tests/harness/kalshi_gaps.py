"""Which of Kalshi's messages the rows of `ingest.gaps` declare missing."""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from harness.kalshi_messages import CHANNELS_OF, EPOCH
from harness.ledger import contains, merge

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from harness.kalshi_ledger import KalshiLedger
    from harness.kalshi_market import Exchange

MICROSECOND = timedelta(microseconds=1)
ALL = "*"


class Declared:
    """The gaps that have ended, as times by channel and market, and as numbers by connection and sid."""

    def __init__(self, gaps: Iterable[Any], ledger: KalshiLedger) -> None:
        self.ledger, self.skipped = ledger, ledger.skipped()
        self.times: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.numbers: dict[tuple[int, int], list[tuple[int, int]]] = {}
        markets = set(ledger.exchange.tickers)
        for gap in gaps:
            to_us = micros(gap["to_time"])
            if gap["from_seq"] is not None and (sid := re.fullmatch(r"sid (\d+)", gap["scope"])):
                place = ledger.connection_at(to_us * 1000)
                self.numbers.setdefault((place, int(sid[1])), []).append((gap["from_seq"], gap["to_seq"]))
            elif gap["from_seq"] is None and gap["from_time"] is not None:
                scope = gap["scope"] if gap["scope"] in markets else ALL
                self.times.setdefault((gap["channel"], scope), []).append((micros(gap["from_time"]), to_us))
        self.times = {scope: merge(ranges) for scope, ranges in self.times.items()}

    def covers(self, kind: str, number: int) -> bool:
        """Tell whether a message is declared missing."""
        moment = self.ledger.exchange.venue_us(kind, number)
        market = ALL if kind == "print" else self.ledger.exchange.market(number)
        by_time = any(
            within(self.times.get((channel, scope), []), moment)
            for channel in (ALL, CHANNELS_OF[kind])
            for scope in {ALL, market}
        )
        return by_time or any(
            contains(self.numbers.get((place, sid), []), seq) for place, sid, seq in self.skipped.get(number, [])
        )


def micros(moment: datetime) -> int:
    """A time in microseconds."""
    return (moment - EPOCH) // MICROSECOND


def within(ranges: list[tuple[int, int]], number: int) -> bool:
    """Tell whether a number lies in one of many merged ranges."""
    place = bisect_right(ranges, number, key=lambda each: each[0]) - 1
    return place >= 0 and number <= ranges[place][1]


def runs(exchange: Exchange, kind: str, numbers: list[int]) -> list[tuple[str, int, int, str]]:
    """Group numbers that follow one another, each group with the time of its first message."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and groups[-1][1] == exchange.before(kind, number):
            groups[-1][1] = number
        else:
            groups.append([number, number])
    return [
        (kind, first, last, str(EPOCH + timedelta(microseconds=exchange.venue_us(kind, first))))
        for first, last in groups
    ]
