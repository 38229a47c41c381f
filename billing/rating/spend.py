"""Spend of a running billing period against what somebody wants to be told at.

Decides: what a threshold may say, from which amount on it is reached, and what counts as spent
against it. Decides nothing about who is told, or how often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from billing.errors import InvalidInput
from billing.money import EXACT, LEDGER_DECIMALS, LEDGER_LIMIT, decimals_of, to_ledger
from billing.rating.line import RatedLine

PERCENT_MAX = Decimal(1000)
PERCENT_DECIMALS = 4

_ZERO = Decimal(0)


class BaseKind(StrEnum):
    """What a percentage is of."""

    COMMITMENT = "commitment"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdBase:
    """What a percentage is of: a spend commitment by key, or a limit on money by name."""

    kind: BaseKind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """At which spend of a billing period an alert fires.

    Attributes:
        amount: major units of the currency of the tenant's contracts, or
        percent: of `base`; exactly one of the two is given.

    Raises:
        InvalidInput: both or none, out of range, or a percentage of nothing.
    """

    amount: Decimal | None = None
    percent: Decimal | None = None
    base: ThresholdBase | None = None

    def __post_init__(self) -> None:
        if (self.amount is None) == (self.percent is None):
            raise InvalidInput(
                "a threshold is either an amount or a percentage",
                field="amount",
                remedy="give one of amount and percent",
            )
        if (self.percent is None) != (self.base is None):
            raise InvalidInput(
                "a percentage is of a commitment or a limit, and an amount is of nothing",
                field="base",
                remedy="name the commitment or the limit with percent, and neither with amount",
            )
        if self.amount is not None:
            _require_between(self.amount, "amount", LEDGER_LIMIT, LEDGER_DECIMALS)
        if self.percent is not None:
            _require_between(self.percent, "percent", PERCENT_MAX, PERCENT_DECIMALS)

    def of(self, whole: Decimal) -> Decimal:
        """The amount at which a percentage of `whole` is reached, at 12 decimals."""
        assert self.percent is not None
        return to_ledger(EXACT.multiply(whole, self.percent.scaleb(-2, context=EXACT)))


def spent(lines: Iterable[RatedLine], charges: frozenset[str] | None = None) -> Decimal:
    """What lines come to, exactly as the ledger books it.

    Args:
        charges: of these only; what bends a charge counts with it, coupons and commitments do not.
    """
    total = _ZERO
    for line in lines:
        if charges is None or line.charge_key in charges:
            total = EXACT.add(total, to_ledger(line.exact))
    return total


def _require_between(value: Decimal, field: str, most: Decimal, decimals: int) -> None:
    if not value.is_finite() or not 0 < value < most:
        raise InvalidInput(
            "not above zero, or out of range", field=field, remedy=f"less than {most:f}"
        )
    if decimals_of(value) > decimals:
        raise InvalidInput(f"more than {decimals} decimals", field=field, remedy="shorten it")
