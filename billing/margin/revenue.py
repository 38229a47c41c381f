"""Posted revenue, by tenant, line and model.

Decides how a posted amount is split over the models of its line: by largest remainder at the
ledger's 12 decimals, so that the parts are the posting (M2). Nothing is rated again here; a report
shows what the ledger holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.money import allocate_ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedRevenue:
    """A part of the revenue that the ledger holds.

    Attributes:
        tenant: slug of the tenant.
        line: reference of the rated line, for the way back to it.
        model: the model that earned it; None for fees and outcomes, which no model earns alone.
        amount: major units at 12 decimals; positive is revenue.
    """

    tenant: str
    line: str
    model: str | None
    amount: Decimal
    currency: str


def split_revenue(
    posted: Decimal, by_model: Sequence[tuple[str | None, Decimal]]
) -> list[tuple[str | None, Decimal]]:
    """Split a line's posted amount over its models, without remainder.

    Args:
        posted: major units at 12 decimals, of either sign.
        by_model: each model's weight in the line (its quantity or its exact amount), not negative.

    Returns:
        (model, amount) in the given order; all of it on no model if nothing has a weight.
    """
    weights = [Fraction(weight) for _, weight in by_model]
    if not any(weights):
        return [(None, posted)]
    amounts = allocate_ledger(posted, weights)
    return [(model, amount) for (model, _), amount in zip(by_model, amounts, strict=True)]
