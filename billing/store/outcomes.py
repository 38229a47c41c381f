"""Tables outcome_definition, outcome_claim, outcome_transition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.outcomes.claim import Actor, Claim, ClaimState
from billing.store.database import first, members, only, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionRow:
    """The newest version of an outcome definition."""

    id: int
    slug: str
    version: int
    name: str
    meter_version_id: int


def insert_definition(
    connection: sa.Connection, *, slug: str, name: str, meter_version_id: int, now: datetime
) -> None:
    """Add version 1 of a definition; does nothing if the slug exists."""
    run(
        connection,
        "INSERT INTO outcome_definition (slug, version, name, meter_version_id, created_at) "
        "VALUES (:slug, 1, :name, :meter, :now) ON CONFLICT (slug, version) DO NOTHING",
        slug=slug,
        name=name,
        meter=meter_version_id,
        now=now,
    )


def definition(connection: sa.Connection, slug: str) -> DefinitionRow | None:
    """The newest version of a definition."""
    row = first(
        connection,
        "SELECT id, slug, version, name, meter_version_id FROM outcome_definition "
        "WHERE slug = :slug ORDER BY version DESC LIMIT 1",
        slug=slug,
    )
    return None if row is None else DefinitionRow(**members(row))


_CLAIM = """
SELECT c.id, t.slug AS tenant, c.outcome, c.subject, l.to_state AS state,
       (SELECT min(at) FROM outcome_transition WHERE claim_id = c.id) AS reported_at,
       (SELECT max(at) FROM outcome_transition WHERE claim_id = c.id AND to_state = 'confirmed')
           AS confirmed_at,
       (SELECT usage_event_id FROM outcome_transition
         WHERE claim_id = c.id AND usage_event_id IS NOT NULL) AS usage_event_id
  FROM outcome_claim c JOIN tenant t ON t.id = c.tenant_id
  JOIN LATERAL (SELECT to_state FROM outcome_transition WHERE claim_id = c.id
                 ORDER BY ordinal DESC LIMIT 1) l ON true
"""


def insert_claim(
    connection: sa.Connection,
    *,
    claim_id: UUID,
    tenant_id: int,
    definition_row: DefinitionRow,
    subject: str,
    occurred_at: datetime,
) -> bool:
    """Add a claim; False if this outcome was claimed for this subject before (O2)."""
    row = first(
        connection,
        "INSERT INTO outcome_claim (id, tenant_id, definition_id, outcome, subject, occurred_at) "
        "VALUES (:id, :tenant, :definition, :outcome, :subject, :at) "
        "ON CONFLICT (tenant_id, outcome, subject) DO NOTHING RETURNING id",
        id=claim_id,
        tenant=tenant_id,
        definition=definition_row.id,
        outcome=definition_row.slug,
        subject=subject,
        at=occurred_at,
    )
    return row is not None


def append_transition(
    connection: sa.Connection,
    *,
    claim_id: UUID,
    tenant_id: int,
    from_state: ClaimState | None,
    to_state: ClaimState,
    actor: Actor,
    key_id: int,
    usage_event_id: UUID | None,
    now: datetime,
) -> None:
    """Append to a claim's log; the primary key refuses a second writer of the same place."""
    run(
        connection,
        "INSERT INTO outcome_transition (claim_id, ordinal, tenant_id, from_state, to_state, "
        "actor, key_id, at, usage_event_id) VALUES (:claim, (SELECT coalesce(max(ordinal), 0) + 1 "
        "FROM outcome_transition WHERE claim_id = :claim), :tenant, :from, :to, :actor, :key, "
        ":now, :event)",
        **{
            "claim": claim_id,
            "tenant": tenant_id,
            "from": from_state.value if from_state else None,
            "to": to_state.value,
            "actor": actor.value,
            "key": key_id,
            "now": now,
            "event": usage_event_id,
        },
    )


def lock_claim(connection: sa.Connection, claim_id: UUID) -> None:
    """Let nobody else move this claim until commit."""
    run(
        connection,
        "SELECT pg_advisory_xact_lock(hashtextextended(CAST(:claim AS text), 0))",
        claim=str(claim_id),
    )


def claim(connection: sa.Connection, claim_id: UUID, *, tenant_id: int | None) -> Claim | None:
    """A claim of one tenant, or of anybody if None."""
    row = first(
        connection,
        f"{_CLAIM} WHERE c.id = :id AND (CAST(:tenant AS integer) IS NULL "
        "OR c.tenant_id = :tenant)",
        id=claim_id,
        tenant=tenant_id,
    )
    return None if row is None else Claim(**members(row, state=ClaimState(row.state)))


def claim_of(
    connection: sa.Connection, *, tenant_id: int, outcome: str, subject: str
) -> Claim | None:
    """The claim of an outcome for a subject."""
    row = first(
        connection,
        f"{_CLAIM} WHERE c.tenant_id = :tenant AND c.outcome = :outcome AND c.subject = :subject",
        tenant=tenant_id,
        outcome=outcome,
        subject=subject,
    )
    return None if row is None else Claim(**members(row, state=ClaimState(row.state)))


def meter_version_of(connection: sa.Connection, claim_id: UUID) -> int:
    """The meter version that counts a claim's outcome."""
    return only(
        connection,
        "SELECT d.meter_version_id FROM outcome_claim c "
        "JOIN outcome_definition d ON d.id = c.definition_id WHERE c.id = :id",
        id=claim_id,
    ).meter_version_id


def claims(connection: sa.Connection, *, tenant_id: int | None, limit: int) -> list[Claim]:
    """Claims of one tenant, or of everybody if None, newest first."""
    rows = query(
        connection,
        f"{_CLAIM} WHERE CAST(:tenant AS integer) IS NULL OR c.tenant_id = :tenant "
        "ORDER BY reported_at DESC, c.id LIMIT :limit",
        tenant=tenant_id,
        limit=limit,
    )
    return [Claim(**members(row, state=ClaimState(row.state))) for row in rows]
