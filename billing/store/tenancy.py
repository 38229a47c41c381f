"""Tables legal_entity, number_series, tenant, project, api_key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billing.store.database import first, members, only, query, run
from billing.tenancy.api_key import ApiKey, Role
from billing.tenancy.tenant import LegalEntity, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key with the rows that it belongs to; `tenant_id` is None for the operator's keys."""

    id: int
    digest: bytes
    tenant_id: int | None
    project_id: int | None
    role: Role
    expires_at: datetime | None


def insert_legal_entity(
    connection: sa.Connection,
    *,
    slug: str,
    name: str,
    country: str,
    currency: str,
    zone: str,
    invoice_prefix: str,
    now: datetime,
) -> None:
    """Add a legal entity with its invoice number series; does nothing if the slug exists."""
    row = first(
        connection,
        "INSERT INTO legal_entity (slug, name, country, currency, zone, created_at) "
        "VALUES (:slug, :name, :country, :currency, :zone, :now) "
        "ON CONFLICT (slug) DO NOTHING RETURNING id",
        slug=slug,
        name=name,
        country=country,
        currency=currency,
        zone=zone,
        now=now,
    )
    if row is not None:
        run(
            connection,
            "INSERT INTO number_series (legal_entity_id, kind, prefix) "
            "VALUES (:entity, 'invoice', :prefix)",
            entity=row.id,
            prefix=invoice_prefix,
        )


_ENTITY = "SELECT id, slug, name, country, currency, zone FROM legal_entity"


def legal_entity(connection: sa.Connection, slug: str) -> LegalEntity | None:
    """The legal entity with this slug."""
    row = first(connection, f"{_ENTITY} WHERE slug = :slug", slug=slug)
    return None if row is None else LegalEntity(**members(row))


def legal_entities(connection: sa.Connection) -> list[LegalEntity]:
    """All legal entities, oldest first."""
    return [LegalEntity(**members(row)) for row in query(connection, f"{_ENTITY} ORDER BY id")]


def next_number(connection: sa.Connection, legal_entity_id: int, kind: str) -> tuple[str, int]:
    """Take the next number of a series: (prefix, number).

    The row stays locked until commit, so numbers have no gaps: a rolled-back issue gives its
    number back.
    """
    row = only(
        connection,
        "UPDATE number_series SET next_number = next_number + 1 "
        "WHERE legal_entity_id = :entity AND kind = :kind "
        "RETURNING prefix, next_number - 1 AS number",
        entity=legal_entity_id,
        kind=kind,
    )
    return row.prefix, row.number


def insert_tenant(
    connection: sa.Connection,
    *,
    slug: str,
    name: str,
    legal_entity_id: int,
    zone: str,
    anchor_day: int,
    project: str,
    now: datetime,
) -> bool:
    """Add a tenant with its first project; False if the slug is taken."""
    row = first(
        connection,
        "INSERT INTO tenant (slug, name, legal_entity_id, zone, anchor_day, created_at) "
        "VALUES (:slug, :name, :entity, :zone, :anchor, :now) "
        "ON CONFLICT (slug) DO NOTHING RETURNING id",
        slug=slug,
        name=name,
        entity=legal_entity_id,
        zone=zone,
        anchor=anchor_day,
        now=now,
    )
    if row is None:
        return False
    run(
        connection,
        "INSERT INTO project (tenant_id, slug, created_at) VALUES (:tenant, :slug, :now)",
        tenant=row.id,
        slug=project,
        now=now,
    )
    return True


_TENANT = (
    "SELECT t.id, t.slug, t.name, e.slug AS legal_entity, t.zone, t.anchor_day "
    "FROM tenant t JOIN legal_entity e ON e.id = t.legal_entity_id"
)


def tenant(connection: sa.Connection, slug: str) -> Tenant | None:
    """The tenant with this slug."""
    row = first(connection, f"{_TENANT} WHERE t.slug = :slug", slug=slug)
    return None if row is None else Tenant(**members(row))


