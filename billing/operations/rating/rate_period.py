"""Rate what a tenant used in a billing period, contract by contract, at one watermark.

Decides which contract prices which quantity: the one among those in force when the usage
happened whose plan has a charge for it (D16). Usage that none of those prices is offered to the
contracts that by now cover its time, so that binding a contract backwards resolves it. What no
charge prices is unrated: visible, and in the way of the invoice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias

import sqlalchemy as sa

from billing.metering.usage_event import EventKind
from billing.money import EXACT
from billing.operations.catalog.contracts import BoundPlan, bound_plans
from billing.operations.rating.level_feed import is_prorated, level_quantity
from billing.period import Period, zone
from billing.rating.compiled import compiled
from billing.rating.levels import LevelSpan
from billing.rating.line import LineKind, RatedLine, Rating, UnratedQuantity
from billing.rating.needs import needs_of
from billing.rating.pipeline import Slice, rate
from billing.rating.proration import DayShare, day_share
from billing.rating.quantity import MeteredQuantity
from billing.store.usage.read import PeriodUsage, QuantityRow, period_usage
from billing.tenancy.tenant import Tenant

_KNOWN_AT_END = frozenset({LineKind.SHORTFALL, LineKind.MINIMUM, LineKind.TRUE_UP})

Dimensions: TypeAlias = tuple[tuple[str, str], ...]
"""Values by name, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedContract:
    """One contract's part of a billing period.

    Attributes:
        quantities: what was rated, as read.
        rating: its lines; `unrated` is empty here.
    """

    bound: BoundPlan
    quantities: tuple[MeteredQuantity, ...]
    rating: Rating


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedPeriod:
    """A tenant's billing period at a watermark.

    Attributes:
        watermark: newest epoch that the quantities contain.
        unrated: usage that no charge prices, whatever the contract (R5).
    """

    tenant: Tenant
    period: Period
    watermark: int
    contracts: tuple[RatedContract, ...]
    unrated: tuple[UnratedQuantity, ...]


def rate_period(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    period: Period,
    until: datetime | None = None,
    from_events: int | None = None,
    explained: bool = True,
) -> RatedPeriod:
    """Rate a billing period; writes nothing (R6: a dry run is this same function).

    Args:
        until: how far levels over time are counted, so that an open period holds no hour that is
            still to come; None, and any instant behind the period, is its end.
        from_events: a watermark: rate from the events up to it alone, as a verification does, and
            not from what was summed up since (D10).
        explained: whether lines carry their arithmetic (see `rate`).

    Raises:
        Conflict: events that are asked for have left the database.
    """
    return rate_under(
        connection,
        tenant=tenant,
        period=period,
        bound=bound_plans(connection, tenant_id=tenant.id, at=period.start),
        until=until,
        from_events=from_events,
        explained=explained,
    )


def rate_under(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    period: Period,
    bound: Iterable[BoundPlan],
    until: datetime | None = None,
    from_events: int | None = None,
    explained: bool = True,
) -> RatedPeriod:
    """Rate a billing period under given contracts, such as those of an earlier time.

    Args:
        bound: contracts with the terms of the period; those not in force in it are left out.
        until, from_events, explained: see `rate_period`.

    Raises:
        Conflict: events that are asked for have left the database.
    """
    in_force = [entry for entry in bound if entry.contract.segment(period) is not None]
    segments = [segment for entry in in_force if (segment := entry.contract.segment(period))]
    used = period_usage(
        connection,
        tenant_id=tenant.id,
        period=period,
        edges=(edge for segment in segments for edge in (segment.start, segment.end)),
        until=until,
        needs=needs_of(entry.plan for entry in in_force),
        zone_name=tenant.zone,
        from_events=from_events,
    )
    return rate_usage(
        tenant=tenant, period=period, bound=in_force, used=used, until=until, explained=explained
    )


def rate_usage(
    *,
    tenant: Tenant,
    period: Period,
    bound: Sequence[BoundPlan],
    used: PeriodUsage,
    until: datetime | None = None,
    explained: bool = True,
) -> RatedPeriod:
    """Rate what was read of a billing period; pure, like `rate`.

    Args:
        bound: the contracts that are in force somewhere in the period.
        used: read with the beginnings and ends of those contracts as edges.
    """
    assigned, unrated = _assign(used.quantities, bound, period)
    contracts = tuple(
        RatedContract(
            bound=entry,
            quantities=tuple(assigned[entry.contract.id]),
            rating=rate(
                entry.plan,
                assigned[entry.contract.id],
                of=_slice(entry, period, until),
                explained=explained,
                units=used.units,
            ),
        )
        for entry in bound
    )
    return RatedPeriod(
        tenant=tenant,
        period=period,
        watermark=used.watermark,
        contracts=contracts,
        unrated=unrated,
    )


