"""What tenants and operators both read of credit: balances, grants, holds, statements, top-ups.

Amounts are text in major units of their currency, with the digits that the ledger keeps.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated
from uuid import UUID

import msgspec

from api.fields import ledger_text
from billing.ledger import credit_grant, top_up
from billing.ledger.hold import OpenHold, SpendLimit
from billing.money import plain
from billing.operations.credits.read_credits import CreditView, Statement
from billing.store.credits import GrantRow

CurrencyCode = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$", examples=["USD"])]
IdempotencyKey = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


class CreditBalance(msgspec.Struct, frozen=True, kw_only=True):
    """What a new request can hold (`available`), what running ones hold, what is not applied yet.

    Only credit without a scope backs requests, so scoped grants are not in it.
    """

    currency: str
    available: str
    held: str
    not_applied: str


class CreditScope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a grant may pay; null means anything."""

    meters: list[str] | None = None
    models: list[str] | None = None
    plans: list[str] | None = None


class CreditGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A grant: amount = used + expired + remaining."""

    id: UUID
    kind: credit_grant.GrantKind
    taxed_at: credit_grant.TaxedAt | None
    currency: str
    amount: str
    used: str
    expired: str
    remaining: str
    priority: int
    counts_toward_commitment: bool
    starts_at: datetime
    expires_at: datetime | None
    recurs: bool
    scope: CreditScope
    source: str


class CreditHold(msgspec.Struct, frozen=True, kw_only=True):
    """An amount set aside for a running request, on credit or on another limit."""

    id: UUID
    limit: str
    currency: str
    amount: str
    expires_at: datetime


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's credit as it stands."""

    balances: list[CreditBalance]
    grants: list[CreditGrant]
    holds: list[CreditHold]


class CreditMovement(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a grant; above zero adds to the credit.

    `line`, `day`: what usage it paid or came back from; `invoice`: what it was redeemed on.
    """

    grant: UUID
    source: str
    kind: str
    amount: str
    recorded_at: datetime
    line: str | None
    day: date | None
    invoice: UUID | None


class CreditStatement(msgspec.Struct, frozen=True, kw_only=True):
    """All of a tenant's credit over a period: opening plus movements is closing."""

    currency: str
    period_start: datetime
    period_end: datetime
    opening: str
    movements: list[CreditMovement]
    closing: str


class TopUpPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When credit is topped up, by how much, and how often at most."""

    currency: str
    threshold: str
    amount: str
    window_ms: int
    count_max: int
    amount_max: str
    cool_down_ms: int


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """A top-up that was requested; paid once its money was received."""

    id: UUID
    amount: str
    state: top_up.TopUpState
    requested_at: datetime
    resolved_at: datetime | None


class TopUps(msgspec.Struct, frozen=True, kw_only=True):
    """The policy in force, and the top-ups that it requested, newest first."""

    policy: TopUpPolicy
    top_ups: list[TopUp]


def show_credit(view: CreditView) -> Credit:
    """A tenant's credit."""
    return Credit(
        balances=[_balance(each) for each in view.balances],
        grants=[show_grant(row) for row in view.grants],
        holds=[_hold(each) for each in view.holds],
    )


def show_grant(row: GrantRow) -> CreditGrant:
    """A grant with its balance."""
    grant = row.grant
    return CreditGrant(
        id=grant.id,
        kind=grant.kind,
        taxed_at=grant.taxed_at,
        currency=grant.currency,
        amount=ledger_text(grant.amount),
        used=ledger_text(row.used),
        expired=ledger_text(row.expired),
        remaining=ledger_text(row.remaining),
        priority=grant.priority,
        counts_toward_commitment=grant.counts_toward_commitment,
        starts_at=grant.starts_at,
        expires_at=grant.expires_at,
        recurs=grant.recurs,
        scope=CreditScope(
            meters=_listed(grant.scope.meters),
            models=_listed(grant.scope.models),
            plans=_listed(grant.scope.plans),
        ),
        source=grant.source,
    )


def show_statement(statement: Statement) -> CreditStatement:
    """A statement of credit."""
    return CreditStatement(
        currency=statement.currency,
        period_start=statement.period.start,
        period_end=statement.period.end,
        opening=ledger_text(statement.opening),
        movements=[
            CreditMovement(
                grant=row.grant_id,
                source=row.source,
                kind=row.kind,
                amount=ledger_text(row.amount),
                recorded_at=row.recorded_at,
                line=row.line_key,
                day=row.day,
                invoice=row.invoice_id,
            )
            for row in statement.movements
        ],
        closing=ledger_text(statement.closing),
    )


def show_top_ups(policy: top_up.TopUpPolicy, rows: list[top_up.TopUp], currency: str) -> TopUps:
    """A policy and what it requested."""
    return TopUps(
        policy=TopUpPolicy(
            currency=currency,
            threshold=plain(policy.threshold),
            amount=plain(policy.amount),
            window_ms=policy.window_ms,
            count_max=policy.count_max,
            amount_max=plain(policy.amount_max),
            cool_down_ms=policy.cool_down_ms,
        ),
        top_ups=[
            TopUp(
                id=row.id,
                amount=ledger_text(row.amount),
                state=row.state,
                requested_at=row.requested_at,
                resolved_at=row.resolved_at,
            )
            for row in rows
        ],
    )


def _balance(limit: SpendLimit) -> CreditBalance:
    return CreditBalance(
        currency=limit.currency,
        available=ledger_text(limit.available),
        held=ledger_text(limit.held),
        not_applied=ledger_text(limit.spent),
    )


def _hold(hold: OpenHold) -> CreditHold:
    return CreditHold(
        id=hold.id,
        limit=hold.limit,
        currency=hold.currency,
        amount=ledger_text(hold.amount),
        expires_at=hold.expires_at,
    )


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
