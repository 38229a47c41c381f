"""Put what was earned beside what it cost, per tenant or model.

Revenue is what the ledger holds for the billing periods whose middle lies in the report's period,
split over models by the weights that rating gives each line. Cost is the newest cost statement of
exactly that period, allocated over everybody's tokens. The report checks M1 and M2 itself.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.errors import NotFound
from billing.margin.allocation import TokenUsage, allocate_fleet
from billing.margin.report import GroupBy, MarginReport, margin_report
from billing.margin.revenue import PostedRevenue, split_revenue
from billing.metering.token_class import TokenClass
from billing.operations.rating.rate_period import rate_period
from billing.period import Period
from billing.planfiles.cost_file import read_costs
from billing.store import costs as cost_store
from billing.store import ledger
from billing.store import tenancy as tenancy_store
from billing.store.ledger import RevenueRow
from billing.store.usage.read import usage_of_all

Weights = tuple[tuple[str | None, Decimal], ...]


def report_margin(connection: sa.Connection, *, period: Period, group_by: GroupBy) -> MarginReport:
    """Margin of a period, in the operator role's snapshot transaction.

    Raises:
        NotFound: no cost statement of exactly this period.
        TieOutFailed: the report does not add up to the ledger or to the booked cost.
    """
    statement = cost_store.statement(connection, period=period)
    if statement is None:
        raise NotFound(
            "no costs are recorded for this period",
            field="period",
            remedy="record a cost file for exactly this period",
        )
    sheet = read_costs(statement.source)
    posted = [
        row for row in ledger.revenue(connection, period=period) if row.currency == sheet.currency
    ]
    return margin_report(
        group_by=group_by,
        period=period,
        currency=sheet.currency,
        revenue=_revenue(connection, posted),
        fleet=allocate_fleet(
            pools=sheet.pools,
            period=sheet.period,
            currency=sheet.currency,
            entries=sheet.entries,
            usages=_usages(connection, period),
        ),
    )


def _revenue(connection: sa.Connection, posted: list[RevenueRow]) -> list[PostedRevenue]:
    weights = _weights(connection, posted)
    return [
        PostedRevenue(
            tenant=row.tenant,
            line=f"contract-{row.contract_id}/{row.line_key}",
            model=model,
            amount=amount,
            currency=row.currency,
        )
        for row in posted
        for model, amount in split_revenue(
            row.amount, weights.get((row.contract_id, row.period_start, row.line_key), ())
        )
    ]


def _weights(
    connection: sa.Connection, posted: list[RevenueRow]
) -> dict[tuple[int, datetime, str], Weights]:
    """Each period's line's split over models, by rating its tenant's period again."""
    weights: dict[tuple[int, datetime, str], Weights] = {}
    for slug, start in sorted({(row.tenant, row.period_start) for row in posted}):
        tenant = tenancy_store.tenant(connection, slug)
        assert tenant is not None
        rated = rate_period(connection, tenant=tenant, period=tenant.billing_period(start))
        for contract in rated.contracts:
            for line in contract.rating.lines:
                weights[contract.bound.contract.id, start, line.key] = line.by_model
    return weights


def _usages(connection: sa.Connection, period: Period) -> list[TokenUsage]:
    slugs = {tenant.id: tenant.slug for tenant in tenancy_store.tenants(connection)}
    classes = {token_class.meter: token_class for token_class in TokenClass}
    return [
        TokenUsage(
            tenant=slugs[tenant_id],
            model=model,
            token_class=classes[meter],
            tokens=int(quantity),
        )
        for tenant_id, meter, model, quantity in usage_of_all(connection, period=period)
        if meter in classes and model is not None
    ]