def rate_stored(
    *,
    tenant: Tenant,
    period: Period,
    watermark: int,
    bound: Iterable[BoundPlan],
    quantities: Mapping[int, Sequence[MeteredQuantity]],
    units: Mapping[str, str],
    until: datetime | None = None,
) -> RatedPeriod:
    """Rate quantities that were assigned to contracts before; pure.

    Args:
        quantities: by contract.
        units: what a unit of each meter is called, by code.
        until: see `rate_period`.
    """
    return RatedPeriod(
        tenant=tenant,
        period=period,
        watermark=watermark,
        contracts=tuple(
            RatedContract(
                bound=entry,
                quantities=tuple(quantities.get(entry.contract.id, ())),
                rating=rate(
                    entry.plan,
                    quantities.get(entry.contract.id, ()),
                    of=_slice(entry, period, until),
                    units=units,
                ),
            )
            for entry in bound
            if entry.contract.segment(period) is not None
        ),
        unrated=(),
    )


def due_at_end(contract: RatedContract, period: Period) -> tuple[RatedLine, ...]:
    """What an open period lacks of its minimums and commitments: due if nothing more is used.

    Nothing once the contract's part of the period is over: those lines are rated then.
    """
    bound = contract.bound
    rated = {line.key for line in contract.rating.lines}
    over = rate(bound.plan, contract.quantities, of=_slice(bound, period, None))
    return tuple(
        line for line in over.lines if line.kind in _KNOWN_AT_END and line.key not in rated
    )


def _assign(
    rows: Sequence[QuantityRow], bound: Sequence[BoundPlan], period: Period
) -> tuple[dict[int, list[MeteredQuantity]], tuple[UnratedQuantity, ...]]:
    """Every quantity to the one contract that prices it (D16), and those that none does."""
    assigned: dict[int, list[MeteredQuantity]] = {entry.contract.id: [] for entry in bound}
    unrated: dict[tuple[str, str | None, Dimensions], Decimal] = {}
    levels: dict[tuple[int, str, str | None], list[LevelSpan]] = {}
    for row in rows:
        if row.kind != EventKind.BILLED:
            continue
        owner = _contract_for(row, bound)
        if owner is not None and is_prorated(owner, row):
            levels.setdefault((owner.contract.id, row.meter, row.model), []).extend(row.levels)
        elif owner is not None:
            assigned[owner.contract.id].append(
                MeteredQuantity(
                    meter=row.meter,
                    model=row.model,
                    quantity=row.quantity,
                    dimensions=row.dimensions,
                    at=row.at,
                    transactions=row.transactions,
                )
            )
        elif not row.informational:
            place = (row.meter, row.model, row.dimensions)
            unrated[place] = EXACT.add(unrated.get(place, Decimal(0)), row.quantity)
    by_id = {entry.contract.id: entry for entry in bound}
    for (owner_id, meter, model), spans in levels.items():
        level = level_quantity(by_id[owner_id], meter, model, spans, period)
        assigned[owner_id].append(level)
    return assigned, tuple(
        UnratedQuantity(meter=meter, model=model, quantity=quantity, dimensions=dimensions)
        for (meter, model, dimensions), quantity in unrated.items()
        # What was taken back whole is not missing a price.
        if quantity > 0
    )


_share = lru_cache(maxsize=1024)(day_share)
"""Tenants' periods are few, and their days are slow to count."""


def share_of(entry: BoundPlan, period: Period) -> DayShare:
    """The days of a billing period that a contract covers, which is in force somewhere in it."""
    covered = entry.contract.segment(period)
    assert covered is not None
    in_zone = zone(entry.contract.zone)
    return _share(covered, period, in_zone, days=entry.plan.policies.proration_days)


def _slice(entry: BoundPlan, period: Period, until: datetime | None) -> Slice:
    covered = entry.contract.segment(period)
    assert covered is not None
    return Slice(
        # What is missing from a commitment is known once nothing can be used any more.
        closes_period=until is None or until >= covered.end,
        share=share_of(entry, period),
        covered=covered,
        zone=zone(entry.contract.zone),
    )


def _contract_for(row: QuantityRow, bound: Sequence[BoundPlan]) -> BoundPlan | None:
    pricing = [
        entry for entry in bound if entry.contract.id in row.contract_ids and _prices(entry, row)
    ] or [
        entry
        for entry in bound
        if entry.contract.in_force(row.at or row.bucket_from) and _prices(entry, row)
    ]
    # Binding refuses overlaps, so two here would mean that the check was got around.
    assert len(pricing) <= 1, [entry.contract.id for entry in pricing]
    return pricing[0] if pricing else None


def _prices(entry: BoundPlan, row: QuantityRow) -> bool:
    """Whether a contract has a charge for a quantity, by its values and by the contract's clock."""
    prices = compiled(entry.plan).meters.get(row.meter)
    if prices is None:
        return False
    if prices.by_models_alone:
        return prices.by_model.get(row.model, prices.of_others) is not None
    values, in_zone = dict(row.dimensions), zone(entry.contract.zone)
    return any(
        selector.selects(row.meter, row.model, values, row.at, in_zone)
        for _, selector in prices.charges
    )
