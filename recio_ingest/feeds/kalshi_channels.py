"""One subscription at Kalshi: what it holds, what it is to hold, and how long it is left in peace.

Source: the venue's AsyncAPI document, "WebSocket Commands". `subscribe` and `update_subscription` name some markets;
`ok` lists all that are held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SUBSCRIBE, ADD, DELETE = "subscribe", "add_markets", "delete_markets"
# The venue does not publish how many markets one command may name (code 26); others use 400, and halve on a refusal.
COMMAND_MARKETS = 400
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 60.0
# A right that a key lacks is given by a person: asking every five minutes finds out soon enough.
STUCK_DELAY_S = 300.0
_MAX_DOUBLINGS = 10
_NONE: frozenset[str] = frozenset()


class Command(NamedTuple):
    """One that waits for its answer."""

    channel: Channel
    action: str
    markets: tuple[str, ...]
    sent_s: float


@dataclass(slots=True, eq=False)
class Channel:
    """One subscription, or the wish for it."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    by_market: bool = False
    optional: bool = False
    sid: int | None = None
    held: frozenset[str] = _NONE
    left_out: frozenset[str] = _NONE
    """What the venue did not take; it is offered again after a while, and where there is room again."""
    left_until_s: float = 0.0
    most: int = COMMAND_MARKETS
    waiting: int = 0
    """The id of the command under way."""
    error: str = ""
    told: str = ""
    """The last error that was told to people."""
    announced: bool = False
    """Whether people were told of an error and not yet of its end."""
    stuck: bool = False
    failures: int = 0
    unanswered: int = 0
    retry_s: float = float("-inf")

    def due(self, wanted: frozenset[str], now_s: float) -> tuple[str, frozenset[str]] | None:
        """Return the action that brings the subscription nearer to what is wanted, and its markets."""
        if self.waiting or now_s < self.retry_s:
            return None
        if not self.by_market:
            return (SUBSCRIBE, _NONE) if self.sid is None else None
        self.left_out = self.left_out & wanted if now_s < self.left_until_s else _NONE
        # Without any market it is, or becomes, a subscription to all markets of the venue: one stays.
        over = self.held - wanted
        if not self.held & wanted:
            over -= set(sorted(over)[:1])
        if self.sid is not None and over:  # first, so that a full subscription has room for others
            return DELETE, over
        missing = wanted - self.left_out - self.held
        return (SUBSCRIBE if self.sid is None else ADD, missing) if missing else None

    def confirm(self, command: Command, sid: int, listed: frozenset[str] | None, now_s: float) -> None:
        """Take in that a command was obeyed."""
        asked, before = frozenset(command.markets), self.held
        self.sid, self.unanswered, self.most = sid, 0, min(self.most * 2, COMMAND_MARKETS)
        if command.action == DELETE:
            self.held, self.left_out = before - asked, _NONE
            return
        # What was to be added and is not in the list, the venue does not know.
        self.held = before | asked if listed is None else listed
        self.leave_out(asked - self.held, now_s)
        if before - self.held:  # what it held is gone: adding it again at once could go on for ever
            self.delay(now_s)

    def leave_out(self, markets: frozenset[str], now_s: float) -> None:
        """Do not ask for these for a while."""
        if markets:
            self.left_out |= markets
            self.left_until_s = now_s + STUCK_DELAY_S

    def lose(self) -> None:
        """Take in that the subscription is gone."""
        self.sid, self.held = None, _NONE

    def delay(self, now_s: float, *, stuck: bool = False) -> None:
        """Leave the venue in peace, for longer with every failure.

        Not set back by a confirmation: a venue that confirms and then takes it away again is not to be hammered.
        """
        quiet = now_s - self.retry_s > MAX_DELAY_S
        self.failures = 0 if quiet else min(self.failures + 1, _MAX_DOUBLINGS)
        self.retry_s = now_s + (STUCK_DELAY_S if stuck else min(FIRST_DELAY_S * 2.0**self.failures, MAX_DELAY_S))
