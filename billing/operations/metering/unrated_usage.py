"""The unrated queue: usage that no charge prices, for everybody to see (R5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.operations.rating.rate_period import rate_period
from billing.rating.line import UnratedQuantity
from billing.store import tenancy as tenancy_store


@dataclass(frozen=True, slots=True, kw_only=True)
class UnratedOfTenant:
    """One tenant's unrated usage in its billing period."""

    tenant: str
    quantity: UnratedQuantity


def unrated_usage(
    connection: sa.Connection, *, instant: datetime, now: datetime
) -> list[UnratedOfTenant]:
    """What every tenant used without a price until now, in its billing period with `instant`."""
    return [
        UnratedOfTenant(tenant=tenant.slug, quantity=quantity)
        for tenant in tenancy_store.tenants(connection)
        for quantity in rate_period(
            connection, tenant=tenant, period=tenant.billing_period(instant), until=now
        ).unrated
    ]
