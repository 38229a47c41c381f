"""Thresholds on what a billing period costs: define and end them, fire them once, list what fired.

Decides: against which amount a threshold stands in a billing period, and that it fires once in it,
in the transaction that shows it. What is credited later makes it fire neither again nor less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import sqlalchemy as sa

from billing.errors import Conflict, Forbidden, NotFound
from billing.money import EXACT
from billing.operations.rating.rate_period import RatedPeriod, share_of
from billing.rating.spend import BaseKind, Threshold, ThresholdBase, spent
from billing.store import spend_alerts as store
from billing.store.spend_alerts import AlertRow, MoneyLimit, NewAlert, ThresholdRow
from billing.tenancy.tenant import Tenant, require_slug

THRESHOLDS_MAX = 50
"""Most thresholds of a tenant."""

ALERTS_MOST = 1000

_ZERO = Decimal(0)


class MadeBy(StrEnum):
    """Who made a threshold; a tenant cannot end an operator's."""

    TENANT = "tenant"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdState:
    """A threshold in a billing period.

    Attributes:
        reached_at: major units from which on it is reached; None: what it is a percentage of does
            not exist in this period.
        spent: what counts against it so far.
        fired_at: when it fired; None: it did not.
    """

    row: ThresholdRow
    reached_at: Decimal | None
    spent: Decimal
    fired_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FiredAlert:
    """A threshold that was reached just now."""

    tenant: str
    alert: AlertRow


def define_threshold(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    name: str,
    terms: Threshold,
    made_by: MadeBy,
    now: datetime,
) -> ThresholdRow:
    """Watch a tenant's spend, in either role's transaction; the same words again change nothing.

    Raises:
        InvalidInput: a name that cannot be used.
        Conflict: the name stands for another threshold, or there are too many.
    """
    require_slug(name, field="name")
    known = store.thresholds(connection, [tenant.id])
    if len(known) >= THRESHOLDS_MAX and name not in {row.name for row in known}:
        raise Conflict(
            "too many thresholds", field="name", remedy=f"end one of them: {THRESHOLDS_MAX} at most"
        )
    store.insert_threshold(
        connection,
        tenant_id=tenant.id,
        name=name,
        terms=terms,
        made_by=made_by.value,
        now=now,
    )
    found = require_threshold(connection, tenant=tenant, name=name)
    if found.terms != terms:
        raise Conflict(
            "a threshold of this name says something else",
            field="name",
            remedy="end it first, or give the new one another name",
        )
    return found


def end_threshold(
    connection: sa.Connection, *, tenant: Tenant, name: str, asked_by: MadeBy, now: datetime
) -> ThresholdRow:
    """Let a threshold fire no more; alerts of it stay.

    Raises:
        NotFound: the tenant has none of this name.
        Forbidden: a tenant asks to end what the operator defined.
    """
    found = require_threshold(connection, tenant=tenant, name=name)
    if asked_by is MadeBy.TENANT and found.made_by != MadeBy.TENANT:
        raise Forbidden(
            "the operator defined this threshold", field="name", remedy="ask the operator"
        )
    store.end_threshold(connection, found.id, now=now)
    return found


def require_threshold(connection: sa.Connection, *, tenant: Tenant, name: str) -> ThresholdRow:
    """A threshold that has not ended.

    Raises:
        NotFound: the tenant has none of this name.
    """
    named = (row for row in list_thresholds(connection, tenant=tenant) if row.name == name)
    if (found := next(named, None)) is None:
        raise NotFound(
            "no such threshold", field="name", remedy="list thresholds to see their names"
        )
    return found


def list_thresholds(connection: sa.Connection, *, tenant: Tenant) -> list[ThresholdRow]:
    """A tenant's thresholds by name."""
    return store.thresholds(connection, [tenant.id])


def list_alerts(connection: sa.Connection, *, tenant_id: int | None) -> list[AlertRow]:
    """The newest alerts of one tenant, or of everybody if None."""
    return store.alerts(connection, tenant_id=tenant_id, most=ALERTS_MOST)


def threshold_states(connection: sa.Connection, rated: RatedPeriod) -> list[ThresholdState]:
    """How a tenant's thresholds stand in a rated period."""
    tenant_id = rated.tenant.id
    fired = {
        row.name: row.fired_at
        for row in store.alerts(
            connection, tenant_id=tenant_id, period_start=rated.period.start, most=ALERTS_MOST
        )
    }
    limits = store.money_limits(connection, [tenant_id])
    return [
        _state(row, rated, limits, fired_at=fired.get(row.name))
        for row in store.thresholds(connection, [tenant_id])
    ]


