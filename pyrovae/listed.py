"""The first of many words, as an error or a warning lists them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["listed"]


def listed(words: Sequence[str], most: int = 5, *, sign: str = ", ", what: str = "") -> str:
    """The first words, and how many more there are, with `what` after their number.

    >>> from pyrovae.listed import listed
    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    if len(words) <= most:
        return sign.join(words)
    last = " and" if sign == ", " else f"{sign}and"
    return f"{sign.join(words[:most])}{last} {len(words) - most:,} more{f' {what}' if what else ''}"
