"""Pay accrued revenue with credit, day by day, each application posted with its event.

Decides which charges there are: what was posted on a line on a local day, less what credit paid of
it before. So a run repeated, or run every minute, pays the same as one run at the end. What a
correction takes back of a line that credit paid comes back to the grants first. Paid credit that
is taxed at redemption is a means of payment: it is only reserved here, and left for the invoice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Literal
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.credit_grant import CreditLot, TaxedAt
from billing.ledger.credit_order import Application, Drawn, draw
from billing.ledger.credit_return import CreditUse, give_back
from billing.ledger.credit_template import paid_credits_used, promotional_credits_used
from billing.ledger.posting import Posting
from billing.money import EXACT
from billing.operations.credits.charges import (
    Line,
    day_period,
    not_invoiced,
    place_of,
    plans_of,
    read_charges,
)
from billing.operations.credits.grant_credit import books_of, post_credit, require_grant
from billing.operations.minting import mint_id
from billing.period import Period
from billing.store import credit_lines, leases, reservations
from billing.store import credits as store
from billing.store import holds as hold_store
from billing.store import invoices as invoice_store
from billing.store.credit_lines import Place
from billing.store.credits import GrantRow
from billing.tenancy.tenant import Tenant


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
    plans = plans_of(connection, tenant, period)
    locked = hold_store.lock_credits(connection, [tenant.id])
    drawn: dict[str, Drawn] = {}
    for code in sorted({plan.currency.code for plan in plans.values()}):
        credit = locked.get((tenant.id, code))
        if credit is None:
            continue
        read = partial(
            read_charges, connection, tenant=tenant, plans=plans, period=period, currency=code
        )
        charges = read()
        if charges.overpaid:
            for line, amount in charges.overpaid.items():
                _restore(connection, tenant, line, amount, now=now)
            charges = read()
        drawn[code] = draw(_lots(connection, tenant, code), charges.due)
        for application in drawn[code].applications:
            _apply(connection, application, now=now)
        _reserve(connection, drawn[code], tenant=tenant, period=period, currency=code)
        if (
            drawn[code].applications
            and hold_store.credit_standing(connection, credit, now=now)[0] < 0
        ):
            # A fee, say, took what processes have leased: what they do not use of it, they return.
            leases.tell_changed(connection, credit)
        if settled_through is not None:
            hold_store.settle(connection, credit, through=settled_through)
    return drawn


def redeemable_lots(
    connection: sa.Connection, *, tenant: Tenant, currency: str, periods: Sequence[Period]
) -> list[CreditLot]:
    """Paid credit that is taxed when it is redeemed, less what other billing periods reserved."""
    elsewhere = reservations.reserved(
        connection, tenant_id=tenant.id, except_for=[period.start for period in periods]
    )
    lots = [
        CreditLot(
            grant=row.grant,
            remaining=EXACT.subtract(row.remaining, elsewhere.get(row.grant.id, Decimal(0))),
        )
        for row in store.grants(connection, tenant_id=tenant.id, currency=currency, live=True)
        if row.grant.taxed_at is TaxedAt.REDEMPTION
    ]
    return [lot for lot in lots if lot.remaining > 0]


def _lots(connection: sa.Connection, tenant: Tenant, code: str) -> list[CreditLot]:
    return [
        CreditLot(grant=row.grant, remaining=row.remaining)
        for row in store.grants(connection, tenant_id=tenant.id, currency=code, live=True)
        if row.grant.taxed_at is not TaxedAt.REDEMPTION
    ]


def _reserve(
    connection: sa.Connection, drawn: Drawn, *, tenant: Tenant, period: Period, currency: str
) -> None:
    """State what the next invoice will redeem, so that no hold and no expiry counts it as free."""
    lots = redeemable_lots(connection, tenant=tenant, currency=currency, periods=[period])
    amounts: dict[UUID, Decimal] = {}
    if lots:
        charges = not_invoiced(
            connection,
            [replace(charge, amount=amount) for charge, amount in drawn.uncovered],
            tenant=tenant,
            period=period,
            currency=currency,
        )
        for part in draw(lots, charges).applications:
            before = amounts.get(part.grant.id, Decimal(0))
            amounts[part.grant.id] = EXACT.add(before, part.amount)
    reservations.state_reservations(
        connection,
        tenant_id=tenant.id,
        currency=currency,
        period_start=period.start,
        amounts=amounts,
    )


def _apply(connection: sa.Connection, application: Application, *, now: datetime) -> None:
    row = require_grant(connection, application.grant.id)
    _move(
        connection,
        row,
        application.amount,
        kind="applied",
        place=place_of(application.charge),
        during=application.charge.during,
        now=now,
    )


def _restore(
    connection: sa.Connection, tenant: Tenant, line: Line, amount: Decimal, *, now: datetime
) -> None:
    """Give credit back to the grants that paid a line more than it earned in the end.

    It keeps its terms: of a grant past its end it lapses with the next expiry.
    """
    contract_id, period_start, line_key = line
    uses = [
        CreditUse(
            grant=require_grant(connection, use.grant_id).grant,
            day=use.place.day,
            amount=use.amount,
        )
        for use in credit_lines.uses_of_line(
            connection, contract_id=contract_id, period_start=period_start, line_key=line_key
        )
    ]
    for use in give_back(uses, amount):
        row = require_grant(connection, use.grant.id)
        place = Place(
            contract_id=contract_id, period_start=period_start, line_key=line_key, day=use.day
        )
        _move(
            connection,
            row,
            use.amount,
            kind="restored",
            place=place,
            during=day_period(tenant, use.day),
            now=now,
        )


def _move(
    connection: sa.Connection,
    row: GrantRow,
    amount: Decimal,
    *,
    kind: Literal["applied", "restored"],
    place: Place,
    during: Period,
    now: datetime,
) -> None:
    """Append the event and post what it does, under a key that no other event of the grant has."""
    part = (
        f"{place.contract_id}/{place.period_start:%Y%m%dT%H%M}/{place.line_key}/{place.day}/"
        f"{row.version}"
    )
    store.insert_event(
        connection,
        event_id=mint_id(now),
        grant=row.grant,
        kind=kind,
        amount=amount,
        idempotency_key=part,
        place=place,
        now=now,
    )
    signed = amount if kind == "applied" else EXACT.minus(amount)
    post_credit(
        connection,
        row.grant,
        "credits_used" if kind == "applied" else "credits_restored",
        _postings(row, signed),
        effective_at=min(now, during.end - timedelta(microseconds=1)),
        now=now,
        part=part,
    )


def _postings(row: GrantRow, amount: Decimal) -> tuple[Posting, ...]:
    """The liability that goes, and what the tenant got beyond what it paid, as promotion.

    Below zero the other way round: what comes back is owed again.
    """
    paid = row.grant.released(before=row.remaining, after=EXACT.subtract(row.remaining, amount))
    promoted = EXACT.subtract(amount, paid)
    books = books_of(row.grant)
    postings: tuple[Posting, ...] = ()
    if paid:
        postings += paid_credits_used(books, amount=paid)
    if promoted:
        postings += promotional_credits_used(books, amount=promoted)
    return postings
