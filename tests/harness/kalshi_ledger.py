"""What the fake Kalshi sent, kept outside the faulted process, connection by connection."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from harness.kalshi_market import Exchange

Ranges = list[list[int]]


@dataclass
class Connection:
    """Within a range (both ends included) every message of the kind was sent."""

    opened_ns: int
    closed_ns: int = 0
    ticker: Ranges = field(default_factory=list)
    trade: Ranges = field(default_factory=list)
    print: Ranges = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)
    """Tickers that were repeated when the subscription began."""
    skipped: list[list[int]] = field(default_factory=list)
    """Trades that were lost after they were numbered: number, sid, seq."""

    def sent_live(self, kind: str, number: int) -> bool:
        """Tell whether a message was sent as it happened."""
        return any(first <= number <= last for first, last in getattr(self, kind))

    def sent(self, kind: str, number: int) -> bool:
        """Tell whether a message was sent at all."""
        return self.sent_live(kind, number) or (kind == "ticker" and number in self.snapshots)


@dataclass
class KalshiLedger:
    """The exchange, and all its connections in the order in which they were opened."""

    exchange: Exchange
    connections: list[Connection]
    rest_answers: int = 0
    trade_answers: int = 0
    """Of these, answers with trades."""
    unsigned: int = 0
    """Handshakes answered with 401."""
    refused: int = 0
    """Handshakes answered with 503, when told to."""

    @classmethod
    def from_venue(cls, answer: dict[str, Any]) -> KalshiLedger:
        """Read the venue's answer."""
        return cls(
            exchange=Exchange(**answer["exchange"]),
            connections=[Connection(**each) for each in answer["connections"]],
            rest_answers=answer["rest_answers"],
            trade_answers=answer["trade_answers"],
            unsigned=answer["unsigned"],
            refused=answer["refused"],
        )

    def connection_at(self, now_ns: int) -> int:
        """The place of the connection by which a frame came; there is one at a time."""
        return bisect_right(self.connections, now_ns, key=lambda each: each.opened_ns) - 1

    def highest(self, kind: str) -> int:
        """The highest number that a socket was given, 0 before the first."""
        return max((ranges[-1][1] for each in self.connections if (ranges := getattr(each, kind))), default=0)

    def numbers(self, kind: str, first: int, last: int) -> list[int]:
        """Every message of a kind that was made from `first` to `last`, whether or not it was sent."""
        numbers = range(first, last + 1)
        return [number for number in numbers if kind == "print" or self.exchange.kind(number) == kind]

    def sent_after(self, kind: str, number: int) -> set[int]:
        """The messages of a kind above a number that were sent to anybody."""
        return {
            each
            for connection in self.connections
            for first, last in getattr(connection, kind)
            for each in self.numbers(kind, max(first, number + 1), last)
        }

    def skipped(self) -> dict[int, list[tuple[int, int, int]]]:
        """Trades that were lost after they were numbered: by which connection, sid and seq each was missed."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        for place, each in enumerate(self.connections):
            for number, sid, seq in each.skipped:
                found.setdefault(number, []).append((place, sid, seq))
        return found
