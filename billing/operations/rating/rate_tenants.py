"""Rate billing periods of many tenants: the same lines as one by one, from a statement a page.

Decides: which periods can be read together (those whose plans ask for sums only, of tenants with
no usage but sums) and that all others are read by themselves. Rates nothing: that is `rate_usage`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

import sqlalchemy as sa

from billing.catalog.contract_terms import NO_TERMS, apply_terms
from billing.catalog.price_plan import PricePlan
from billing.errors import Conflict
from billing.operations.catalog.contracts import BoundPlan
from billing.operations.rating.rate_period import RatedPeriod, rate_usage
from billing.period import Period, zone
from billing.rating.needs import Needs, needs_of
from billing.store.usage.of_tenants import (
    PeriodSums,
    TenantSpans,
    sums_of_tenants,
    tenants_beyond_sums,
)
from billing.store.usage.read import PeriodUsage, period_usage
from billing.tenancy.tenant import Tenant

PERIODS_AT_ONCE = 500
"""Billing periods whose usage is read by one statement."""


class Level(StrEnum):
    """What usage is read from: the coarsest that the plans allow."""

    DAYS = "days"
    DIMENSIONS = "days by dimension"
    QUARTER_HOURS = "quarter hours"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPeriod:
    """One billing period of one tenant.

    Attributes:
        bound: the contracts in force somewhere in it.
        needs: how finely its usage is read.
        level: what from.
    """

    tenant: Tenant
    period: Period
    bound: tuple[BoundPlan, ...]
    needs: Needs
    level: Level

    def edges(self) -> list[datetime]:
        """Where contracts begin and end within the period, and where it does itself."""
        segments = [part for each in self.bound if (part := each.contract.segment(self.period))]
        inner = {edge for part in segments for edge in (part.start, part.end)}
        return sorted({self.period.start, self.period.end, *inner})


def tenant_periods(
    connection: sa.Connection,
    periods: Iterable[tuple[Tenant, Period]],
    bound: Iterable[BoundPlan],
    *,
    beside: Sequence[PricePlan] = (),
) -> list[TenantPeriod]:
    """Periods with their contracts and what these ask of usage; those without one are left out.

    Args:
        bound: contracts of these tenants, and of others, with their plans as written.
        beside: further plans that the same usage is to be rated under.
    """
    contracts: defaultdict[int, list[BoundPlan]] = defaultdict(list)
    for entry in bound:
        contracts[entry.contract.tenant_id].append(entry)
    chosen = [
        (tenant, period, entries)
        for tenant, period in periods
        if (entries := _in_force(contracts[tenant.id], period))
    ]
    beyond = tenants_beyond_sums(connection, sorted({tenant.id for tenant, _, _ in chosen}))
    asked: dict[tuple[int, ...], Needs] = {}
    found: list[TenantPeriod] = []
    for tenant, period, entries in chosen:
        terms = tuple(id(entry.plan) for entry in entries)
        if terms not in asked:
            asked[terms] = needs_of([*beside, *(entry.plan for entry in entries)])
        needs = asked[terms]
        level = Level.EVENTS if tenant.id in beyond else _level(needs)
        found.append(
            TenantPeriod(tenant=tenant, period=period, bound=entries, needs=needs, level=level)
        )
    return found


def read_sums(
    connection: sa.Connection, asked: Sequence[TenantPeriod], *, until: datetime | None = None
) -> Iterator[tuple[TenantPeriod, PeriodSums | PeriodUsage | Conflict]]:
    """The usage of every period asked, in order; sums as they were read where these are all.

    A conflict stands where usage can no longer be read.
    """
    for start in range(0, len(asked), PERIODS_AT_ONCE):
        page = asked[start : start + PERIODS_AT_ONCE]
        by_days = [each for each in page if each.level is Level.DAYS]
        answers = iter(sums_of_tenants(connection, [_spans(each) for each in by_days]))
        for each in page:
            if each.level is Level.DAYS:
                yield each, next(answers)
            else:
                yield each, _finely(connection, each, until=until)


def read_usage(
    connection: sa.Connection, asked: Sequence[TenantPeriod], *, until: datetime | None = None
) -> Iterator[tuple[TenantPeriod, PeriodUsage | Conflict]]:
    """The usage of every period asked, in order; the conflict where it can no longer be read."""
    for each, found in read_sums(connection, asked, until=until):
        yield each, found.usage() if isinstance(found, PeriodSums) else found


def rate_tenants(
    connection: sa.Connection,
    asked: Sequence[TenantPeriod],
    *,
    until: datetime | None = None,
    explained: bool = True,
) -> Iterator[RatedPeriod]:
    """What `rate_period` gives for each of the periods, in order.

    Raises:
        Conflict: events that a price asks for have left the database.
    """
    for each, used in read_usage(connection, asked, until=until):
        if isinstance(used, Conflict):
            raise used
        yield rate_usage(
            tenant=each.tenant,
            period=each.period,
            bound=each.bound,
            used=used,
            until=until,
            explained=explained,
        )


def _in_force(bound: Sequence[BoundPlan], period: Period) -> tuple[BoundPlan, ...]:
    return tuple(
        _as_agreed(each, period) for each in bound if each.contract.segment(period) is not None
    )


def _as_agreed(entry: BoundPlan, period: Period) -> BoundPlan:
    """The contract with the plan that its terms make of it in a billing period."""
    if entry.terms == NO_TERMS:
        return entry
    begins = period.start.astimezone(zone(entry.contract.zone)).date()
    return replace(entry, plan=apply_terms(entry.plan, entry.terms, begins=begins))


def _level(needs: Needs) -> Level:
    if any(each.beyond_rollups for each in needs.values()):
        return Level.EVENTS
    if any(each.quarters for each in needs.values()):
        return Level.QUARTER_HOURS
    return Level.DIMENSIONS if needs else Level.DAYS


def _spans(asked: TenantPeriod) -> TenantSpans:
    return TenantSpans(
        tenant_id=asked.tenant.id,
        zone_name=asked.tenant.zone,
        spans=_between(tuple(asked.edges())),
    )


@lru_cache(maxsize=1024)
def _between(edges: tuple[datetime, ...]) -> tuple[Period, ...]:
    """The spans between instants; those of most tenants are the same ones."""
    return tuple(Period(start=start, end=end) for start, end in pairwise(edges))


def _finely(
    connection: sa.Connection, asked: TenantPeriod, *, until: datetime | None
) -> PeriodUsage | Conflict:
    try:
        return period_usage(
            connection,
            tenant_id=asked.tenant.id,
            period=asked.period,
            edges=asked.edges()[:-1],
            until=until,
            needs=asked.needs,
            zone_name=asked.tenant.zone,
        )
    except Conflict as conflict:
        return conflict
