"""Kalshi's error codes, and what to do about each.

Source: the table of error codes in the venue's AsyncAPI document.
"""

from __future__ import annotations

from enum import Enum


class Remedy(Enum):
    """What to do about an error; the value is what a person is told."""

    AGAIN = "the subscription is gone; another one is begun by itself"
    LATER = "the same command is sent again by itself"
    FEWER = "a market that the venue does not take is left out, and offered again every five minutes"
    FULL = (
        "what the subscription does not hold is left out, and offered again every five minutes and when there is room"
    )
    RIGHT = "give the key at feeds.kalshi.key_id the right to this channel, or take another key; the rest is recorded"
    OURS = "this version does not speak the venue's protocol any more: is there a newer one?"


_REMEDIES = {
    **dict.fromkeys((7, 10, 25), Remedy.AGAIN),
    **dict.fromkeys((17, 18, 27), Remedy.LATER),
    **dict.fromkeys((11, 16), Remedy.FEWER),
    26: Remedy.FULL,
    9: Remedy.RIGHT,
    **dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 12, 13, 14, 15, 19, 20, 21, 22, 23, 24, 28), Remedy.OURS),
}

STUCK = frozenset({Remedy.FEWER, Remedy.FULL, Remedy.RIGHT, Remedy.OURS})
"""Only a person can change what leads to these."""


def remedy(code: object) -> Remedy:
    """Return what to do about a code; one that is not in the table is taken for a passing fault.

    6, 16 and 17 are retired; 19 to 22 are about parameters that are never sent. 7, 10 and 25 are terminal: the
    subscription is gone, and only that one.
    """
    return _REMEDIES.get(code, Remedy.LATER) if isinstance(code, int) else Remedy.LATER
