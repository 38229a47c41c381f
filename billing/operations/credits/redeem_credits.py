"""Pay an invoice that is being issued with credit that is taxed when it is redeemed.

It is a means of payment: lines, tax and total stay as they are, what is due falls. Decides how an
invoice's total falls on the days that it bills, so that each grant pays only what is in its scope
and its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.credit_grant import CreditGrant, CreditLot, DayCharge
from billing.ledger.credit_order import draw
from billing.ledger.credit_template import credit_bonus_applied, paid_credits_applied
from billing.ledger.posting import Posting
from billing.money import EXACT, Currency, allocate, currency, from_minor, to_minor
from billing.operations.credits.apply_credits import redeemable_lots
from billing.operations.credits.charges import not_invoiced, plans_of, read_charges
from billing.operations.credits.grant_credit import books_of, post_credit, require_grant
from billing.operations.minting import mint_id
from billing.period import Period
from billing.store import credits as store
from billing.store import holds as hold_store
from billing.store import reservations
from billing.store.credits import GrantRow
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant


def redeem_credits(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    invoice: InvoiceRow,
    periods: Sequence[Period],
    now: datetime,
) -> int:
    """Redeem credit on a draft that the caller issues in this transaction.

    Args:
        periods: the billing periods that it bills, with all they earned posted and applied.

    Returns:
        What credit pays, in minor units of the invoice's currency; at most its total.
    """
    code = invoice.currency
    if (tenant.id, code) not in hold_store.lock_credits(connection, [tenant.id]):
        return 0
    in_currency = currency(code)
    charges = _charges(connection, tenant, periods, code)
    lots = _whole(
        redeemable_lots(connection, tenant=tenant, currency=code, periods=periods), in_currency
    )
    for period in periods:
        reservations.state_reservations(
            connection, tenant_id=tenant.id, currency=code, period_start=period.start, amounts={}
        )
    if not charges or not lots or invoice.total_minor <= 0:
        return 0
    parts = allocate(invoice.total_minor, [Fraction(charge.amount) for charge in charges])
    payable = [
        replace(charge, amount=from_minor(part, in_currency))
        for charge, part in zip(charges, parts, strict=True)
        if part
    ]
    grants: dict[UUID, tuple[CreditGrant, Decimal]] = {}
    for part in draw(lots, payable).applications:
        _, before = grants.get(part.grant.id, (part.grant, Decimal(0)))
        grants[part.grant.id] = (part.grant, EXACT.add(before, part.amount))
    for grant, amount in grants.values():
        _redeem(connection, require_grant(connection, grant.id), amount, invoice, now=now)
    return sum(to_minor(amount, in_currency) for _, amount in grants.values())


def _charges(
    connection: sa.Connection, tenant: Tenant, periods: Sequence[Period], code: str
) -> list[DayCharge]:
    charges: list[DayCharge] = []
    for period in periods:
        plans = plans_of(connection, tenant, period)
        found = read_charges(connection, tenant=tenant, plans=plans, period=period, currency=code)
        charges += not_invoiced(connection, found.due, tenant=tenant, period=period, currency=code)
    return charges


def _whole(lots: Sequence[CreditLot], in_currency: Currency) -> list[CreditLot]:
    """Lots cut to whole minor units: nothing else moves a receivable."""
    cut = [
        replace(
            lot,
            remaining=from_minor(
                int(lot.remaining.scaleb(in_currency.decimals, context=EXACT)), in_currency
            ),
        )
        for lot in lots
    ]
    return [lot for lot in cut if lot.remaining]


def _redeem(
    connection: sa.Connection,
    row: GrantRow,
    amount: Decimal,
    invoice: InvoiceRow,
    *,
    now: datetime,
) -> None:
    store.insert_event(
        connection,
        event_id=mint_id(now),
        grant=row.grant,
        kind="redeemed",
        amount=amount,
        idempotency_key=f"invoice/{invoice.id}",
        invoice_id=invoice.id,
        now=now,
    )
    paid = row.grant.released(before=row.remaining, after=EXACT.subtract(row.remaining, amount))
    bonus = EXACT.subtract(amount, paid)
    postings: tuple[Posting, ...] = ()
    if paid:
        postings += paid_credits_applied(books_of(row.grant), amount=paid)
    if bonus:
        postings += credit_bonus_applied(books_of(row.grant), amount=bonus)
    post_credit(
        connection,
        row.grant,
        "credits_redeemed",
        postings,
        effective_at=now,
        now=now,
        part=f"invoice/{invoice.id}",
    )
