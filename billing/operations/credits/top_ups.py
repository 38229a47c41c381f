"""Automatic top-ups: set the policy, decide on a request, record how it ended.

A request is a row that waits for its payment. The burst limit is exact however many ask at once:
each decision is taken under the lock of the tenant's credit.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import GrantKind, TaxedAt
from billing.ledger.hold import CREDIT
from billing.ledger.top_up import TopUp, TopUpAnswer, TopUpPolicy, consider
from billing.money import currency
from billing.operations.credits.grant_credit import GrantTerms, grant_credit
from billing.operations.minting import mint_id
from billing.store import holds as hold_store
from billing.store import tenancy
from billing.store import top_ups as store
from billing.store.credits import GrantRow
from billing.tenancy.tenant import Tenant


def set_top_up_policy(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    currency_code: str,
    policy: TopUpPolicy,
    now: datetime,
) -> None:
    """Set a tenant's top-up policy in a currency, from now on."""
    currency(currency_code)
    hold_store.ensure_credit(connection, tenant_id=tenant.id, currency=currency_code)
    hold_store.lock_credits(connection, [tenant.id])
    store.insert_policy(connection, policy, tenant_id=tenant.id, currency=currency_code, now=now)


def show_top_up_policy(
    connection: sa.Connection, *, tenant: Tenant, currency_code: str
) -> TopUpPolicy:
    """The policy in force.

    Raises:
        NotFound: the tenant has none in this currency.
    """
    stored = store.policy(connection, tenant_id=tenant.id, currency=currency_code)
    if stored is None:
        raise NotFound(
            "no top-up policy in this currency", field="currency", remedy="set a policy first"
        )
    return stored.policy


def list_policies(connection: sa.Connection) -> list[tuple[Tenant, str]]:
    """Whose credit is topped up by a policy, and in which currency."""
    return [
        (tenancy.tenant_by_id(connection, tenant_id), code)
        for tenant_id, code in store.policy_owners(connection)
    ]


def consider_top_up(
    connection: sa.Connection, *, tenant: Tenant, currency_code: str, now: datetime
) -> TopUpAnswer:
    """Request a top-up if the policy says so.

    Raises:
        NotFound: the tenant has no policy in this currency.
    """
    hold_store.lock_credits(connection, [tenant.id])
    stored = store.policy(connection, tenant_id=tenant.id, currency=currency_code)
    credit = hold_store.limit(
        connection, tenant_id=tenant.id, name=CREDIT, currency=currency_code, now=now
    )
    if stored is None or credit is None:
        raise NotFound(
            "no top-up policy in this currency",
            field="currency",
            remedy="set a policy first",
        )
    recent = store.top_ups(connection, tenant_id=tenant.id, currency=currency_code)
    answer = consider(stored.policy, available=credit.available, recent=recent, now=now)
    if answer is TopUpAnswer.REQUESTED:
        store.insert_top_up(
            connection,
            stored,
            top_up_id=mint_id(now),
            tenant_id=tenant.id,
            currency=currency_code,
            now=now,
        )
    return answer


def pay_top_up(
    connection: sa.Connection,
    *,
    top_up_id: UUID,
    taxed_at: TaxedAt,
    paid_from: AccountCode,
    now: datetime,
) -> GrantRow:
    """Grant a requested top-up whose money was received.

    Raises:
        NotFound: no such top-up.
        Conflict: it was declined before. Paid before: the grant that was made (L3).
    """
    owner = store.top_up_owner(connection, top_up_id)
    if owner is None:
        raise NotFound("no such top-up", field="top_up", remedy="list the tenant's top-ups")
    tenant_id, currency_code, amount = owner
    granted = grant_credit(
        connection,
        tenant=tenancy.tenant_by_id(connection, tenant_id),
        terms=GrantTerms(
            currency=currency_code,
            amount=amount,
            kind=GrantKind.PAID,
            taxed_at=taxed_at,
            paid_from=paid_from,
            source="automatic top-up",
        ),
        idempotency_key=f"top-up:{top_up_id}",
        now=now,
    )
    _resolve(connection, top_up_id, granted.grant.id, now)
    return granted


def decline_top_up(connection: sa.Connection, *, top_up_id: UUID, now: datetime) -> None:
    """Record that a top-up could not be collected; the policy's cool-down begins.

    Raises:
        NotFound: no such top-up.
        Conflict: it was paid before. Declined before: nothing changes (L3).
    """
    if store.top_up_owner(connection, top_up_id) is None:
        raise NotFound("no such top-up", field="top_up", remedy="list the tenant's top-ups")
    _resolve(connection, top_up_id, None, now)


def list_top_ups(connection: sa.Connection, *, tenant: Tenant, currency_code: str) -> list[TopUp]:
    """A tenant's top-ups in a currency, newest first."""
    return store.top_ups(connection, tenant_id=tenant.id, currency=currency_code)


def _resolve(
    connection: sa.Connection, top_up_id: UUID, grant_id: UUID | None, now: datetime
) -> None:
    if store.resolve_top_up(connection, top_up_id, grant_id=grant_id, now=now):
        return
    if store.paid_by(connection, top_up_id) != grant_id:
        raise Conflict(
            "this top-up was paid or declined before", field="top_up", remedy="see its grant"
        )
