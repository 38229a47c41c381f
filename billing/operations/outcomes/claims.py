"""Report and confirm outcome claims.

A confirmed outcome emits its usage event in the transaction that confirms it, so that either both
exist or neither (D10), and epochs cover outcomes as they cover tokens.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound
from billing.metering.usage_event import FUTURE_TOLERANCE, Cause, EventKind, require_text
from billing.operations.catalog.contracts import price_version_at
from billing.operations.minting import mint_id
from billing.outcomes.claim import Actor, Claim, ClaimState, require_transition
from billing.period import require_utc
from billing.store import catalog
from billing.store import outcomes as store
from billing.store import tenancy as tenancy_store
from billing.store.database import Role, acting_as
from billing.store.usage import append as usage_store
from billing.store.usage.append import EventRow
from billing.tenancy.tenant import DEFAULT_PROJECT, Tenant


def report_outcome(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    outcome: str,
    subject: str,
    occurred_at: datetime,
    actor: Actor,
    key_id: int,
    now: datetime,
) -> Claim:
    """Report that an outcome happened for a subject.

    The same outcome of the same subject is one claim for ever (O2): a repetition returns it.

    Raises:
        NotFound: no such outcome definition.
        InvalidInput: an empty or overlong subject, a time in the future or without UTC.
    """
    require_text(subject, field="subject")
    if require_utc(occurred_at, field="occurred_at") > now + FUTURE_TOLERANCE:
        raise InvalidInput("lies in the future", field="occurred_at", remedy="check the clock")
    definition = store.definition(connection, outcome)
    if definition is None:
        raise NotFound(
            "no such outcome", field="outcome", remedy="apply a plan that prices it first"
        )
    require_transition(None, ClaimState.REPORTED, actor)
    claim_id = mint_id(now)
    is_new = store.insert_claim(
        connection,
        claim_id=claim_id,
        tenant_id=tenant.id,
        definition_row=definition,
        subject=subject,
        occurred_at=occurred_at,
    )
    if is_new:
        store.append_transition(
            connection,
            claim_id=claim_id,
            tenant_id=tenant.id,
            from_state=None,
            to_state=ClaimState.REPORTED,
            actor=actor,
            key_id=key_id,
            usage_event_id=None,
            now=now,
        )
    claim = store.claim_of(connection, tenant_id=tenant.id, outcome=outcome, subject=subject)
    assert claim is not None
    return claim


def confirm_outcome(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    claim_id: UUID,
    actor: Actor,
    key_id: int,
    now: datetime,
) -> Claim:
    """Confirm a claim and bill it; a confirmed claim is returned as it is.

    The usage event occurs at the confirmation: that is the fact that is billed (O3), and it never
    falls into a period that was invoiced before.

    Raises:
        NotFound: no such claim of this tenant.
        Forbidden: anybody but the tenant.
    """
    store.lock_claim(connection, claim_id)
    claim = store.claim(connection, claim_id, tenant_id=tenant.id)
    if claim is None:
        raise NotFound("no such claim", field="claim", remedy="list the claims")
    if claim.state is ClaimState.CONFIRMED and actor is Actor.TENANT:
        return claim
    require_transition(claim.state, ClaimState.CONFIRMED, actor)
    meter_version_id = store.meter_version_of(connection, claim_id)
    event_id = mint_id(now)
    store.append_transition(
        connection,
        claim_id=claim_id,
        tenant_id=tenant.id,
        from_state=claim.state,
        to_state=ClaimState.CONFIRMED,
        actor=actor,
        key_id=key_id,
        usage_event_id=event_id,
        now=now,
    )
    with acting_as(connection, Role.INGEST):
        _emit_event(connection, tenant, event_id, meter_version_id, now=now)
    confirmed = store.claim(connection, claim_id, tenant_id=tenant.id)
    assert confirmed is not None
    return confirmed


def list_claims(connection: sa.Connection, *, tenant_id: int | None, limit: int) -> list[Claim]:
    """Claims of one tenant, or of everybody if None, newest first."""
    return store.claims(connection, tenant_id=tenant_id, limit=limit)


def _emit_event(
    connection: sa.Connection,
    tenant: Tenant,
    event_id: UUID,
    meter_version_id: int,
    *,
    now: datetime,
) -> None:
    contracts = catalog.contracts(connection, tenant_id=tenant.id)
    usage_store.append(
        connection,
        [
            EventRow(
                id=event_id,
                occurred_at=now,
                tenant_id=tenant.id,
                project_id=tenancy_store.projects(connection, tenant.id)[DEFAULT_PROJECT],
                key_id=catalog.NONE,
                model_id=catalog.NONE,
                backend_id=catalog.NONE,
                price_version_id=price_version_at(
                    connection, contracts, tenant_id=tenant.id, instant=now
                ),
                meter_set_id=usage_store.ensure_meter_set(connection, [meter_version_id]),
                kind=int(EventKind.BILLED),
                cause=int(Cause.REPORTED),
                estimated=False,
                quantities=(1,),
            )
        ],
    )