def tenant_by_id(connection: sa.Connection, tenant_id: int) -> Tenant:
    """The tenant with this row id."""
    return Tenant(**members(only(connection, f"{_TENANT} WHERE t.id = :id", id=tenant_id)))


def tenants_by_id(connection: sa.Connection, tenant_ids: Sequence[int]) -> list[Tenant]:
    """The tenants with these row ids, by id."""
    rows = query(
        connection,
        f"{_TENANT} WHERE t.id = ANY(CAST(:ids AS integer[])) ORDER BY t.id",
        ids=list(tenant_ids),
    )
    return [Tenant(**members(row)) for row in rows]


def tenants(connection: sa.Connection) -> list[Tenant]:
    """All tenants by slug."""
    return [Tenant(**members(row)) for row in query(connection, f"{_TENANT} ORDER BY t.slug")]


def projects(connection: sa.Connection, tenant_id: int) -> dict[str, int]:
    """Project ids of a tenant by slug."""
    rows = query(
        connection, "SELECT slug, id FROM project WHERE tenant_id = :tenant", tenant=tenant_id
    )
    return {row.slug: row.id for row in rows}


def insert_key(
    connection: sa.Connection,
    *,
    tenant_id: int | None,
    project_id: int | None,
    role: Role,
    public: str,
    digest: bytes,
    name: str,
    expires_at: datetime | None,
    now: datetime,
) -> int:
    """Add a key; its row id."""
    return only(
        connection,
        "INSERT INTO api_key (tenant_id, project_id, role, public, digest, name, created_at, "
        "expires_at) VALUES (:tenant, :project, :role, :public, :digest, :name, :now, :expires) "
        "RETURNING id",
        tenant=tenant_id,
        project=project_id,
        role=role.value,
        public=public,
        digest=digest,
        name=name,
        now=now,
        expires=expires_at,
    ).id


def keys(connection: sa.Connection, *, tenant_id: int | None) -> list[ApiKey]:
    """Keys of one tenant, or of everybody if None, oldest first."""
    rows = query(
        connection,
        "SELECT k.id, t.slug AS tenant, p.slug AS project, k.role, k.public, k.name, "
        "k.created_at, k.expires_at, k.revoked_at FROM api_key k "
        "LEFT JOIN tenant t ON t.id = k.tenant_id LEFT JOIN project p ON p.id = k.project_id "
        "WHERE CAST(:tenant AS integer) IS NULL OR k.tenant_id = :tenant ORDER BY k.id",
        tenant=tenant_id,
    )
    return [_key(row) for row in rows]


def revoke_key(
    connection: sa.Connection, key_id: int, *, tenant_id: int | None, now: datetime
) -> bool:
    """Revoke a live key of a tenant, or anybody's if None; False if there is no such live key."""
    touched = run(
        connection,
        "UPDATE api_key SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL "
        "AND (CAST(:tenant AS integer) IS NULL OR tenant_id = :tenant)",
        now=now,
        id=key_id,
        tenant=tenant_id,
    )
    return touched == 1


_LIVE = (
    "SELECT id, digest, tenant_id, project_id, role, expires_at FROM api_key "
    "WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"
)


def live_key(connection: sa.Connection, digest: bytes, *, now: datetime) -> KeyRow | None:
    """The key with this digest, unless it is revoked or expired."""
    row = first(connection, f"{_LIVE} AND digest = :digest", digest=digest, now=now)
    return None if row is None else _key_row(row)


def live_keys(connection: sa.Connection, *, now: datetime) -> Sequence[KeyRow]:
    """Every key that works now."""
    return [_key_row(row) for row in query(connection, _LIVE, now=now)]


def _key(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(**members(row, role=Role(row.role)))


def _key_row(row: sa.Row[Any]) -> KeyRow:
    return KeyRow(**members(row, role=Role(row.role), digest=bytes(row.digest)))
