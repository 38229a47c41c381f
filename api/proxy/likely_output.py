"""How long answers of a tenant's model on a route have been: what a hold that may grow goes by.

Decides: 1.5 times the 99th percentile of the last answers that this process saw. Of few answers
the percentile is only their longest, and one short answer would have the next one grow its hold
again and again: until there are `ENOUGH`, no less than `FIRST` is likely. Lengths are counted in
steps of a fifth, so that a tenant costs 300 bytes, however much it asks. Does not decide who may
hold so little.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

FIRST: Final = 512
"""Tokens that the first answers are held by, per choice."""

ENOUGH: Final = 100
"""Answers from which on a 99th percentile says something."""

FADING: Final = 1_024
"""At so many answers each counts half, so that what was long ago fades."""

STALE: Final = 32
"""Answers after which the percentile is taken anew."""

KNOWN: Final = 10_000
"""How many tenants' models and routes are remembered; the one that was learned first goes."""

_FINE: Final = 4  # steps per doubling
_STEPS: Final = 32 * _FINE


def _none_seen() -> array[int]:
    return array("H", bytes(2 * _STEPS))


@dataclass(slots=True)
class Lengths:
    """Lengths of the answers of one tenant's model on one route, in tokens per choice.

    Attributes:
        likely: what the next answer is likely not to exceed.
    """

    likely: int = FIRST
    _seen: array[int] = field(default_factory=_none_seen)
    _count: int = 0
    _since: int = 0

    def note(self, tokens: int, *, complete: bool) -> None:
        """One answer was this long, or longer: one that was cut says only where it is long."""
        if not tokens or not (complete or tokens > self.likely):
            return
        self._seen[_step(tokens)] += 1
        self._count += 1
        self._since += 1
        if self._count >= FADING:
            for step, seen in enumerate(self._seen):
                self._seen[step] = seen // 2
            self._count = sum(self._seen)
        if self._since >= STALE or tokens > self.likely:
            self._since = 0
            self.likely = self._estimate()

    def _estimate(self) -> int:
        beyond, step = self._count // 100, _STEPS - 1
        while beyond >= self._seen[step]:
            beyond -= self._seen[step]
            step -= 1
        likely = _longest(step) * 3 // 2
        return likely if self._count >= ENOUGH else max(likely, FIRST)


class LikelyOutput:
    """Lengths of answers by tenant, model and route."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[int, int, str], Lengths] = {}

    def of(self, tenant_id: int, model_id: int, route: str) -> Lengths:
        """The lengths of one tenant's model on one route."""
        whose = tenant_id, model_id, route
        lengths = self._lengths.get(whose)
        if lengths is None:
            if len(self._lengths) >= KNOWN:
                del self._lengths[next(iter(self._lengths))]
            lengths = self._lengths[whose] = Lengths()
        return lengths


def _step(tokens: int) -> int:
    """Steps are [1], [2], [3], [4], [5], [6], [7], [8, 9], [10, 11] …: four per doubling."""
    doublings = max(0, tokens.bit_length() - 3)
    return min(doublings * _FINE + (tokens >> doublings) - 1, _STEPS - 1)


def _longest(step: int) -> int:
    """The longest answer of a step."""
    if step < 2 * _FINE - 1:
        return step + 1
    doublings, rest = divmod(step + 1 - _FINE, _FINE)
    return ((_FINE + rest + 1) << doublings) - 1
