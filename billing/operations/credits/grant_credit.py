"""Grant credit and take it back, each with its postings in the same transaction.

Decides who may be granted what, once per idempotency key. Keys come from the caller or from what
the grant is about, never from the time: two real purchases in one minute are two grants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import (
    ANYTHING,
    CreditGrant,
    CreditScope,
    GrantKind,
    Rollover,
    TaxedAt,
)
from billing.ledger.credit_template import credits_bought, credits_paid_back
from billing.ledger.posting import Posting, Transaction
from billing.ledger.template import Books
from billing.money import currency, from_minor, to_minor
from billing.operations.minting import mint_id
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import local_midnight, zone
from billing.store import credits as store
from billing.store import holds as hold_store
from billing.store import leases, ledger, reservations
from billing.store.credits import GrantRow
from billing.tenancy.tenant import Tenant

_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
"""Ours have a slash, so that no caller's key can be one of them."""

SOURCE_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """What is asked for; see `CreditGrant` for the members.

    Attributes:
        cost_basis: None: paid credit cost what it is worth.
        starts_at: None: now.
        expires_at: an instant, or a date: the midnight in the tenant's zone that begins it; None:
            never, and a recurring grant at the end of its billing period.
    """

    currency: str
    amount: Decimal
    kind: GrantKind
    taxed_at: TaxedAt | None = None
    paid_from: AccountCode | None = None
    cost_basis: Decimal | None = None
    counts_toward_commitment: bool = False
    priority: int = 100
    starts_at: datetime | None = None
    expires_at: datetime | date | None = None
    scope: CreditScope = field(default=ANYTHING)
    rollover: Rollover | None = None
    recurs: bool = False
    source: str


def grant_credit(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    terms: GrantTerms,
    idempotency_key: str,
    now: datetime,
) -> GrantRow:
    """Grant credit; the same key and terms give the grant that was made (L3).

    Raises:
        InvalidInput: terms that do not fit together.
        IdempotencyConflict: the key was used with other terms.
    """
    if _KEY.fullmatch(idempotency_key) is None:
        raise InvalidInput(
            "not a key", field="idempotency_key", remedy="use letters, digits and _ . : -"
        )
    found = store.grant_by_key(connection, tenant_id=tenant.id, key=idempotency_key)
    wanted = _grant(connection, tenant, terms, key=idempotency_key, found=found, now=now)
    if found is None:
        if store_grant(connection, wanted, now=now):
            return require_grant(connection, wanted.id)
        # Another caller was first with this key; what it granted is judged as any earlier grant.
        found = store.grant_by_key(connection, tenant_id=tenant.id, key=idempotency_key)
        assert found is not None
        wanted = _grant(connection, tenant, terms, key=idempotency_key, found=found, now=now)
    if replace(wanted, id=found.grant.id) != found.grant:
        raise IdempotencyConflict(
            "this idempotency key was used for another grant",
            field="idempotency_key",
            remedy="use a new key, or send the same grant again",
        )
    return found


def store_grant(connection: sa.Connection, grant: CreditGrant, *, now: datetime) -> bool:
    """Store a grant, its first event and, for money received, its posting; False if it exists."""
    if not store.insert_grant(connection, grant, now=now):
        return False
    store.insert_event(
        connection,
        event_id=mint_id(now),
        grant=grant,
        kind="granted",
        amount=grant.amount,
        idempotency_key="granted",
        now=now,
    )
    leases.tell_credit_changed(connection, tenant_id=grant.tenant_id, currency=grant.currency)
    if grant.rolled_from is None and grant.paid_from is not None:
        bought = credits_bought(books_of(grant), amount=grant.cost_basis, paid_from=grant.paid_from)
        post_credit(connection, grant, "credits_bought", bought, effective_at=now, now=now)
    return True


def void_grant(connection: sa.Connection, *, grant_id: UUID, now: datetime) -> GrantRow:
    """Take back what remains of a grant; what was paid for it is owed no more, and a series ends.

    Raises:
        NotFound: no such grant.
        Conflict: nothing remains of it, or running requests or usage not invoiced yet hold it.
    """
    grant = require_grant(connection, grant_id).grant
    locked = hold_store.lock_credits(connection, [grant.tenant_id])
    row = require_grant(connection, grant_id)
    remaining = row.remaining
    ends_series = (
        grant.recurs and grant.series is None and not store.was_voided(connection, grant_id)
    )
    if not remaining and not ends_series:
        raise Conflict("nothing remains of this grant", field="grant", remedy="see its events")
    if grant_id in reservations.reserved(connection, tenant_id=grant.tenant_id):
        raise Conflict(
            "usage that is not invoiced yet has taken this credit",
            field="grant",
            remedy="issue the invoice first",
        )
    _require_not_held(connection, grant, remaining, locked[grant.tenant_id, grant.currency], now)
    store.insert_event(
        connection,
        event_id=mint_id(now),
        grant=grant,
        kind="voided",
        amount=remaining,
        idempotency_key=f"voided/{row.version}",
        now=now,
    )
    leases.tell_credit_changed(connection, tenant_id=grant.tenant_id, currency=grant.currency)
    released = grant.released(before=remaining, after=Decimal(0))
    if released and grant.paid_from is not None:
        back = credits_paid_back(books_of(grant), amount=released, paid_from=grant.paid_from)
        post_credit(
            connection,
            grant,
            "credits_paid_back",
            back,
            effective_at=now,
            now=now,
            part=f"{row.version}",
        )
    return require_grant(connection, grant_id)


