"""Quotes of one outcome, and what they are of the other.

Source: the venue's page "Market Ticker": an empty side is a bid of 0 or an ask of 1 dollar, with nothing behind it.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from recio_ingest.feeds import kalshi_fields as fields

_ONE = Decimal(1)


def bid(price: str | None, size: str | None) -> str | None:
    """Return a bid; 0 for nothing is the venue's word for an empty side."""
    empty = price is None or (fields.is_zero(price) and (size is None or fields.is_zero(size)))
    return None if empty else price


def ask(price: str | None, size: str | None) -> str | None:
    """Return an ask; 1 for nothing is the venue's word for an empty side."""
    return None if bid(mirror(price), size) is None else price


@lru_cache(maxsize=4096)  # there are a hundred prices, or a thousand
def mirror(price: str | None) -> str | None:
    """Return the same quote on the other outcome's scale, with as many decimals."""
    return None if price is None else format(_ONE - Decimal(price), "f")
