"""Post what a billing period has earned so far: exact, through Unbilled, never twice.

What is posted on a line is its cumulative exact amount at the ledger's 12 decimals less what was
posted on it before, so nothing drifts however often this runs.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from decimal import Decimal, localcontext

import sqlalchemy as sa

from billing.ledger.posting import LineRef, Transaction
from billing.ledger.template import Books, usage_accrued
from billing.money import EXACT, to_ledger
from billing.operations.minting import mint_id
from billing.operations.rating.rate_period import RatedContract, RatedPeriod, rate_period
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period
from billing.store import invoices as invoice_store
from billing.store import ledger as store
from billing.tenancy.tenant import Tenant


def accrue_usage(
    connection: sa.Connection, *, tenant: Tenant, period: Period, now: datetime
) -> Decimal:
    """Rate a billing period and post what is new, in the operator role's transaction.

    Returns:
        The amount newly accrued over all contracts and currencies, for display only.
    """
    invoice_store.lock_invoicing(connection, tenant.id)
    rated = rate_period(connection, tenant=tenant, period=period, until=now, explained=False)
    return post_accruals(connection, rated, now=now)


def post_accruals(connection: sa.Connection, rated: RatedPeriod, *, now: datetime) -> Decimal:
    """Post the difference between a rated period and what was posted; see `accrue_usage`."""
    entity = require_legal_entity(connection, rated.tenant.legal_entity)
    posted_now = Decimal(0)
    # Part of the key: a level earns as much again in the next hour, with no event in between.
    until = min(now, rated.period.end)
    for contract in rated.contracts:
        accruals = _new_accruals(connection, contract, rated.period)
        if not accruals:
            continue
        bound = contract.bound.contract
        books = Books(
            legal_entity_id=entity.id,
            tenant_id=rated.tenant.id,
            currency=bound.currency.code,
        )
        store.post(
            connection,
            Transaction(
                id=mint_id(now),
                legal_entity_id=entity.id,
                tenant_id=rated.tenant.id,
                kind="usage_accrued",
                idempotency_key=(
                    f"accrual/{bound.id}/{rated.period.start:%Y%m%dT%H%M}/{rated.watermark}/"
                    f"{until:%Y%m%dT%H%M%S.%f}/{_fingerprint(accruals)}"
                ),
                effective_at=min(now, rated.period.end - timedelta(microseconds=1)),
                postings=usage_accrued(books, accruals),
                reference=f"contract {bound.id}, epoch {rated.watermark}",
            ),
            now=now,
        )
        with localcontext(EXACT):
            posted_now += sum((amount for _, amount in accruals), Decimal(0))
    return posted_now


def _new_accruals(
    connection: sa.Connection, contract: RatedContract, period: Period
) -> list[tuple[LineRef, Decimal]]:
    contract_id = contract.bound.contract.id
    before = store.accrued(connection, contract_id=contract_id, period_start=period.start)
    exact = {line.key: line.exact for line in contract.rating.lines}
    # A key that was posted and is rated no more has nothing due: it is taken back.
    amounts = {
        key: EXACT.subtract(to_ledger(exact.get(key, Decimal(0))), before.get(key, Decimal(0)))
        for key in sorted(exact.keys() | before.keys())
    }
    return [
        (LineRef(contract_id=contract_id, period_start=period.start, line_key=key), amount)
        for key, amount in amounts.items()
        if amount
    ]


def _fingerprint(accruals: list[tuple[LineRef, Decimal]]) -> str:
    """Part of the idempotency key that differs when the same epoch is rated to other amounts."""
    text = ",".join(f"{line.line_key}={amount:f}" for line, amount in accruals)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
