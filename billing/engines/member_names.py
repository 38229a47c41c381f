"""Sets of names, as they are written in the lists of members that may pass."""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())
