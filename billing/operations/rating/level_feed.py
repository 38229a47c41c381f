"""Levels whose units are prorated by days, as rating is handed them: one quantity per contract.

Decides: which levels are read by their changes (those that a prorated charge prices; another
contract may price the same meter by the hour), and that the spans of one contract's time are one
level, since they adjoin one another. How a change weighs is `billing.rating.levels`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from billing.money import EXACT
from billing.operations.catalog.contracts import BoundPlan
from billing.period import Period, zone
from billing.rating.levels import LevelSpan, changes_of_spans
from billing.rating.quantity import MeteredQuantity
from billing.store.usage.read import QuantityRow


def is_prorated(entry: BoundPlan, row: QuantityRow) -> bool:
    """Whether a contract prices a level by its units and the days that they last."""
    return bool(row.levels) and any(
        charge.prorated
        and charge.selector is not None
        and charge.selector.selects(row.meter, row.model)
        for charge in entry.plan.charges
    )


def level_quantity(
    entry: BoundPlan, meter: str, model: str | None, spans: Iterable[LevelSpan], period: Period
) -> MeteredQuantity:
    """A level of a contract's part of a billing period, with its changes.

    Args:
        spans: in which the contract is in force; they adjoin one another.
    """
    changes = changes_of_spans(
        spans,
        period=period,
        zone=zone(entry.contract.zone),
        days=entry.plan.policies.proration_days,
    )
    quantity = Decimal(0)
    for change in changes:
        quantity = EXACT.add(quantity, change.prorated)
    return MeteredQuantity(meter=meter, model=model, quantity=quantity, changes=changes)
