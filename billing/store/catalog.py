"""Tables model, backend, meter_version, plan_version, contract, price_version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billing.catalog.contract import Contract
from billing.money import currency
from billing.store.database import first, members, only, query, run

NONE = 0
"""Row id that stands for "none" in keys that may not hold NULL; identity columns start at 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanVersionRow:
    """A stored plan version; `document` is what `billing.planfiles` dumped."""

    id: int
    slug: str
    version: int
    name: str
    currency: str
    document: dict[str, Any]
    digest: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """A stored meter version."""

    id: int
    code: str
    version: int
    unit: str
    informational: bool


_PLAN = "SELECT id, slug, version, name, currency, document, digest, created_at FROM plan_version"


def insert_plan_version(
    connection: sa.Connection,
    *,
    slug: str,
    version: int,
    name: str,
    currency_code: str,
    document: dict[str, Any],
    digest: bytes,
    now: datetime,
) -> None:
    """Add an immutable version of a plan."""
    run(
        connection,
        "INSERT INTO plan_version (slug, version, name, currency, document, digest, created_at) "
        "VALUES (:slug, :version, :name, :currency, CAST(:document AS jsonb), :digest, :now)",
        slug=slug,
        version=version,
        name=name,
        currency=currency_code,
        document=json.dumps(document),
        digest=digest,
        now=now,
    )


def newest_plan_version(connection: sa.Connection, slug: str) -> PlanVersionRow | None:
    """The newest version of a plan. Locks out a concurrent apply of the same plan."""
    run(connection, "SELECT pg_advisory_xact_lock(hashtext('plan ' || :slug))", slug=slug)
    row = first(connection, f"{_PLAN} WHERE slug = :slug ORDER BY version DESC LIMIT 1", slug=slug)
    return None if row is None else PlanVersionRow(**members(row))


def plan_version(
    connection: sa.Connection, slug: str, version: int | None
) -> PlanVersionRow | None:
    """One version of a plan; the newest if `version` is None."""
    row = first(
        connection,
        f"{_PLAN} WHERE slug = :slug "
        "AND (CAST(:version AS integer) IS NULL OR version = :version) "
        "ORDER BY version DESC LIMIT 1",
        slug=slug,
        version=version,
    )
    return None if row is None else PlanVersionRow(**members(row))


def plan_versions(connection: sa.Connection) -> list[PlanVersionRow]:
    """All versions of all plans."""
    rows = query(connection, f"{_PLAN} ORDER BY slug, version")
    return [PlanVersionRow(**members(row)) for row in rows]


def plan_versions_of(
    connection: sa.Connection, price_version_ids: Iterable[int]
) -> dict[int, list[PlanVersionRow]]:
    """The plan versions of the contracts of price versions; none of one that has no contract."""
    rows = query(
        connection,
        "SELECT v.id, array_agg(DISTINCT c.plan_version_id) AS plans FROM price_version v "
        "JOIN contract c ON c.id = ANY(v.contract_ids) "
        "WHERE v.id = ANY(CAST(:ids AS integer[])) GROUP BY v.id",
        ids=sorted(set(price_version_ids)),
    )
    found = query(
        connection,
        f"{_PLAN} WHERE id = ANY(CAST(:ids AS integer[]))",
        ids=sorted({plan for row in rows for plan in row.plans}),
    )
    plans = {row.id: PlanVersionRow(**members(row)) for row in found}
    return {row.id: [plans[plan] for plan in row.plans] for row in rows}


_CONTRACT = (
    "SELECT c.id, c.tenant_id, p.slug AS plan_slug, p.version AS plan_version, c.valid_from, "
    "c.valid_until, p.currency, t.zone, t.anchor_day FROM contract c "
    "JOIN plan_version p ON p.id = c.plan_version_id JOIN tenant t ON t.id = c.tenant_id"
)


def insert_contract(
    connection: sa.Connection,
    *,
    tenant_id: int,
    plan_version_id: int,
    valid_from: datetime,
    valid_until: datetime | None,
    now: datetime,
) -> int:
    """Add a contract; its id."""
    return only(
        connection,
        "INSERT INTO contract (tenant_id, plan_version_id, valid_from, valid_until, created_at) "
        "VALUES (:tenant, :plan, :valid_from, :valid_until, :now) RETURNING id",
        tenant=tenant_id,
        plan=plan_version_id,
        valid_from=valid_from,
        valid_until=valid_until,
        now=now,
    ).id


def lock_contracts(connection: sa.Connection, tenant_id: int) -> None:
    """Let nobody else bind or end a contract of this tenant until commit."""
    run(connection, "SELECT pg_advisory_xact_lock(hashtext('contract'), :tenant)", tenant=tenant_id)


def contracts(connection: sa.Connection, *, tenant_id: int | None = None) -> list[Contract]:
    """Contracts of one tenant, or of everybody if None, oldest first."""
    rows = query(
        connection,
        f"{_CONTRACT} WHERE CAST(:tenant AS integer) IS NULL OR c.tenant_id = :tenant "
        "ORDER BY c.id",
        tenant=tenant_id,
    )
    return [_contract(row) for row in rows]


