"""The leases of one process: what it may still admit without asking anybody.

Decides: whether a request fits into what the process has leased, and what becomes of it when the
request ends. Does not decide how much is leased, nor what a refusal looks like. Amounts are whole
numbers in the unit of the limit (money: 10⁻¹² of the major unit).

A lease is kept after its window has passed, too, until the database names another one: what was
drawn on it would otherwise be forgotten, and granted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from billing.admission.limit import Limit

SOFT_PAUSE_US: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request needs of one limit.

    Attributes:
        blocks: without it the request is refused; else the limit only counts.
    """

    limit: Limit
    amount: int
    blocks: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """A share of one limit.

    Attributes:
        id: row in the database.
        granted: in all, of which `held` is set aside by requests that run and `drawn` was used.
        window_end_us: from when on nothing can be taken of it, in µs since 1970 UTC: its window,
            or credit that it counts on, is over; None: never.
        taken_us: when a request last took from it.
        left: what was left of the limit beside all leases when it was granted.
        asked_us: when more was last asked for.
        chunk: how much more than it needed was asked for then.
    """

    id: int
    limit: Limit
    granted: int
    window_end_us: int | None
    held: int = 0
    drawn: int = 0
    taken_us: int = 0
    left: int = 0
    asked_us: int = 0
    chunk: int = 0

    @property
    def free(self) -> int:
        """What a request can take; below zero where requests used more than they had held."""
        return self.granted - self.held - self.drawn

    def over(self, now_us: int) -> bool:
        """Whether its window has passed."""
        return self.window_end_us is not None and now_us >= self.window_end_us


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """What one request has set aside.

    Attributes:
        parts: leases and the amounts held of them.
        exceeded: limits that only count and had not that much left.
    """

    parts: tuple[tuple[Lease, int], ...]
    exceeded: tuple[Limit, ...] = ()
    released: bool = False


@dataclass(slots=True)
class LeaseBook:
    """The leases of a process by limit."""

    leases: dict[int, Lease] = field(default_factory=dict[int, Lease])

    def take(self, wanted: Sequence[Wanted], now_us: int) -> Held | None:
        """Set amounts aside, of all limits or of none; None where a lease is missing or short.

        A limit that only counts needs a lease to count on, and is exceeded where nothing was left
        of it within the last `SOFT_PAUSE_US`.
        """
        parts: list[tuple[Lease, int]] = []
        exceeded: list[Limit] = []
        for each in wanted:
            lease = self.leases.get(each.limit.id)
            if lease is None or lease.over(now_us):
                return None
            if lease.free < each.amount:
                if each.blocks or lease.left > 0 or now_us - lease.asked_us >= SOFT_PAUSE_US:
                    return None
                exceeded.append(each.limit)
            parts.append((lease, each.amount))
        for lease, amount in parts:
            lease.held += amount
            lease.taken_us = now_us
        return Held(parts=tuple(parts), exceeded=tuple(exceeded))

    def release(self, held: Held, draws: Mapping[int, int]) -> None:
        """Give back what a request held, less what it drew by lease id; a second time: nothing."""
        if held.released:
            return
        held.released = True
        for lease, amount in held.parts:
            lease.held -= amount
            lease.drawn += draws.get(lease.id, 0)

    def grant(
        self,
        limit: Limit,
        *,
        lease_id: int,
        granted: int,
        window_end_us: int | None,
        left: int,
        now_us: int,
    ) -> Lease:
        """Note what the database granted in all; another id is another lease."""
        lease = self.leases.get(limit.id)
        if lease is None or lease.id != lease_id:
            before = lease
            lease = Lease(id=lease_id, limit=limit, granted=granted, window_end_us=window_end_us)
            if before is not None:
                lease.taken_us, lease.chunk = before.taken_us, before.chunk
            self.leases[limit.id] = lease
        lease.limit = limit
        lease.granted = granted
        lease.window_end_us = window_end_us
        lease.left = left
        lease.asked_us = now_us
        return lease

    def free_of(self, limit_id: int) -> int:
        """What is free of a limit's lease."""
        lease = self.leases.get(limit_id)
        return 0 if lease is None else lease.free

    def give_back(self, limit_ids: Iterable[int]) -> list[Lease]:
        """Give up all that is free of some limits; the leases that are smaller now."""
        smaller: list[Lease] = []
        for limit_id in limit_ids:
            lease = self.leases.get(limit_id)
            if lease is not None and lease.free > 0:
                lease.granted -= lease.free
                smaller.append(lease)
        return smaller

    def idle(self, before_us: int) -> list[int]:
        """Limits of which something is free that no request has taken from since an instant."""
        return [
            limit_id
            for limit_id, lease in self.leases.items()
            if lease.free > 0 and lease.taken_us < before_us
        ]
