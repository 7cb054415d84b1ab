"""What the venue sent, kept outside the faulted process: ranges of trade numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.market import Market


@dataclass
class Ledger:
    """The markets, and per product the ranges (both ends included) written to a socket."""

    markets: dict[str, Market]
    sent: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    connections: list[tuple[int, int]] = field(default_factory=list)
    rest_answers: int = 0

    @classmethod
    def from_venue(cls, answer: dict[str, Any]) -> Ledger:
        """Read the venue's answer and join the ranges of all connections."""
        sent: dict[str, list[tuple[int, int]]] = {}
        for connection in answer["connections"]:
            for product, ranges in connection["sent"].items():
                sent.setdefault(product, []).extend((first, last) for first, last in ranges)
        return cls(
            markets={market["product"]: Market(**market) for market in answer["markets"]},
            sent={product: merge(ranges) for product, ranges in sent.items()},
            connections=[(each["opened_ns"], each["closed_ns"]) for each in answer["connections"]],
            rest_answers=answer["rest_answers"],
        )

    def highest(self, product: str) -> int:
        """The highest trade number that a socket was given, 0 before the first."""
        return max((last for _, last in self.sent.get(product, [])), default=0)

    def count(self, product: str) -> int:
        """How many different trades were sent."""
        return sum(last - first + 1 for first, last in self.sent.get(product, []))


def merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that overlap or touch."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def missing_from(ranges: list[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """What the merged ranges leave out of first..last, both included."""
    holes = []
    for low, high in [*ranges, (last + 1, last + 1)]:
        if first < low:
            holes.append((first, min(low - 1, last)))
        first = max(first, high + 1)
        if first > last:
            break
    return holes


def contains(ranges: list[tuple[int, int]], number: int) -> bool:
    """Tell whether a number lies in one of a few ranges."""
    return any(first <= number <= last for first, last in ranges)
