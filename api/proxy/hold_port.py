"""What the request path needs of limits: amounts set aside from what this process has leased.

Decides: the shape of the seam. Does not decide how leases are had: the control side does, on a
database that no request waits for in the common case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from billing.admission.lease_book import Held, Wanted


class HoldPort(Protocol):
    """Where amounts are set aside. Every method belongs to the event loop."""

    @property
    def processes(self) -> int:
        """How many processes lease, this one included, as far as is known; at least 1."""
        ...

    def take(self, wanted: Sequence[Wanted], now_us: int) -> Held | None:
        """Set amounts aside from leases in memory, all or none; None where they do not suffice."""
        ...

    async def obtain(self, wanted: Sequence[Wanted], now_us: int) -> Held:
        """Set amounts aside, if need be from the database and from what other processes leave.

        Raises:
            LimitReached: a limit has not that much left.
            HoldsUnavailable: limits cannot be asked now.
        """
        ...

    def release(self, held: Held, draws: Mapping[int, int]) -> None:
        """Give back what was held, less what was drawn by lease id. A second time: nothing."""
        ...
