"""Table contract_terms: what contracts agreed beside their plans."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billing.store.database import query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsRow:
    """Stored terms of a contract; `document` is what `billing.planfiles` dumped."""

    contract_id: int
    document: dict[str, Any]


def insert_terms(
    connection: sa.Connection,
    *,
    contract_id: int,
    tenant_id: int,
    document: dict[str, Any],
    digest: bytes,
    now: datetime,
) -> None:
    """Add the terms of a new contract."""
    run(
        connection,
        "INSERT INTO contract_terms (contract_id, tenant_id, document, digest, created_at) "
        "VALUES (:contract, :tenant, CAST(:document AS jsonb), :digest, :now)",
        contract=contract_id,
        tenant=tenant_id,
        document=json.dumps(document),
        digest=digest,
        now=now,
    )


def contract_terms(
    connection: sa.Connection, *, tenant_ids: Sequence[int] | None = None
) -> list[TermsRow]:
    """Terms of some tenants' contracts, or of everybody's if None; those without are absent."""
    rows = query(
        connection,
        "SELECT contract_id, document FROM contract_terms "
        "WHERE CAST(:tenants AS integer[]) IS NULL "
        "OR tenant_id = ANY(CAST(:tenants AS integer[]))",
        tenants=None if tenant_ids is None else list(tenant_ids),
    )
    return [TermsRow(contract_id=row.contract_id, document=row.document) for row in rows]
