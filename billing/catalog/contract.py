"""Contracts: a tenant on one version of a price plan, for a span of time.

Decides: whether a contract is in force at an instant and which billing period holds an instant.
Decides nothing about which contracts may stand side by side; that needs all of a tenant's
charges (`find_overlaps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from billing.errors import InvalidInput
from billing.money import Currency
from billing.period import Period, month_of, require_on_grid, zone


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A tenant bound to a plan version.

    Attributes:
        id: number of the contract.
        tenant_id: who is billed.
        plan_slug, plan_version: the immutable terms.
        valid_from: first instant in force, on the 15-minute grid.
        valid_until: first instant no longer in force, on the grid; None: until ended.
        currency: of the plan and of every invoice under the contract.
        zone: IANA name; its midnights bound billing periods.
        anchor_day: day of month on which billing periods begin, 1 to 31, clamped to short months.

    Raises:
        InvalidInput: dates off the grid or in the wrong order, unknown zone, bad anchor.
    """

    id: int
    tenant_id: int
    plan_slug: str
    plan_version: int
    valid_from: datetime
    valid_until: datetime | None = None
    currency: Currency
    zone: str
    anchor_day: int = 1

    def __post_init__(self) -> None:
        require_on_grid(self.valid_from, field="valid_from")
        if self.valid_until is not None:
            require_on_grid(self.valid_until, field="valid_until")
            if self.valid_until <= self.valid_from:
                raise InvalidInput(
                    "a contract must end after it starts",
                    field="valid_until",
                    remedy="use a later instant, or none",
                )
        zone(self.zone)
        if not 1 <= self.anchor_day <= 31:
            raise InvalidInput("not a day of a month", field="anchor_day", remedy="use 1 to 31")

    def in_force(self, instant: datetime) -> bool:
        """Whether the contract prices what happens at `instant`."""
        return self.valid_from <= instant and (
            self.valid_until is None or instant < self.valid_until
        )

    def billing_period(self, instant: datetime) -> Period:
        """The billing period of this contract's calendar that holds `instant`."""
        return month_of(instant, zone(self.zone), anchor_day=self.anchor_day)

    def segment(self, period: Period) -> Period | None:
        """The part of a billing period in which the contract is in force, or None."""
        start = max(period.start, self.valid_from)
        end = period.end if self.valid_until is None else min(period.end, self.valid_until)
        return Period(start=start, end=end) if start < end else None
