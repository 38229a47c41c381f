"""Compare every level of the rollups with the raw events: invoices are rated from rollups."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.store import catalog
from billing.store import tenancy as tenancy_store
from billing.store.usage.verify import rollup_differences
from billing.store.usage.verify_dimensions import dimension_differences


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupDifference:
    """A rollup of one tenant and meter that is not the sum of its events.

    Attributes:
        tenant: its slug.
        bucket: start of the 15 minutes, `day …` of its zone, or `run …`; with the value of the
            dimension where usage is split by one.
        meter: code of the meter; its version's number where a newer version replaced it.
    """

    tenant: str
    bucket: datetime | str
    meter: str


def verify_rollups(connection: sa.Connection) -> list[RollupDifference]:
    """Every bucket that differs, in the operator role's transaction; empty when all is well.

    It reads every event, so it takes its time.
    """
    slugs = {tenant.id: tenant.slug for tenant in tenancy_store.tenants(connection)}
    codes = {str(meter.id): code for code, meter in catalog.meters(connection).items()}
    return [
        # A rollup whose tenant was changed may name one that does not exist.
        RollupDifference(
            tenant=slugs.get(tenant_id, f"tenant {tenant_id}"),
            bucket=bucket,
            meter=codes.get(version, version),
        )
        for tenant_id, bucket, version in (
            *rollup_differences(connection),
            *dimension_differences(connection),
        )
    ]
