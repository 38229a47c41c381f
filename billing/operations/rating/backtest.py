"""Rate recorded usage a second time, under another plan, beside what the contracts make of it.

Decides: whose usage is rated (tenants with contracts in the plan's currency), which contracts the
plan stands in for (all of a tenant's, from the first instant of a period that one covers to the
last; what was agreed beside a contract's plan is in the first figure and not in the second), and
that both ratings take the same rows of one snapshot through the same code as an invoice (R6).
Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from billing.catalog.contract import Contract
from billing.catalog.price_plan import PricePlan
from billing.errors import Conflict
from billing.operations.catalog.contracts import BoundPlan, bound_plans
from billing.operations.catalog.plans import declared_meters
from billing.operations.rating.comparison import Comparison, LeftOut, PeriodChange
from billing.operations.rating.rate_period import RatedPeriod, rate_usage
from billing.operations.rating.rate_tenants import TenantPeriod, read_usage, tenant_periods
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.period import Period, month, zone
from billing.planfiles.plan_file import book_of, require_price_books
from billing.store.usage.read import PeriodUsage
from billing.tenancy.tenant import Tenant


def read_candidate(
    connection: sa.Connection, text: str | bytes, *, currency: str | None = None
) -> PricePlan:
    """A plan file that may name the meters of this deployment; nothing is stored.

    Args:
        currency: code, of a file of several; None is the file's first.

    Raises:
        InvalidPlan: the file is refused; names line, field and remedy.
        InvalidInput: the file has no prices in this currency.
    """
    plans = require_price_books(text, meters=declared_meters(connection))
    return book_of(plans, currency)


def backtest(
    connection: sa.Connection,
    *,
    plan: PricePlan,
    months: Sequence[tuple[int, int]],
    tenants: Collection[str] | None = None,
    now: datetime,
    told: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare what a plan would have made of recorded usage with what the contracts make of it.

    Args:
        connection: of one REPEATABLE READ snapshot, so that all figures are of one watermark.
        plan: as read from a file; it need not be stored.
        months: years and months in which the billing periods begin.
        tenants: slugs; None is everybody, an empty collection nobody (T2).
        told: called with the number of periods rated, and of all.

    Raises:
        NotFound: no such tenant.
    """
    chosen = (
        list_tenants(connection)
        if tenants is None
        else [require_tenant(connection, slug) for slug in sorted(set(tenants))]
    )
    only = chosen[0].id if len(chosen) == 1 else None
    found = tenant_periods(
        connection,
        [
            (tenant, period)
            for tenant in chosen
            for period in _periods(tenant, months)
            if period.start < now
        ],
        bound_plans(connection, tenant_id=only),
        beside=[plan],
    )
    reasons = _reasons(plan, chosen, found)
    left_out = [LeftOut(tenant=slug, reason=reason) for slug, reason in reasons.items()]
    asked = [each for each in found if each.tenant.slug not in reasons]
    changes: list[PeriodChange] = []
    watermark: int | None = None
    for position, (each, used) in enumerate(read_usage(connection, asked, until=now), start=1):
        if isinstance(used, Conflict):
            reason = f"{_label(each)}: {used.message}"
            left_out.append(LeftOut(tenant=each.tenant.slug, reason=reason))
        else:
            changes.append(_compared(each, used, plan, until=now))
            watermark = used.watermark
        if told is not None:
            told(position, len(asked))
    return Comparison(
        plan=plan, periods=tuple(changes), left_out=tuple(left_out), watermark=watermark
    )


def _periods(tenant: Tenant, months: Sequence[tuple[int, int]]) -> list[Period]:
    in_zone = zone(tenant.zone)
    return [month(year, number, in_zone, anchor_day=tenant.anchor_day) for year, number in months]


def _reasons(
    plan: PricePlan, chosen: Sequence[Tenant], found: Sequence[TenantPeriod]
) -> dict[str, str]:
    """Why tenants are left out, by slug."""
    currencies: dict[str, set[str]] = {tenant.slug: set() for tenant in chosen}
    for each in found:
        currencies[each.tenant.slug] |= {entry.plan.currency.code for entry in each.bound}
    return {
        slug: f"contracts in {', '.join(sorted(codes))}" if codes else "no contract in these months"
        for slug, codes in currencies.items()
        if codes != {plan.currency.code}
    }


def _label(asked: TenantPeriod) -> str:
    """The month in which a billing period begins, by the tenant's clock."""
    return f"{asked.period.start.astimezone(zone(asked.tenant.zone)):%Y-%m}"


def _compared(
    asked: TenantPeriod, used: PeriodUsage, plan: PricePlan, *, until: datetime
) -> PeriodChange:
    rated = [
        rate_usage(
            tenant=asked.tenant,
            period=asked.period,
            bound=bound,
            used=used,
            until=until,
            explained=False,
        )
        for bound in (asked.bound, (_instead(asked.bound, plan),))
    ]
    before, after = rated
    return PeriodChange(
        tenant=asked.tenant.slug,
        month=_label(asked),
        period=asked.period,
        level=asked.level,
        before=_minor(before),
        after=_minor(after),
        unrated=after.unrated,
    )


def _instead(bound: Sequence[BoundPlan], plan: PricePlan) -> BoundPlan:
    """The plan in the place of all contracts; one that is open leaves it open."""
    first = bound[0].contract
    ends = [entry.contract.valid_until for entry in bound]
    known = [end for end in ends if end is not None]
    contract = Contract(
        id=first.id,
        tenant_id=first.tenant_id,
        plan_slug=plan.slug,
        plan_version=plan.version or 0,
        valid_from=min(entry.contract.valid_from for entry in bound),
        valid_until=max(known) if len(known) == len(ends) else None,
        currency=plan.currency,
        zone=first.zone,
        anchor_day=first.anchor_day,
    )
    return BoundPlan(contract=contract, plan=plan)


def _minor(rated: RatedPeriod) -> int:
    return sum(line.amount.minor for each in rated.contracts for line in each.rating.lines)
