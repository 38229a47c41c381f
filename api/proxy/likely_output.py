"""How long answers of a tenant's model have been: what a hold that need not be sure goes by.

Decides: 1.5 times the 99th percentile of the last answers that this process saw. Does not decide
who may hold so little.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

SAMPLES: Final = 512
FIRST: Final = 512
"""What the first answers are held by."""

STALE: Final = 32
"""Answers after which the percentile is taken anew."""


def _no_samples() -> deque[int]:
    return deque(maxlen=SAMPLES)


@dataclass(slots=True)
class _Lengths:
    samples: deque[int] = field(default_factory=_no_samples)
    likely: int = FIRST
    since: int = STALE


class LikelyOutput:
    """Lengths of answers by tenant and model, in tokens."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[int, int], _Lengths] = {}

    def note(self, tenant_id: int, model_id: int, tokens: int) -> None:
        """One answer was this long."""
        lengths = self._lengths.setdefault((tenant_id, model_id), _Lengths())
        lengths.samples.append(tokens)
        lengths.since += 1

    def tokens(self, tenant_id: int, model_id: int) -> int:
        """What the next answer is likely not to exceed."""
        lengths = self._lengths.get((tenant_id, model_id))
        if lengths is None:
            return FIRST
        if lengths.since >= STALE:
            ordered = sorted(lengths.samples)
            lengths.likely = max(1, ordered[-(-99 * len(ordered) // 100) - 1] * 3 // 2)
            lengths.since = 0
        return lengths.likely
