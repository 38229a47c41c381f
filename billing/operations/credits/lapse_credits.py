"""Expire grants, roll over what their rule lets go on, and grant again what recurs.

Meant to run often: each step has a key made of what it is about, so that a step repeated or run by
two workers happens once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from billing.errors import InvalidInput
from billing.ledger.account import AccountCode
from billing.ledger.breakage import BREAKS_INTO, lapse
from billing.ledger.credit_grant import CreditGrant, CreditLot
from billing.ledger.credit_template import credits_broken
from billing.money import EXACT
from billing.operations.credits.grant_credit import (
    books_of,
    post_credit,
    require_grant,
    store_grant,
)
from billing.operations.minting import mint_id
from billing.store import credits as store
from billing.store import holds as hold_store
from billing.store import reservations, tenancy
from billing.store.credits import GrantRow


def expire_grants(
    connection: sa.Connection,
    *,
    now: datetime,
    into: AccountCode = AccountCode.BREAKAGE,
    grace_ms: int = 0,
) -> list[GrantRow]:
    """Expire what is left of grants past their end; the grants that were expired now.

    Args:
        into: breakage revenue, or unclaimed property where the law demands it.
        grace_ms: how long after its end a grant may still pay usage of days before it, because
            that usage is accrued late.
    """
    if into not in BREAKS_INTO:
        raise InvalidInput(
            "not an account of unused credit",
            field="into",
            remedy=f"use {' or '.join(code.value for code in BREAKS_INTO)}",
        )
    expired: list[GrantRow] = []
    due = now - timedelta(milliseconds=grace_ms)
    tenant_ids = {row.grant.tenant_id for row in store.lapsed(connection, before=due)}
    hold_store.lock_credits(connection, tenant_ids)
    # Until none is left: what rolls over late may roll into a span that is past as well, and runs
    # that race must end as runs in turn do.
    while found := _expire_due(connection, tenant_ids, due, into=into, now=now):
        expired += found
    return expired


def _expire_due(
    connection: sa.Connection,
    tenant_ids: Collection[int],
    due: datetime,
    *,
    into: AccountCode,
    now: datetime,
) -> list[GrantRow]:
    """Expire what is due of tenants whose credit is locked; what others have by now waits."""
    expired: list[GrantRow] = []
    for row in store.lapsed(connection, before=due):
        grant = row.grant
        if grant.tenant_id not in tenant_ids:
            continue
        # What usage before its end has taken stays until the invoice redeems it.
        taken = reservations.reserved(connection, tenant_id=grant.tenant_id)
        free = EXACT.subtract(row.remaining, taken.get(grant.id, Decimal(0)))
        if free:
            _expire(connection, row, free, into, now)
            expired.append(require_grant(connection, grant.id))
    return expired


def issue_recurring(connection: sa.Connection, *, now: datetime) -> list[CreditGrant]:
    """Grant every series again for each billing period that has begun; the new grants."""
    issued: list[CreditGrant] = []
    for head in store.recurring(connection):
        tenant = tenancy.tenant_by_id(connection, head.tenant_id)
        period = tenant.billing_period(tenant.billing_period(head.starts_at).end)
        while period.start <= now:
            following = replace(
                head,
                id=mint_id(now),
                starts_at=period.start,
                expires_at=period.end,
                series=head.id,
                idempotency_key=f"recurring/{head.id}/{period.start:%Y%m%dT%H%M}",
            )
            if store_grant(connection, following, now=now):
                issued.append(following)
            period = tenant.billing_period(period.end)
    return issued


def _expire(
    connection: sa.Connection, row: GrantRow, free: Decimal, into: AccountCode, now: datetime
) -> None:
    grant, rest = row.grant, lapse(_lot(connection, row, free))
    kept = EXACT.subtract(row.remaining, rest.rolled)
    if rest.rolled:
        _append(connection, row, "rolled_over", rest.rolled, now)
        onward = grant.released(before=row.remaining, after=kept)
        rolled = _rolled(connection, grant, amount=rest.rolled, cost_basis=onward, now=now)
        store_grant(connection, rolled, now=now)
    if rest.broken:
        _append(connection, row, "expired", rest.broken, now)
        broken = grant.released(before=kept, after=EXACT.subtract(kept, rest.broken))
        if broken:
            postings = credits_broken(books_of(grant), amount=broken, into=into)
            post_credit(
                connection,
                grant,
                "credits_broken",
                postings,
                effective_at=now,
                now=now,
                part=f"{row.version}",
            )


def _lot(connection: sa.Connection, row: GrantRow, free: Decimal) -> CreditLot:
    """What lapses of a grant; what comes back to one that rolled over once rolls no more."""
    rolled_before = store.grant_by_key(
        connection, tenant_id=row.grant.tenant_id, key=_rolled_key(row.grant)
    )
    grant = row.grant if rolled_before is None else replace(row.grant, rollover=None)
    return CreditLot(grant=grant, remaining=free)


def _append(
    connection: sa.Connection,
    row: GrantRow,
    kind: str,
    amount: Decimal,
    now: datetime,
) -> None:
    store.insert_event(
        connection,
        event_id=mint_id(now),
        grant=row.grant,
        kind=kind,
        amount=amount,
        idempotency_key=f"{kind}/{row.version}",
        now=now,
    )


def _rolled_key(grant: CreditGrant) -> str:
    return f"rolled/{grant.id}"


def _rolled(
    connection: sa.Connection,
    grant: CreditGrant,
    *,
    amount: Decimal,
    cost_basis: Decimal,
    now: datetime,
) -> CreditGrant:
    """The grant that goes on: as long as the one before, a recurring one for a billing period."""
    assert grant.expires_at is not None
    if grant.recurs:
        tenant = tenancy.tenant_by_id(connection, grant.tenant_id)
        ends = tenant.billing_period(grant.expires_at).end
    else:
        ends = grant.expires_at + (grant.expires_at - grant.starts_at)
    return replace(
        grant,
        id=mint_id(now),
        amount=amount,
        cost_basis=cost_basis,
        starts_at=grant.expires_at,
        expires_at=ends,
        rollover=None,
        recurs=False,
        series=None,
        rolled_from=grant.id,
        idempotency_key=_rolled_key(grant),
    )