def watched_tenants(connection: sa.Connection, tenant_ids: Sequence[int]) -> frozenset[int]:
    """Those of the tenants whose spend a threshold watches."""
    return frozenset(row.tenant_id for row in store.thresholds(connection, sorted(tenant_ids)))


def fire_alerts(
    connection: sa.Connection, periods: Iterable[RatedPeriod], *, now: datetime
) -> tuple[FiredAlert, ...]:
    """Record which thresholds rated periods have reached, in the transaction that accrues them.

    A threshold is not for billing periods that were over when it was defined.
    """
    rated = [period for period in periods if period.contracts]
    tenant_ids = sorted({period.tenant.id for period in rated})
    watched: defaultdict[int, list[ThresholdRow]] = defaultdict(list)
    for row in store.thresholds(connection, tenant_ids):
        watched[row.tenant_id].append(row)
    if not watched:
        return ()
    limits: defaultdict[int, list[MoneyLimit]] = defaultdict(list)
    for limit in store.money_limits(connection, sorted(watched)):
        limits[limit.tenant_id].append(limit)
    reached = [
        alert
        for period in rated
        for alert in _reached(period, watched[period.tenant.id], limits, now=now)
    ]
    slugs = {period.tenant.id: period.tenant.slug for period in rated}
    return tuple(
        FiredAlert(tenant=slugs[each.tenant_id], alert=each.alert)
        for each in store.insert_alerts(connection, reached)
    )


def _reached(
    rated: RatedPeriod,
    watched: Sequence[ThresholdRow],
    limits: Mapping[int, Sequence[MoneyLimit]],
    *,
    now: datetime,
) -> Iterable[NewAlert]:
    for row in watched:
        if rated.period.end <= row.created_at:
            continue
        state = _state(row, rated, limits.get(rated.tenant.id, ()))
        if state.reached_at is not None and state.spent >= state.reached_at:
            yield NewAlert(
                threshold_id=row.id,
                tenant_id=rated.tenant.id,
                alert=AlertRow(
                    name=row.name,
                    period=rated.period,
                    currency=rated.contracts[0].bound.contract.currency.code,
                    reached=state.reached_at,
                    spent=state.spent,
                    watermark=rated.watermark,
                    fired_at=now,
                ),
            )


def _state(
    row: ThresholdRow,
    rated: RatedPeriod,
    limits: Sequence[MoneyLimit],
    *,
    fired_at: datetime | None = None,
) -> ThresholdState:
    reached_at, so_far = row.terms.amount, total_spent(rated)
    if row.terms.base is not None:
        whole, so_far = _whole(row.terms.base, rated, limits, so_far)
        reached_at = None if whole is None else row.terms.of(whole)
    return ThresholdState(row=row, reached_at=reached_at, spent=so_far, fired_at=fired_at)


def total_spent(rated: RatedPeriod) -> Decimal:
    """What a rated period comes to over all contracts, at 12 decimals."""
    total = _ZERO
    for contract in rated.contracts:
        total = EXACT.add(total, spent(contract.rating.lines))
    return total


def _whole(
    base: ThresholdBase, rated: RatedPeriod, limits: Sequence[MoneyLimit], so_far: Decimal
) -> tuple[Decimal | None, Decimal]:
    """What a percentage is of, and what counts against it."""
    if base.kind is BaseKind.LIMIT:
        currencies = {contract.bound.contract.currency.code for contract in rated.contracts}
        found = (
            limit.capacity
            for limit in limits
            if limit.name == base.name and limit.currency in currencies
        )
        return next(found, None), so_far
    # Of each contract that promises it: a contract that was replaced promised its own days.
    promised, reached, found_any = _ZERO, _ZERO, False
    for contract in rated.contracts:
        plan = contract.bound.plan
        for each in plan.commitments:
            if each.key == base.name:
                counted = each.charges or frozenset(charge.key for charge in plan.charges)
                share = share_of(contract.bound, rated.period)
                promised = EXACT.add(promised, share.of(each.amount))
                reached = EXACT.add(reached, spent(contract.rating.lines, counted))
                found_any = True
    return (promised, reached) if found_any else (None, so_far)
