"""Post what a billing period has earned so far: exact, through Unbilled, never twice.

What is posted on a line is its cumulative exact amount at the ledger's 12 decimals less what was
posted on it before, so nothing drifts however often this runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache

import sqlalchemy as sa

from billing.catalog.contract import Contract
from billing.ledger.earning import EarnedOn, account_of
from billing.ledger.posting import LineRef, Transaction
from billing.ledger.template import Books, lines_accrued
from billing.money import EXACT, to_ledger
from billing.operations.minting import mint_id
from billing.operations.rating.rate_period import RatedContract, RatedPeriod, rate_period
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period
from billing.store import invoices as invoice_store
from billing.store import ledger as store
from billing.tenancy.tenant import Tenant

_ZERO = Decimal(0)


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
    posted_now = _ZERO
    for contract in rated.contracts:
        before = store.accrued(
            connection,
            contract_id=contract.bound.contract.id,
            period_start=rated.period.start,
        )
        new = accrual(rated, contract, before, legal_entity_id=entity.id, now=now)
        if new is None:
            continue
        store.post(connection, new, now=now)
        for posting in new.postings:
            if posting.line is not None:
                posted_now = EXACT.subtract(posted_now, posting.amount)
    return posted_now


def accrual(
    rated: RatedPeriod,
    contract: RatedContract,
    before: Mapping[EarnedOn, Decimal],
    *,
    legal_entity_id: int,
    now: datetime,
) -> Transaction | None:
    """What to post for one contract of a rated period; None if nothing is new.

    Args:
        before: what was posted on its lines.
    """
    return accrual_of(
        earned_by(contract),
        before,
        contract=contract.bound.contract,
        period=rated.period,
        watermark=rated.watermark,
        legal_entity_id=legal_entity_id,
        now=now,
    )


def accrual_of(
    earned: Mapping[EarnedOn, Decimal],
    before: Mapping[EarnedOn, Decimal],
    *,
    contract: Contract,
    period: Period,
    watermark: int,
    legal_entity_id: int,
    now: datetime,
) -> Transaction | None:
    """What to post for one contract of a billing period; None if nothing is new.

    Args:
        earned: on its lines since the start of the period, as the ledger keeps it.
        before: what of it was posted.
        watermark: newest epoch that is in it.
    """
    accruals = _new_accruals(earned, before)
    if not accruals:
        return None
    # Part of the key: a level earns as much again in the next hour, with no event in between.
    until = min(now, period.end)
    books = Books(
        legal_entity_id=legal_entity_id,
        tenant_id=contract.tenant_id,
        currency=contract.currency.code,
    )
    start = period.start
    lines = [
        (LineRef(contract_id=contract.id, period_start=start, line_key=key), code, amount)
        for (key, code), amount in accruals.items()
    ]
    return Transaction(
        id=mint_id(now),
        legal_entity_id=legal_entity_id,
        tenant_id=contract.tenant_id,
        kind="usage_accrued",
        idempotency_key=(
            f"accrual/{contract.id}/{_stamp(start, '%Y%m%dT%H%M')}/{watermark}/"
            f"{_stamp(until, '%Y%m%dT%H%M%S.%f')}/{_fingerprint(accruals)}"
        ),
        effective_at=min(now, period.end - timedelta(microseconds=1)),
        postings=lines_accrued(books, lines),
        reference=f"contract {contract.id}, epoch {watermark}",
    )


def earned_by(contract: RatedContract) -> dict[EarnedOn, Decimal]:
    """What a contract's lines have earned since the start of the period, as the ledger keeps it."""
    return {
        (line.key, account_of(line.kind)): to_ledger(line.exact) for line in contract.rating.lines
    }


def _new_accruals(
    earned: Mapping[EarnedOn, Decimal], before: Mapping[EarnedOn, Decimal]
) -> dict[EarnedOn, Decimal]:
    """What is to be posted, in a stable order.

    A line that was posted and is rated no more has nothing due: it is taken back where it was
    posted.
    """
    if not before:
        return {line: earned[line] for line in sorted(earned) if earned[line]}
    if earned == before:
        return {}
    amounts = {
        line: EXACT.subtract(earned.get(line, _ZERO), before.get(line, _ZERO))
        for line in sorted(earned.keys() | before.keys())
    }
    return {line: amount for line, amount in amounts.items() if amount}


@lru_cache(maxsize=256)
def _stamp(at: datetime, shape: str) -> str:
    """An instant in a key; those of a page are few."""
    return at.strftime(shape)


def _fingerprint(accruals: Mapping[EarnedOn, Decimal]) -> str:
    """Part of the idempotency key that differs when the same epoch is rated to other amounts."""
    text = ",".join(f"{key}/{code}={amount:f}" for (key, code), amount in accruals.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