def contracts_of(connection: sa.Connection, tenant_ids: Sequence[int]) -> list[Contract]:
    """Contracts of some tenants, oldest first."""
    rows = query(
        connection,
        f"{_CONTRACT} WHERE c.tenant_id = ANY(CAST(:tenants AS integer[])) ORDER BY c.id",
        tenants=list(tenant_ids),
    )
    return [_contract(row) for row in rows]


def end_contract(connection: sa.Connection, contract_id: int, *, valid_until: datetime) -> bool:
    """Set the end of a contract that has none; False if there is no such contract."""
    touched = run(
        connection,
        "UPDATE contract SET valid_until = :until WHERE id = :id AND valid_until IS NULL",
        until=valid_until,
        id=contract_id,
    )
    return touched == 1


def price_version(connection: sa.Connection, *, tenant_id: int, contract_ids: Iterable[int]) -> int:
    """The id of a set of contracts in force together: the price version of an event."""
    ids = sorted(contract_ids)
    if not ids:
        return NONE
    found = (
        "SELECT id FROM price_version WHERE tenant_id = :tenant "
        "AND contract_ids = CAST(:ids AS integer[])"
    )
    row = first(connection, found, tenant=tenant_id, ids=ids)
    if row is None:
        run(
            connection,
            "INSERT INTO price_version (tenant_id, contract_ids) "
            "VALUES (:tenant, CAST(:ids AS integer[])) ON CONFLICT DO NOTHING",
            tenant=tenant_id,
            ids=ids,
        )
        row = only(connection, found, tenant=tenant_id, ids=ids)
    return row.id


def price_versions(
    connection: sa.Connection, contract_ids: Mapping[int, Sequence[int]]
) -> dict[int, int]:
    """`price_version` of many tenants at once, by tenant; each is in force on some contract."""
    wanted = "unnest(CAST(:tenants AS integer[]), CAST(:sets AS text[])) AS w (tenant_id, ids)"
    found = (
        f"SELECT v.tenant_id, v.id FROM price_version v JOIN {wanted} "  # noqa: S608  # our own text
        "ON v.tenant_id = w.tenant_id AND v.contract_ids = CAST(w.ids AS integer[])"
    )
    asked = {
        "tenants": list(contract_ids),
        "sets": ["{" + ",".join(map(str, sorted(ids))) + "}" for ids in contract_ids.values()],
    }
    versions = {row.tenant_id: row.id for row in query(connection, found, **asked)}
    if len(versions) == len(contract_ids):
        return versions
    run(
        connection,
        "INSERT INTO price_version (tenant_id, contract_ids) "  # noqa: S608  # our own text
        f"SELECT tenant_id, CAST(ids AS integer[]) FROM {wanted} "
        "ORDER BY tenant_id ON CONFLICT DO NOTHING",
        **asked,
    )
    return {row.tenant_id: row.id for row in query(connection, found, **asked)}


def meters(connection: sa.Connection) -> dict[str, MeterRow]:
    """The newest version of every meter, by code."""
    rows = query(
        connection,
        "SELECT DISTINCT ON (code) id, code, version, unit, informational FROM meter_version "
        "ORDER BY code, version DESC",
    )
    return {row.code: MeterRow(**members(row)) for row in rows}


def insert_meter(
    connection: sa.Connection, *, code: str, unit: str, informational: bool, now: datetime
) -> int:
    """Add version 1 of a meter, or find it; its id."""
    run(
        connection,
        "INSERT INTO meter_version (code, version, unit, aggregation, informational, "
        "effective_from) VALUES (:code, 1, :unit, 'sum', :informational, :now) "
        "ON CONFLICT (code, version) DO NOTHING",
        code=code,
        unit=unit,
        informational=informational,
        now=now,
    )
    return only(
        connection, "SELECT id FROM meter_version WHERE code = :code AND version = 1", code=code
    ).id


def ensure_models(connection: sa.Connection, names: Iterable[str]) -> dict[str, int]:
    """Row ids of models by name; unknown names are added."""
    return _ensure(connection, "model", names)


def ensure_backends(connection: sa.Connection, names: Iterable[str]) -> dict[str, int]:
    """Row ids of backends by name; unknown names are added."""
    return _ensure(connection, "backend", names)


def _ensure(connection: sa.Connection, table: str, names: Iterable[str]) -> dict[str, int]:
    wanted = sorted(set(names))
    if not wanted:
        return {}
    found = f"SELECT name, id FROM {table} WHERE name = ANY(:names)"  # noqa: S608  # our own names
    ids = {row.name: row.id for row in query(connection, found, names=wanted)}
    missing = [name for name in wanted if name not in ids]
    if missing:
        run(
            connection,
            f"INSERT INTO {table} (name) SELECT unnest(CAST(:names AS text[])) "  # our own names
            "ON CONFLICT DO NOTHING",
            names=missing,
        )
        ids = {row.name: row.id for row in query(connection, found, names=wanted)}
    return ids


def _contract(row: sa.Row[Any]) -> Contract:
    return Contract(**members(row, currency=currency(row.currency)))
