"""Count what a batch used in the limits of its tenant.

Decides: which limits a batch counts in, and by how much. Of limits nothing is held while a batch
runs, so its usage is drawn once it is known, past a limit's end if need be: then nothing further is
admitted. Of prepaid credit is held what it can come to, and what it did come to is drawn as it is
known; the hold ends with the settlement. Rates per minute and requests in flight bound what a
backend is asked at once, which a batch is not: it counts in neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

import sqlalchemy as sa

from billing.admission.amounts import Rates, charge
from billing.admission.limit import Limit, Unit, Window
from billing.catalog.price_plan import PricePlan
from billing.catalog.rates import proxy_rates, rates_of
from billing.metering.token_class import TokenClass
from billing.operations.catalog.contracts import bound_plans
from billing.operations.metering.book_lines import Charged
from billing.store import holds
from billing.store import leases as leases_store
from billing.store.batch_runs import BatchRun
from billing.store.batch_settlement import model_names
from billing.store.database import Role, acting_as


def draw_lines(
    connection: sa.Connection,
    batch: BatchRun,
    billed: Sequence[Charged],
    *,
    at: datetime,
    now: datetime,
) -> None:
    """Count lines in the limits that are in force, as the operator, with their events.

    Args:
        at: when they occurred; in a window that has passed since they count no more.
    """
    limits = [
        limit
        for limit in leases_store.limits_of(connection, now=now).get(batch.tenant_id, ())
        if limit.unit is not Unit.SLOTS and limit.window is not Window.MINUTE
    ]
    credit_id = None if batch.hold_id is None else holds.limit_of(connection, hold_id=batch.hold_id)
    if not billed or (not limits and credit_id is None):
        return
    rates = _rates(connection, batch, {each.model_id for each in billed})
    amounts: Counter[int] = Counter()
    for each in billed:
        for limit in limits:
            if limit.applies(
                project_id=batch.project_id, key_id=batch.key_id, model_id=each.model_id
            ):
                amounts[limit.id] += _amount(limit, each, rates[each.model_id])
        if credit_id is not None:
            amounts[credit_id] += charge(rates[each.model_id], each.counts, each.units)
    if amounts:
        with acting_as(connection, Role.INGEST):
            leases_store.draw_on_limits(connection, amounts, now=at)


def _amount(limit: Limit, each: Charged, rates: Rates) -> int:
    match limit.unit:
        case Unit.MONEY:
            return charge(rates, each.counts, each.units)
        case Unit.TOKENS:
            return sum(each.counts.of(token_class) for token_class in TokenClass)
        case Unit.REQUESTS | Unit.SLOTS:
            return 1
        case _:
            assert_never(limit.unit)


def _rates(connection: sa.Connection, batch: BatchRun, model_ids: set[int]) -> dict[int, Rates]:
    """By model, the prices as of the submission; a model without a name has none."""
    plans: list[PricePlan] = [
        entry.plan
        for entry in bound_plans(connection, tenant_id=batch.tenant_id, at=batch.submitted_at)
        if entry.contract.in_force(batch.submitted_at)
    ]
    names = model_names(connection, model_ids)
    return {
        model_id: proxy_rates(rates_of(plans, names[model_id])) if model_id in names else Rates()
        for model_id in model_ids
    }
