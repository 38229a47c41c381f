"""What limits and holds must be after any sequence of steps, kept in plain Python.

Decides which hold is taken, refused, resolved or gone. What credit stands behind the limit that
has no capacity of its own is decided by who inherits from this (`credits_model`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

ZERO = Decimal(0)
NEVER = datetime.min.replace(tzinfo=UTC)

Refusal = Literal["Conflict", "IdempotencyConflict", "InvalidInput", "NotFound"]


@dataclass(slots=True)
class Limit:
    """A limit; without a capacity it is the tenant's credit."""

    capacity: Decimal | None = None
    spent: Decimal = ZERO
    settled_through: datetime = NEVER
    posted: list[tuple[datetime, Decimal]] = field(default_factory=list[tuple[datetime, Decimal]])


@dataclass(slots=True, kw_only=True)
class Hold:
    """A hold; `first` is what was asked for, `resolved` how it ended, and by how much."""

    id: UUID
    limit: str
    first: tuple[Decimal, datetime]
    amount: Decimal
    until: datetime
    extensions: dict[UUID, tuple[Decimal, datetime]] = field(
        default_factory=dict[UUID, tuple[Decimal, datetime]]
    )
    resolved: tuple[str, Decimal] | None = None


class HoldBooks:
    """One tenant's limits and holds at an instant that moves on."""

    def __init__(self, now: datetime, budget: Decimal) -> None:
        self.now = now
        self.limits = {"credit": Limit(), "budget": Limit(budget)}
        self.holds: dict[UUID, Hold] = {}

    def backing(self) -> Decimal:
        """The credit that holds can be taken on."""
        raise AssertionError("a model of credit says")

    def holds_state(self) -> dict[str, Any]:
        return {
            "limits": {name: (self.held(name), limit.spent) for name, limit in self.limits.items()},
            "open": {
                hold.id: (hold.limit, hold.amount, hold.until)
                for name in self.limits
                for hold in self._open(name)
            },
            "resolved": {hold.id: hold.resolved for hold in self.holds.values() if hold.resolved},
        }

    def held(self, limit: str, *, without: list[Hold] | None = None) -> Decimal:
        gone = {hold.id for hold in without or ()}
        return sum((each.amount for each in self._open(limit) if each.id not in gone), ZERO)

    def available(self, limit: str, *, without: list[Hold] | None = None) -> Decimal:
        capacity = self.limits[limit].capacity
        backing = self.backing() if capacity is None else capacity
        return backing - self.limits[limit].spent - self.held(limit, without=without)

    def take(self, hold: UUID, limit: str, amount: Decimal, until: datetime) -> Refusal | None:
        if until <= self.now:
            return "InvalidInput"
        if hold in self.holds:
            before = self.holds[hold]
            same = (before.limit, before.first) == (limit, (amount, until))
            return None if same else "IdempotencyConflict"
        if not self._make_room(limit, amount):
            return "Conflict"
        self.holds[hold] = Hold(
            id=hold, limit=limit, first=(amount, until), amount=amount, until=until
        )
        return None

    def extend(self, hold: UUID, extension: UUID, more: Decimal, until: datetime) -> Refusal | None:
        if until <= self.now:
            return "InvalidInput"
        found = self.holds.get(hold)
        if found is not None and extension in found.extensions:
            same = found.extensions[extension] == (more, until)
            return None if same else "IdempotencyConflict"
        if found is None or found.resolved or found.until <= self.now:
            return "Conflict"
        if more and not self._make_room(found.limit, more):
            return "Conflict"
        found.amount, found.until = found.amount + more, until
        found.extensions[extension] = (more, until)
        return None

    def resolve(self, hold: UUID, how: str, used: Decimal) -> Refusal | None:
        found = self.holds.get(hold)
        if found is None:
            return "NotFound"
        if found.resolved:
            return None if found.resolved == (how, used) else "Conflict"
        if used > found.amount:
            return "Conflict"
        limit = self.limits[found.limit]
        found.resolved = (how, used)
        limit.spent += used
        limit.posted.append((max(self.now, limit.settled_through), used))
        return None

    def sweep(self) -> int:
        gone = self._past()
        self._end(gone)
        return len(gone)

    def settle(self) -> None:
        credit = self.limits["credit"]
        if credit.settled_through >= self.now:
            return
        since = credit.settled_through
        credit.spent -= sum(
            (amount for at, amount in credit.posted if since <= at < self.now), ZERO
        )
        credit.settled_through = self.now

    def _make_room(self, limit: str, wanted: Decimal) -> bool:
        if self.available(limit) >= wanted:
            return True
        gone = [hold for hold in self._past() if hold.limit == limit]
        if self.available(limit, without=gone) < wanted:
            return False
        self._end(gone)
        return True

    def _open(self, limit: str) -> list[Hold]:
        return [each for each in self.holds.values() if each.limit == limit and not each.resolved]

    def _past(self) -> list[Hold]:
        return [each for name in self.limits for each in self._open(name) if each.until <= self.now]

    def _end(self, gone: list[Hold]) -> None:
        for hold in gone:
            hold.resolved = ("expired", hold.amount)