def require_grant(connection: sa.Connection, grant_id: UUID) -> GrantRow:
    """The grant with this id.

    Raises:
        NotFound: there is none.
    """
    found = store.grant_by_id(connection, grant_id)
    if found is None:
        raise NotFound("no such grant", field="grant", remedy="see `steelyard credit list`")
    return found


def books_of(grant: CreditGrant) -> Books:
    """Whose accounts a grant's postings move."""
    return Books(
        legal_entity_id=grant.legal_entity_id, tenant_id=grant.tenant_id, currency=grant.currency
    )


def post_credit(
    connection: sa.Connection,
    grant: CreditGrant,
    kind: str,
    postings: tuple[Posting, ...],
    *,
    effective_at: datetime,
    now: datetime,
    part: str = "",
) -> None:
    """Post what happened to a grant, once per kind and part."""
    ledger.post(
        connection,
        Transaction(
            id=mint_id(now),
            legal_entity_id=grant.legal_entity_id,
            tenant_id=grant.tenant_id,
            kind=kind,
            idempotency_key=f"credit/{grant.id}/{kind}/{part}",
            effective_at=effective_at,
            postings=postings,
            reference=f"credit {grant.id}",
        ),
        now=now,
    )


def _grant(
    connection: sa.Connection,
    tenant: Tenant,
    terms: GrantTerms,
    *,
    key: str,
    found: GrantRow | None,
    now: datetime,
) -> CreditGrant:
    """The grant that terms ask for. A begin left open is that of the grant made before, if any."""
    starts_at = terms.starts_at or (found.grant.starts_at if found else now)
    source = terms.source.strip()
    if not source or len(source) > SOURCE_CHARS_MAX or not source.isprintable():
        raise InvalidInput(
            "empty, overlong or unprintable text",
            field="source",
            remedy=f"use 1 to {SOURCE_CHARS_MAX} printable characters",
        )
    if terms.recurs and terms.kind is GrantKind.PAID:
        raise InvalidInput(
            "paid credit does not recur", field="recurs", remedy="set an automatic top-up"
        )
    cost = terms.cost_basis
    if cost is None:
        cost = terms.amount if terms.kind is GrantKind.PAID else Decimal(0)
    _require_payable(cost, terms)
    return CreditGrant(
        id=mint_id(now),
        tenant_id=tenant.id,
        legal_entity_id=require_legal_entity(connection, tenant.legal_entity).id,
        currency=terms.currency,
        amount=terms.amount,
        kind=terms.kind,
        taxed_at=terms.taxed_at,
        paid_from=terms.paid_from,
        cost_basis=cost,
        counts_toward_commitment=terms.counts_toward_commitment,
        priority=terms.priority,
        starts_at=starts_at,
        expires_at=_expiry(tenant, terms, starts_at),
        scope=terms.scope,
        rollover=terms.rollover,
        recurs=terms.recurs,
        source=source,
        idempotency_key=key,
    )


def _require_payable(cost: Decimal, terms: GrantTerms) -> None:
    in_currency = currency(terms.currency)
    if terms.kind is not GrantKind.PAID:
        return
    if not 0 < cost <= terms.amount or from_minor(to_minor(cost, in_currency), in_currency) != cost:
        raise InvalidInput(
            "not money that was paid for this amount",
            field="cost_basis",
            remedy="use whole minor units, above zero and at most the amount",
        )


def _expiry(tenant: Tenant, terms: GrantTerms, starts_at: datetime) -> datetime | None:
    match terms.expires_at:
        case datetime() as instant:
            expires_at = instant
        case date() as day:
            expires_at = local_midnight(day, zone(tenant.zone))
        case None:
            return tenant.billing_period(starts_at).end if terms.recurs else None
    if terms.recurs and expires_at != tenant.billing_period(starts_at).end:
        raise InvalidInput(
            "a recurring grant expires with its billing period",
            field="expires_at",
            remedy="leave it out",
        )
    return expires_at


def _require_not_held(
    connection: sa.Connection,
    grant: CreditGrant,
    remaining: Decimal,
    limit_id: int,
    now: datetime,
) -> None:
    backs_holds = grant.scope.is_everything and grant.starts_at <= now
    if not backs_holds or (grant.expires_at is not None and grant.expires_at <= now):
        return
    hold_store.expire_on(connection, limit_id, now=now)
    available, _, _ = hold_store.credit_standing(connection, limit_id, now=now)
    if available < remaining:
        raise Conflict(
            "running requests hold this credit", field="grant", remedy="try again when they end"
        )
