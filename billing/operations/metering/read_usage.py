"""What a tenant used: by slot of time, and request by request."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound
from billing.period import Period
from billing.store.usage import levels
from billing.store.usage import read as store
from billing.store.usage.parked import ParkedRow, parked
from billing.store.usage.read import EventView, UsageRow
from billing.tenancy.tenant import Tenant

LIMIT_MAX = 1000


def usage_of(
    connection: sa.Connection, *, tenant: Tenant, period: Period, group: str = "day"
) -> list[UsageRow]:
    """A tenant's usage in a period, from rollups.

    Args:
        group: `day` or `month` (of the tenant's zone), `hour`, `bucket` (15 minutes) or `none`.

    Raises:
        InvalidInput: another group.
    """
    if group not in levels.GROUPS:
        raise InvalidInput(
            "no such grouping", field="group", remedy=f"use one of {', '.join(levels.GROUPS)}"
        )
    return levels.usage(
        connection, tenant_id=tenant.id, period=period, group=group, zone_name=tenant.zone
    )


def requests_of(
    connection: sa.Connection, *, tenant: Tenant, period: Period, limit: int
) -> list[EventView]:
    """A tenant's newest usage events of a period, at most `LIMIT_MAX`."""
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInput("limit out of range", field="limit", remedy=f"1 to {LIMIT_MAX}")
    return store.events(connection, tenant_id=tenant.id, period=period, limit=limit)


def request_of(connection: sa.Connection, *, tenant: Tenant, request_id: str) -> EventView:
    """One usage event by the id that `x-steelyard-request-id` carried.

    Raises:
        NotFound: unknown, another tenant's, or not an id at all.
    """
    try:
        event_id = UUID(hex=request_id.removeprefix("req_"))
    except ValueError:
        event_id = None
    found = (
        None
        if event_id is None
        else store.event(connection, tenant_id=tenant.id, event_id=event_id)
    )
    if found is None:
        raise NotFound("no such request", field="request_id")
    return found


def parked_usage(
    connection: sa.Connection, *, tenant_id: int | None, limit: int = LIMIT_MAX
) -> list[ParkedRow]:
    """Reported events that wait for a decision, of one tenant or of everybody if None."""
    return parked(connection, tenant_id=tenant_id, limit=limit)
