"""Tables usage_correction and usage_import, and what corrections need to know of an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import first, members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalRow:
    """An event that may be corrected.

    Attributes:
        codes: the meters of its quantities.
        properties: (path, text) of what it carries for their dimensions.
    """

    id: UUID
    occurred_at: datetime
    tenant_id: int
    project_id: int
    key_id: int
    model_id: int
    backend_id: int
    price_version_id: int
    meter_set_id: int
    kind: int
    estimated: bool
    quantities: tuple[Decimal, ...]
    codes: tuple[str, ...]
    properties: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionRow:
    """One correction.

    Attributes:
        event_id: the event that takes the original's quantities back.
        corrects, corrects_at: the original, and when it occurred: the period that is corrected.
        replacement_id: the event that counts instead, if amended.
        source, foreign_id: the corrector's identity of the correction.
    """

    event_id: UUID
    tenant_id: int
    kind: str
    corrects: UUID
    corrects_at: datetime
    replacement_id: UUID | None
    source: str
    foreign_id: str
    reason: str
    actor: str
    corrected_at: datetime


_ORIGINAL = """
SELECT e.id, e.occurred_at, e.tenant_id, e.project_id, e.key_id, e.model_id, e.backend_id,
       e.price_version_id, e.meter_set_id, e.kind, e.estimated, e.quantities,
       (SELECT array_agg(v.code ORDER BY n)
          FROM unnest(s.meter_version_ids) WITH ORDINALITY AS u (version_id, n)
          JOIN meter_version v ON v.id = u.version_id) AS codes,
       (SELECT array_agg(ARRAY[u.path, u.carried] ORDER BY u.path)
          FROM unnest(h.paths, p.texts) AS u (path, carried)) AS properties
  FROM usage_event e JOIN meter_set s ON s.id = e.meter_set_id
  LEFT JOIN usage_property p ON p.event_id = e.id
  LEFT JOIN usage_shape h ON h.id = p.shape_id
 WHERE e.id = :id
   AND e.id >= coalesce((SELECT first_event_id(max(oldest_kept)) FROM usage_horizon), e.id)
"""


def original(connection: sa.Connection, event_id: UUID) -> OriginalRow | None:
    """An event of whatever tenant whose month has not left, as the operator."""
    row = first(connection, _ORIGINAL, id=event_id)
    if row is None:
        return None
    return OriginalRow(
        **members(
            row,
            quantities=tuple(row.quantities),
            codes=tuple(row.codes or ()),
            properties=tuple((path, carried) for path, carried in row.properties or ()),
        )
    )


def lock_corrections(connection: sa.Connection, tenant_id: int) -> None:
    """Let nobody else correct this tenant's usage until commit: one event, one correction."""
    sql = "SELECT pg_advisory_xact_lock(hashtext('usage correction'), :tenant)"
    run(connection, sql, tenant=tenant_id)


def insert_correction(connection: sa.Connection, row: CorrectionRow) -> None:
    """Record a correction, in the transaction of its events."""
    run(
        connection,
        "INSERT INTO usage_correction (event_id, tenant_id, kind, corrects, corrects_at, "
        "replacement_id, source, foreign_id, reason, actor, corrected_at) VALUES (:event_id, "
        ":tenant_id, :kind, :corrects, :corrects_at, :replacement_id, :source, :foreign_id, "
        ":reason, :actor, :corrected_at)",
        **asdict(row),
    )


_CORRECTION = (
    "SELECT event_id, tenant_id, kind, corrects, corrects_at, replacement_id, source, foreign_id, "
    "reason, actor, corrected_at FROM usage_correction "
)


def corrections_naming(
    connection: sa.Connection, *, tenant_id: int, event_ids: Sequence[UUID]
) -> list[CorrectionRow]:
    """Corrections in which one of these events is the original, the taking back or the new one."""
    rows: Sequence[sa.Row[Any]] = query(
        connection,
        f"{_CORRECTION} WHERE tenant_id = :tenant AND (corrects = ANY(:ids) "
        "OR event_id = ANY(:ids) OR replacement_id = ANY(:ids)) ORDER BY corrected_at, event_id",
        tenant=tenant_id,
        ids=list(event_ids),
    )
    return [CorrectionRow(**members(row)) for row in rows]


def imported_rows(connection: sa.Connection, *, tenant_id: int, digest: bytes) -> int:
    """How many rows of a file are in the ledger; 0 if none were begun."""
    row = first(
        connection,
        "SELECT rows_done FROM usage_import WHERE (tenant_id, digest) = (:tenant, :digest)",
        tenant=tenant_id,
        digest=digest,
    )
    return 0 if row is None else row.rows_done


def move_import(
    connection: sa.Connection, *, tenant_id: int, digest: bytes, rows_done: int, now: datetime
) -> None:
    """Say how far a file was imported, in the transaction of its rows."""
    run(
        connection,
        "INSERT INTO usage_import AS i (tenant_id, digest, rows_done, updated_at) "
        "VALUES (:tenant, :digest, :done, :now) ON CONFLICT (tenant_id, digest) DO UPDATE "
        "SET rows_done = greatest(i.rows_done, excluded.rows_done), "
        "updated_at = excluded.updated_at",
        tenant=tenant_id,
        digest=digest,
        done=rows_done,
        now=now,
    )


def meter_versions(connection: sa.Connection) -> dict[str, list[tuple[datetime, int, str]]]:
    """(effective from, row id, aggregation) of every meter's versions by code, newest first."""
    found: dict[str, list[tuple[datetime, int, str]]] = {}
    for row in query(
        connection,
        "SELECT code, effective_from, id, aggregation FROM meter_version "
        "ORDER BY code, effective_from DESC, version DESC",
    ):
        found.setdefault(row.code, []).append((row.effective_from, row.id, row.aggregation))
    return found
