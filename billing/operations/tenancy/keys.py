"""Issue, list and revoke API keys, and tell whose key a caller holds."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound, Unauthenticated
from billing.operations.tenancy.tenants import require_tenant
from billing.store import tenancy as store
from billing.tenancy.api_key import (
    RANDOM_BITS,
    ApiKey,
    Role,
    digest,
    is_well_formed,
    key_text,
    public_part,
)
from billing.tenancy.tenant import DEFAULT_PROJECT, Tenant

KEY_NAME_CHARS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new key. `text` exists only here: it is shown once and never stored."""

    id: int
    text: str = field(repr=False)
    public: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who holds a key that works now; `tenant` is None for the operator and finance."""

    key_id: int
    role: Role
    tenant: Tenant | None


def issue_key(
    connection: sa.Connection,
    *,
    role: Role,
    tenant: str | None,
    name: str,
    project: str = DEFAULT_PROJECT,
    expires_at: datetime | None = None,
    now: datetime,
) -> IssuedKey:
    """Issue a key.

    Args:
        role: what it may do; tenant and inference keys belong to a tenant, others to none.
        tenant: slug of the tenant, or None.
        expires_at: first instant at which it no longer works; None: until revoked.

    Raises:
        InvalidInput: role and tenant do not fit, an expiry in the past, a bad name.
        NotFound: no such tenant or project.
    """
    if role.belongs_to_tenant != (tenant is not None):
        raise InvalidInput(
            "role and tenant do not fit",
            field="role",
            remedy="tenant and inference keys name a tenant; operator and finance keys name none",
        )
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("already expired", field="expires_at", remedy="choose a later time")
    if len(name) > KEY_NAME_CHARS_MAX or not (name.isprintable() or name == ""):
        raise InvalidInput("overlong or unprintable name", field="name", remedy="shorten it")
    tenant_id, project_id = _owner(connection, tenant, project)
    text = key_text(secrets.randbits(RANDOM_BITS))
    key_id = store.insert_key(
        connection,
        tenant_id=tenant_id,
        project_id=project_id,
        role=role,
        public=public_part(text),
        digest=digest(text),
        name=name,
        expires_at=expires_at,
        now=now,
    )
    return IssuedKey(id=key_id, text=text, public=public_part(text), role=role)


def list_keys(connection: sa.Connection, *, tenant_id: int | None) -> list[ApiKey]:
    """Keys of one tenant, or of everybody if None; never their secrets."""
    return store.keys(connection, tenant_id=tenant_id)


def revoke_key(
    connection: sa.Connection, key_id: int, *, tenant_id: int | None, now: datetime
) -> None:
    """Revoke a key; proxies refuse it in less than a second.

    Raises:
        NotFound: no such live key, or another tenant's.
    """
    if not store.revoke_key(connection, key_id, tenant_id=tenant_id, now=now):
        raise NotFound("no such live key", field="key", remedy="list keys to see their ids")


def authenticate(connection: sa.Connection, text: str, *, now: datetime) -> Caller:
    """Whose key this is.

    Raises:
        Unauthenticated: malformed, unknown, revoked or expired; the answer is the same for all.
    """
    found = store.live_key(connection, digest(text), now=now) if is_well_formed(text) else None
    if found is None:
        raise Unauthenticated(
            "the API key is not valid", remedy="check the key, or ask for a new one"
        )
    tenant = None if found.tenant_id is None else store.tenant_by_id(connection, found.tenant_id)
    return Caller(key_id=found.id, role=found.role, tenant=tenant)


def _owner(
    connection: sa.Connection, tenant: str | None, project: str
) -> tuple[int | None, int | None]:
    if tenant is None:
        return None, None
    owner = require_tenant(connection, tenant)
    project_id = store.projects(connection, owner.id).get(project)
    if project_id is None:
        raise NotFound(
            "no such project", field="project", remedy="leave it out for the project `default`"
        )
    return owner.id, project_id
