"""Invoices within a billing period: at which amount what was used so far is invoiced."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.catalog.bounds import require_price
from billing.errors import InvalidPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressiveInvoicing:
    """An invoice of the running billing period is due each time that this much is not invoiced.

    What invoices come to in the end is the same: each bills the rounded total so far less what
    those before it billed, line by line.

    Attributes:
        threshold: major units of the plan's currency, above zero.
    """

    threshold: Decimal

    def __post_init__(self) -> None:
        require_price(self.threshold, field="progressive_invoicing.threshold")
        if not self.threshold:
            raise InvalidPlan(
                "every event would be an invoice of its own",
                field="progressive_invoicing.threshold",
                remedy="use an amount above zero, or leave it out",
            )
