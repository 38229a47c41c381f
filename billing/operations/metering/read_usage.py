"""What a tenant used: by slot of time, and request by request."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound
from billing.period import Period
from billing.store.usage import levels, split
from billing.store.usage import read as store
from billing.store.usage.levels import Question, UsageRow
from billing.store.usage.parked import ParkedRow, parked
from billing.store.usage.read import EventView
from billing.tenancy.tenant import Tenant

LIMIT_MAX = 1000

BY = ("model", "project")
"""By what usage is split if nobody says."""

_SPLITS = ("meter", "model", "project", "key")
_DIMENSION = "dimension:"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyUsage:
    """Which usage is meant: an empty collection is none at all, None is all of it (T2).

    Attributes:
        keys: parts of API keys that may be shown, as listed.
    """

    meters: Collection[str] | None = None
    models: Collection[str] | None = None
    projects: Collection[str] | None = None
    keys: Collection[str] | None = None


def usage_of(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    period: Period,
    group: str = "day",
    by: Collection[str] = BY,
    only: OnlyUsage = OnlyUsage(),
) -> list[UsageRow]:
    """A tenant's usage in a period, from the coarsest level that can answer; each row says which.

    Args:
        group: `day` or `month` (of the tenant's zone), `hour`, `bucket` (15 minutes) or `none`.
        by: any of `model`, `project`, `key` and one `dimension:NAME`, which shows only meters
            that declare it; usage is always split by meter, for units do not add up.

    Raises:
        InvalidInput: another group, or nothing to split by.
        NotFound: no meter declares the dimension.
        Conflict: edges of the dimension changed since, and events of the period have left.
    """
    if group not in levels.GROUPS:
        raise InvalidInput(
            "no such grouping", field="group", remedy=f"use one of {', '.join(levels.GROUPS)}"
        )
    question = Question(
        tenant_id=tenant.id,
        period=period,
        group=group,
        zone_name=tenant.zone,
        by=by,
        **asdict(only),
    )
    dimension = _dimension(by)
    if dimension is None:
        return levels.usage(connection, question)
    if not split.declares(connection, dimension):
        raise NotFound(
            "no meter declares this dimension",
            field="by",
            remedy="`steelyard meter show` says which dimensions a meter has",
        )
    return split.usage_by_dimension(connection, question, dimension)


def _dimension(by: Collection[str]) -> str | None:
    """The name of the dimension to split by, or None.

    Raises:
        InvalidInput: more than one, or a word that splits nothing.
    """
    names = {each.removeprefix(_DIMENSION) for each in by if each.startswith(_DIMENSION)}
    unknown = [each for each in by if not each.startswith(_DIMENSION) and each not in _SPLITS]
    if unknown or len(names) > 1:
        raise InvalidInput(
            "usage cannot be split by this",
            field="by",
            remedy=f"use {', '.join(_SPLITS)} and at most one {_DIMENSION}NAME",
        )
    return names.pop() if names else None


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
        raise NotFound(
            "no such request",
            field="request_id",
            remedy="use the x-steelyard-request-id of its answer",
        )
    return found


def parked_usage(
    connection: sa.Connection, *, tenant_id: int | None, limit: int = LIMIT_MAX
) -> list[ParkedRow]:
    """Reported events that wait for a decision, of one tenant or of everybody if None."""
    return parked(connection, tenant_id=tenant_id, limit=limit)
