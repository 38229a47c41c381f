"""Table backend_object: which tenant an object of a backend belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billing.admission.binding import Binding, ObjectKind
from billing.metering.event_id import from_microseconds, microseconds
from billing.store.database import first, members, query, run

_COLUMNS = (
    "kind, backend, object_id, tenant_id, project_id, key_id, model_id, created_at, expires_at"
)

# Bound again by its own tenant it is the same object: a batch names its files in every answer.
# One that was deleted stays so while its row is there. Of another tenant, or of another backend,
# it is refused.
_BIND = f"""
INSERT INTO backend_object ({_COLUMNS})
VALUES (:kind, :backend, :object_id, :tenant_id, :project_id, :key_id, :model_id, :created_at,
    :expires_at)
ON CONFLICT DO NOTHING
"""  # noqa: S608  # our own names
_OWNED = (
    "SELECT FROM backend_object WHERE kind = :kind AND backend = :backend "
    "AND object_id = :object_id AND tenant_id = :tenant_id"
)
_FIND = (
    f"SELECT {_COLUMNS} FROM backend_object WHERE tenant_id = :tenant_id "  # noqa: S608
    "AND kind = :kind AND object_id = :object_id AND deleted_at IS NULL"
)
# Compared as a row, so that objects of one instant are all shown, once.
_PAGE = f"""
SELECT {_COLUMNS} FROM backend_object o
 WHERE tenant_id = :tenant_id AND kind = :kind AND deleted_at IS NULL
   AND (CAST(:after AS text) IS NULL OR (created_at, object_id) {{compared}} (
       SELECT created_at, object_id FROM backend_object a
        WHERE a.tenant_id = :tenant_id AND a.kind = :kind AND a.object_id = :after))
 ORDER BY created_at {{order}}, object_id {{order}} LIMIT :most
"""  # noqa: S608


def insert_object(connection: sa.Connection, binding: Binding) -> bool:
    """Bind an object; whether it is its tenant's now, or was before."""
    values = asdict(binding)
    created_at = from_microseconds(values.pop("created_at_us"))
    ends_us = values.pop("expires_at_us")
    expires_at = None if ends_us is None else from_microseconds(ends_us)
    if run(connection, _BIND, **values, created_at=created_at, expires_at=expires_at):
        return True
    found = first(
        connection,
        _OWNED,
        kind=binding.kind,
        backend=binding.backend,
        object_id=binding.object_id,
        tenant_id=binding.tenant_id,
    )
    return found is not None


def find_object(
    connection: sa.Connection, *, tenant_id: int, kind: ObjectKind, object_id: str
) -> Binding | None:
    """An object of a tenant that was not deleted."""
    row = first(connection, _FIND, tenant_id=tenant_id, kind=kind, object_id=object_id)
    return None if row is None else _binding(row)


def page_of_objects(
    connection: sa.Connection,
    *,
    tenant_id: int,
    kind: ObjectKind,
    after: str | None,
    most: int,
    oldest_first: bool,
) -> Sequence[Binding]:
    """Objects of a tenant in the order of their age, from the one behind `after` on."""
    compared, order = (">", "ASC") if oldest_first else ("<", "DESC")
    rows = query(
        connection,
        _PAGE.format(compared=compared, order=order),
        tenant_id=tenant_id,
        kind=kind,
        after=after,
        most=most,
    )
    return [_binding(row) for row in rows]


def delete_object(connection: sa.Connection, binding: Binding, *, now: datetime) -> None:
    """Note that the backend has deleted an object; its id stays its tenant's while its row
    is there."""
    run(
        connection,
        "UPDATE backend_object SET deleted_at = :now WHERE kind = :kind AND backend = :backend "
        "AND object_id = :object_id AND tenant_id = :tenant_id AND deleted_at IS NULL",
        now=now,
        kind=binding.kind,
        backend=binding.backend,
        object_id=binding.object_id,
        tenant_id=binding.tenant_id,
    )


def _binding(row: sa.Row[Any]) -> Binding:
    values = members(row, kind=ObjectKind(row.kind))
    created_at, expires_at = values.pop("created_at"), values.pop("expires_at")
    return Binding(
        **values,
        created_at_us=microseconds(created_at),
        expires_at_us=None if expires_at is None else microseconds(expires_at),
    )
