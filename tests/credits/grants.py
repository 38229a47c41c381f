"""Builders of grants, charges and holds, and the figures that must tie."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditGrant, DayCharge, GrantKind, TaxedAt
from billing.ledger.hold import CREDIT
from billing.ledger.template import Books
from billing.ledger.top_up import TopUpPolicy
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import GrantTerms, grant_credit
from billing.operations.credits.top_ups import (
    consider_top_up,
    decline_top_up,
    list_top_ups,
    set_top_up_policy,
)
from billing.operations.holds.holds import require_limit, take_hold
from billing.operations.minting import mint_id
from billing.operations.rating.accrue_usage import accrue_usage
from billing.period import Period
from billing.store import credits as store
from billing.store import ledger
from billing.store.credits import GrantRow
from billing.store.database import only, query
from billing.store.reservations import state_reservations
from billing.tenancy.tenant import Tenant

START = datetime(2026, 11, 1, tzinfo=UTC)

POLICY = TopUpPolicy(
    threshold=Decimal(1_000_000),
    amount=Decimal(50),
    window_ms=3_600_000,
    count_max=3,
    amount_max=Decimal(150),
    cool_down_ms=600_000,
)


def pure_grant(number: int, **members: Any) -> CreditGrant:
    """A promotional grant of 10 USD, members replaced."""
    paid = members.get("kind") is GrantKind.PAID
    defaults: dict[str, Any] = {
        "id": UUID(int=number),
        "tenant_id": 1,
        "legal_entity_id": 1,
        "currency": "USD",
        "amount": Decimal(10),
        "kind": GrantKind.PROMOTIONAL,
        "taxed_at": TaxedAt.PURCHASE if paid else None,
        "paid_from": AccountCode.BANK if paid else None,
        "cost_basis": members.get("amount", Decimal(10)) if paid else Decimal(0),
        "counts_toward_commitment": False,
        "priority": 100,
        "starts_at": START,
        "expires_at": None,
        "source": "test",
        "idempotency_key": f"key-{number}",
    }
    return CreditGrant(**{**defaults, **members})


def pure_charge(day: int, amount: Decimal, **members: Any) -> DayCharge:
    """A charge for input tokens of `tiny` on a day of November."""
    begins = START + timedelta(days=day - 1)
    defaults: dict[str, Any] = {
        "contract_id": 1,
        "period_start": START,
        "line_key": "input",
        "day": date(2026, 11, day),
        "during": Period(start=begins, end=begins + timedelta(days=1)),
        "plan": "standard",
        "meter": "tokens.input",
        "models": frozenset({"tiny"}),
        "amount": amount,
    }
    return DayCharge(**{**defaults, **members})


def terms(amount: str, *, paid: bool = False, **members: Any) -> GrantTerms:
    """Terms of a grant in USD; paid ones are taxed at purchase and came through the bank."""
    return GrantTerms(
        **{
            "currency": "USD",
            "amount": Decimal(amount),
            "kind": GrantKind.PAID if paid else GrantKind.PROMOTIONAL,
            "taxed_at": TaxedAt.PURCHASE if paid else None,
            "paid_from": AccountCode.BANK if paid else None,
            "source": "test",
            **members,
        }
    )


def give(
    connection: sa.Connection,
    tenant: Tenant,
    amount: str,
    *,
    key: str,
    now: datetime,
    **members: Any,
) -> GrantRow:
    """Grant credit."""
    return grant_credit(
        connection,
        tenant=tenant,
        terms=terms(amount, **members),
        idempotency_key=key,
        now=now,
    )


def require_ties(connection: sa.Connection, tenant: Tenant) -> None:
    """C1, the projections, and the contract liability against the grants."""
    for row in query(
        connection,
        "SELECT b.*, g.amount, (SELECT count(*) FROM credit_event e WHERE e.grant_id = b.grant_id) "
        "AS events, (SELECT sum(CASE WHEN kind = 'restored' THEN -amount ELSE amount END) "
        "FROM credit_event e WHERE e.grant_id = b.grant_id "
        "AND kind IN ('applied', 'redeemed', 'restored')) AS applied, "
        "(SELECT sum(amount) FROM credit_event e WHERE e.grant_id = b.grant_id "
        "AND kind IN ('expired', 'voided', 'rolled_over')) AS lapsed "
        "FROM credit_balance b JOIN credit_grant g ON g.id = b.grant_id",
    ):
        assert row.granted == row.amount == row.used + row.expired + row.remaining
        assert row.remaining >= 0
        assert row.version == row.events
        assert (row.used, row.expired) == (row.applied or 0, row.lapsed or 0)
    for row in query(
        connection,
        "SELECT l.held, (SELECT coalesce(sum(amount), 0) FROM open_hold h WHERE h.limit_id = l.id) "
        "AS opened FROM spend_limit l",
    ):
        assert row.held == row.opened
    require_deferred_revenue(connection, tenant)


def require_deferred_revenue(connection: sa.Connection, tenant: Tenant) -> None:
    """Invariant 24: billed less recognised less refunded is what remaining credit is owed at."""
    entity = only(connection, "SELECT id FROM legal_entity").id
    books = Books(legal_entity_id=entity, tenant_id=tenant.id, currency="USD")
    closing = -ledger.balance(connection, books.account(AccountCode.CONTRACT_LIABILITY))
    owed = sum((row.grant.owed(row.remaining) for row in _rows(connection, tenant)), Decimal(0))
    moved = {
        row.kind: row.moved
        for row in query(
            connection,
            "SELECT t.kind, -sum(p.amount) AS moved FROM posting p "
            "JOIN account a ON a.id = p.account_id JOIN ledger_transaction t "
            "ON t.id = p.transaction_id WHERE a.code = :code AND a.tenant_id = :tenant GROUP BY 1",
            code=AccountCode.CONTRACT_LIABILITY.value,
            tenant=tenant.id,
        )
    }
    billed = moved.pop("credits_bought", Decimal(0))
    restored = moved.pop("credits_restored", Decimal(0))
    assert restored >= 0
    assert all(amount < 0 for amount in moved.values())
    assert billed + restored + sum(moved.values()) == closing == owed


def _rows(connection: sa.Connection, tenant: Tenant) -> list[GrantRow]:
    return store.grants(connection, tenant_id=tenant.id)


def fill_credits(connection: sa.Connection, tenant: Tenant, *, now: datetime) -> None:
    """A row of a tenant in every table of credits, holds and top-ups."""
    given = give(connection, tenant, "100.00", key="full-1", now=now, paid=True)
    accrue_usage(connection, tenant=tenant, period=tenant.billing_period(now), now=now)
    apply_credits(connection, tenant=tenant, period=tenant.billing_period(now), now=now)
    state_reservations(
        connection,
        tenant_id=tenant.id,
        currency="USD",
        period_start=tenant.billing_period(now).start,
        amounts={given.grant.id: Decimal(1)},
    )
    limit = require_limit(connection, tenant=tenant, name=CREDIT, currency_code="USD", now=now)
    take_hold(
        connection,
        hold_id=mint_id(now),
        limit=limit,
        amount=Decimal(1),
        expires_at=now + timedelta(hours=1),
        now=now,
    )
    set_top_up_policy(connection, tenant=tenant, currency_code="USD", policy=POLICY, now=now)
    consider_top_up(connection, tenant=tenant, currency_code="USD", now=now)
    [requested] = list_top_ups(connection, tenant=tenant, currency_code="USD")
    decline_top_up(connection, top_up_id=requested.id, now=now)
