"""Credit grants: what was given, on which terms, and what of it is still a liability.

Decides: which terms fit together, which charges a grant covers, how much of the money paid for it
is owed while a part of it is unused. Decides neither the order of drawdown (`credit_order`) nor
what happens to the rest at expiry (`breakage`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from uuid import UUID

from billing.errors import InvalidInput
from billing.ledger.account import AccountCode
from billing.money import EXACT, to_ledger
from billing.period import Period, require_utc

PRIORITY_MAX = 1000
PAID_FROM = frozenset({AccountCode.BANK, AccountCode.STRIPE_CLEARING})


class GrantKind(StrEnum):
    """Whether a tenant paid for it."""

    PAID = "paid"
    PROMOTIONAL = "promotional"


class TaxedAt(StrEnum):
    """When paid credit is taxed: bought as a service, or as a means of payment."""

    PURCHASE = "purchase"
    REDEMPTION = "redemption"


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCharge:
    """What a rated line earned on one local day, or what of it is still to be covered.

    Attributes:
        day, during: the day in the tenant's zone, and the instants that it spans.
        meter: None for fees.
        models: whose usage the charge prices; None for any, and for usage that names none.
        amount: major units at 12 decimals, above zero.
    """

    contract_id: int
    period_start: datetime
    line_key: str
    day: date
    during: Period
    plan: str
    meter: str | None
    models: frozenset[str] | None
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditScope:
    """What a grant may be used for; None means anything.

    Raises:
        InvalidInput: an empty set, which would cover nothing and read as if it covered all (T2).
    """

    meters: frozenset[str] | None = None
    models: frozenset[str] | None = None
    plans: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for name, names in (
            ("meters", self.meters),
            ("models", self.models),
            ("plans", self.plans),
        ):
            if names is not None and not all(names or {""}):
                raise InvalidInput(
                    "an empty list or name", field=f"scope.{name}", remedy="leave it out for any"
                )

    @property
    def is_everything(self) -> bool:
        """True if nothing is excluded: only such credit can back a hold."""
        return self.meters is None and self.models is None and self.plans is None

    def covers(self, charge: DayCharge) -> bool:
        """Whether all that the charge prices is in scope; a charge partly in scope is not."""
        if self.meters is not None and charge.meter not in self.meters:
            return False
        if self.plans is not None and charge.plan not in self.plans:
            return False
        if self.models is None:
            return True
        return charge.models is not None and charge.models <= self.models


ANYTHING = CreditScope()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollover:
    """What of an expiring grant goes on, once, as a grant of the following span.

    Attributes:
        fraction: of what remains, above 0 and at most 1.
        maximum: at most this amount; None: no bound.
    """

    fraction: Decimal = Decimal(1)
    maximum: Decimal | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InvalidInput(
                "outside 0 to 1", field="rollover.fraction", remedy='write it like "0.5"'
            )
        if self.maximum is not None:
            _require_amount(self.maximum, field="rollover.max")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditGrant:
    """Credit of one tenant in one currency.

    Attributes:
        amount: granted, in major units at 12 decimals.
        taxed_at, paid_from: of paid credit; None for promotional credit.
        cost_basis: money that the tenant paid for it; what it got beyond that is promotion.
        counts_toward_commitment: whether usage paid with it fulfils a commitment; a term of the
            grant, kept for the commitments of contracts, which read it.
        priority: lower is used first.
        starts_at, expires_at: half-open; None: it does not expire.
        recurs: whether the same is granted again for every following billing period.
        series: the first grant of a recurring series, on those that follow it.
        rolled_from: the grant whose rest this is.
        source: what it was given for, in the operator's words.
    """

    id: UUID
    tenant_id: int
    legal_entity_id: int
    currency: str
    amount: Decimal
    kind: GrantKind
    taxed_at: TaxedAt | None
    paid_from: AccountCode | None
    cost_basis: Decimal
    counts_toward_commitment: bool
    priority: int
    starts_at: datetime
    expires_at: datetime | None
    scope: CreditScope = field(default=ANYTHING)
    rollover: Rollover | None = None
    recurs: bool = False
    series: UUID | None = None
    rolled_from: UUID | None = None
    source: str
    idempotency_key: str

    def __post_init__(self) -> None:
        _require_amount(self.amount, field="amount")
        require_utc(self.starts_at, field="starts_at")
        if self.expires_at is not None:
            require_utc(self.expires_at, field="expires_at")
            if self.expires_at <= self.starts_at:
                raise InvalidInput(
                    "expires before it starts",
                    field="expires_at",
                    remedy="let it end later, or not at all",
                )
        if not 0 <= self.priority <= PRIORITY_MAX:
            raise InvalidInput(
                f"outside 0 to {PRIORITY_MAX}", field="priority", remedy=f"use 0 to {PRIORITY_MAX}"
            )
        paid = self.kind is GrantKind.PAID
        if paid != (self.paid_from in PAID_FROM):
            raise InvalidInput(
                "paid credit came through the bank or Stripe, promotional credit through neither",
                field="paid_from",
                remedy="name where paid credit came from, and nothing for promotional credit",
            )
        if paid != (self.taxed_at is not None):
            raise InvalidInput(
                "paid credit is taxed at purchase or at redemption, promotional credit never",
                field="taxed_at",
                remedy="name when paid credit is taxed, and nothing for promotional credit",
            )
        if self.cost_basis < 0 or (self.cost_basis and not paid):
            raise InvalidInput(
                "promotional credit costs nothing",
                field="cost_basis",
                remedy="leave the cost out, or grant paid credit",
            )
        if self.expires_at is None and (self.recurs or self.rollover is not None):
            raise InvalidInput(
                "credit that recurs or rolls over expires",
                field="expires_at",
                remedy="say when it ends",
            )

    def covers(self, charge: DayCharge) -> bool:
        """Whether it may pay a charge: in scope, and valid in a part of that local day."""
        ends_too_early = self.expires_at is not None and self.expires_at <= charge.during.start
        return (
            self.starts_at < charge.during.end and not ends_too_early and self.scope.covers(charge)
        )

    def owed(self, remaining: Decimal) -> Decimal:
        """The contract liability while this much remains, at 12 decimals."""
        return owed_of(cost_basis=self.cost_basis, amount=self.amount, remaining=remaining)

    def released(self, *, before: Decimal, after: Decimal) -> Decimal:
        """The liability that goes as the remaining amount falls from `before` to `after`."""
        return EXACT.subtract(self.owed(before), self.owed(after))


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditLot:
    """A grant and what remains of it."""

    grant: CreditGrant
    remaining: Decimal


def owed_of(*, cost_basis: Decimal, amount: Decimal, remaining: Decimal) -> Decimal:
    """What of the price of a grant is owed while so much of its amount remains, at 12 decimals.

    In proportion, from the cumulative figure: what is released step by step adds up to exactly
    what was paid.
    """
    return to_ledger(Fraction(cost_basis) * Fraction(remaining) / Fraction(amount))


def _require_amount(amount: Decimal, *, field: str) -> None:
    if amount <= 0 or to_ledger(amount) != amount:
        raise InvalidInput(
            "not above zero, or more than 12 decimals", field=field, remedy='write it like "10.00"'
        )
