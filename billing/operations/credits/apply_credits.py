"""Pay accrued revenue with credit, day by day, each application posted with its event.

Decides which charges there are: what was posted on a line on a local day, less what credit paid of
it before. So a run repeated, or run every minute, pays the same as one run at the end. Paid credit
that is taxed at redemption is a means of payment: it is left for the invoice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from billing.catalog.charge import Charge, selector_of
from billing.catalog.price_plan import PricePlan
from billing.ledger.credit_grant import CreditLot, DayCharge, TaxedAt
from billing.ledger.credit_order import Application, Drawn, draw
from billing.ledger.credit_template import paid_credits_used, promotional_credits_used
from billing.ledger.hold import CREDIT
from billing.ledger.posting import Posting
from billing.money import EXACT
from billing.operations.catalog.contracts import bound_plans
from billing.operations.credits.grant_credit import books_of, post_credit
from billing.operations.minting import mint_id
from billing.period import Period, local_midnight, zone
from billing.store import credits as store
from billing.store import holds as hold_store
from billing.store import invoices as invoice_store
from billing.store.credits import EarnedRow
from billing.tenancy.tenant import Tenant

_ZERO = Decimal(0)


def apply_credits(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    period: Period,
    settled_through: datetime | None = None,
    now: datetime,
) -> dict[str, Drawn]:
    """Cover what a billing period has accrued; by currency, what was covered now and what is not.

    Args:
        settled_through: all usage whose hold was posted before this instant has been accrued, so
            that those posts stop counting against the credit; None: not known, they go on
            counting, which can refuse too much and never too little.
    """
    invoice_store.lock_invoicing(connection, tenant.id)
    plans = {
        bound.contract.id: bound.plan for bound in bound_plans(connection, tenant_id=tenant.id)
    }
    drawn: dict[str, Drawn] = {}
    for code in sorted({plan.currency.code for plan in plans.values()}):
        credit = hold_store.lock_limit(connection, tenant_id=tenant.id, name=CREDIT, currency=code)
        if credit is None:
            continue
        charges = _charges(connection, tenant, plans, period, code)
        drawn[code] = draw(_lots(connection, tenant, code), charges)
        for application in drawn[code].applications:
            _apply(connection, application, now=now)
        if settled_through is not None:
            hold_store.settle(connection, credit, through=settled_through)
    return drawn


def _lots(connection: sa.Connection, tenant: Tenant, code: str) -> list[CreditLot]:
    return [
        CreditLot(grant=row.grant, remaining=row.remaining)
        for row in store.grants(connection, tenant_id=tenant.id, currency=code, live=True)
        if row.grant.taxed_at is not TaxedAt.REDEMPTION
    ]


def _charges(
    connection: sa.Connection,
    tenant: Tenant,
    plans: Mapping[int, PricePlan],
    period: Period,
    code: str,
) -> list[DayCharge]:
    earned = store.earned_by_day(
        connection, tenant_id=tenant.id, currency=code, period=period, zone=tenant.zone
    )
    applied = store.applied_by_day(connection, tenant_id=tenant.id, currency=code, period=period)
    paid = {_place(row): row.amount for row in applied}
    by_key = {
        (contract, charge.key): charge
        for contract, plan in plans.items()
        for charge in plan.charges
    }
    charges: list[DayCharge] = []
    for row in earned:
        due = EXACT.subtract(row.amount, paid.get(_place(row), _ZERO))
        if due > 0:
            found = by_key.get((row.contract_id, row.line_key))
            charges.append(_charge(tenant, row, plans[row.contract_id].slug, found, due))
    return charges


def _charge(
    tenant: Tenant, row: EarnedRow, plan: str, found: Charge | None, due: Decimal
) -> DayCharge:
    calendar_zone = zone(tenant.zone)
    selector = None if found is None else selector_of(found)
    return DayCharge(
        contract_id=row.contract_id,
        period_start=row.period_start,
        line_key=row.line_key,
        day=row.day,
        during=Period(
            start=local_midnight(row.day, calendar_zone),
            end=local_midnight(row.day + timedelta(days=1), calendar_zone),
        ),
        plan=plan,
        meter=selector.meter if selector else None,
        models=selector.models if selector else None,
        amount=due,
    )


def _apply(connection: sa.Connection, application: Application, *, now: datetime) -> None:
    grant, charge, amount = application.grant, application.charge, application.amount
    # What remains of a grant only falls, so each application of it has a key of its own.
    part = (
        f"{charge.contract_id}/{charge.period_start:%Y%m%dT%H%M}/{charge.line_key}/{charge.day}/"
        f"{application.remaining:f}"
    )
    store.insert_event(
        connection,
        event_id=mint_id(now),
        grant=grant,
        kind="applied",
        amount=amount,
        idempotency_key=part,
        line=EarnedRow(
            contract_id=charge.contract_id,
            period_start=charge.period_start,
            line_key=charge.line_key,
            day=charge.day,
            amount=amount,
        ),
        now=now,
    )
    post_credit(
        connection,
        grant,
        "credits_used",
        _postings(application),
        effective_at=min(now, charge.during.end - timedelta(microseconds=1)),
        now=now,
        part=part,
    )


def _postings(application: Application) -> tuple[Posting, ...]:
    """The liability that goes, and what the tenant got beyond what it paid, as promotion."""
    grant, amount = application.grant, application.amount
    before = EXACT.add(application.remaining, amount)
    paid = grant.released(before=before, after=application.remaining)
    promoted = EXACT.subtract(amount, paid)
    books = books_of(grant)
    postings: tuple[Posting, ...] = ()
    if paid:
        postings += paid_credits_used(books, amount=paid)
    if promoted:
        postings += promotional_credits_used(books, amount=promoted)
    return postings


def _place(row: EarnedRow) -> tuple[int, datetime, str, object]:
    return (row.contract_id, row.period_start, row.line_key, row.day)
