"""Import of files: batches of reports, with the position in the file that they take it to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from billing.metering.usage_event import UsageReport, Verdict
from billing.operations.metering.ingest_usage import ingest_usage
from billing.store.usage import reported as store
from billing.tenancy.tenant import Tenant


def import_batch(
    connection: sa.Connection,
    reports: Sequence[UsageReport],
    *,
    tenant: Tenant,
    digest: bytes,
    rows_done: int,
    now: datetime,
) -> list[Verdict]:
    """Ingest a batch of a file, and note in the same transaction how far the file has come.

    Args:
        digest: SHA-256 that names the file.
        rows_done: rows of it that are in the ledger once this batch is.

    Raises:
        InvalidInput: too many events.
    """
    verdicts = ingest_usage(connection, reports, tenant=tenant, now=now)
    store.move_import(connection, tenant_id=tenant.id, digest=digest, rows_done=rows_done, now=now)
    return verdicts


def rows_imported(connection: sa.Connection, *, tenant_id: int, digest: bytes) -> int:
    """How many rows of a file earlier runs have committed."""
    return store.imported_rows(connection, tenant_id=tenant_id, digest=digest)
