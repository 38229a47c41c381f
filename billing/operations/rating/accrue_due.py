"""Keep accruals current: rate again what changed, and what the clock changes, and nothing else.

Decides: which billing periods of a tenant a change touches, when time alone makes a tenant due
again, and when what failed is tried again. What is posted is decided by `accrue_tenants`.

Changes come from the epochs of rollups (`note_changes`) and from triggers on contracts, grants and
holds. What is due is taken off the queue in the transaction that accrues it, so a worker that dies
leaves either both or neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from billing.catalog.contract import Contract
from billing.errors import SteelyardError
from billing.operations.catalog.contracts import bound_plans_of
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.invoicing.issue_drafts import EnqueueMirror
from billing.operations.invoicing.issue_progressive import (
    issue_progressive,
    lowest_threshold,
)
from billing.operations.rating.accrue_tenants import AccruedPeriod, accrue_tenants
from billing.operations.rating.alerts import (
    FiredAlert,
    fire_alerts,
    total_spent,
    watched_tenants,
)
from billing.operations.rating.rate_tenants import tenant_periods
from billing.period import BUCKET, Period, bucket_of
from billing.store import accrual_queue as queue
from billing.store import tenancy as tenancy_store
from billing.store.accrual_queue import DueRow, RatingLag
from billing.store.holds import lock_credits
from billing.tenancy.tenant import Tenant

COMMIT_LAG = timedelta(minutes=1)
"""Usage that was drawn from credit longer ago than this is in the ledger when accrual reads it."""

UNRATED = "unrated_usage"
"""Why a period is looked at again though its accruals are up to date (R5)."""

UNRATED_AGAIN = timedelta(days=1)
"""Contracts and usage, which alone can price it, make their tenant due at once."""

RETRY_MIN = timedelta(minutes=1)
RETRY_MAX = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccruedPage:
    """What one transaction brought up to date.

    Attributes:
        periods: all that were rated.
        unrated: tenants with usage that no charge prices, told the first time only.
        fired: thresholds that were reached.
        invoiced: numbers of invoices of running periods that were due.
        refused: tenants whose such invoice could not be issued, and why.
    """

    periods: tuple[AccruedPeriod, ...]
    unrated: tuple[str, ...]
    fired: tuple[FiredAlert, ...]
    invoiced: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


def note_changes(connection: sa.Connection, *, now: datetime) -> int:
    """Queue whoever's usage changed since the last time, in the operator role's transaction."""
    return queue.take_changes(connection, settled=now - COMMIT_LAG, now=now)


def due_tenants(connection: sa.Connection, *, now: datetime, most: int) -> list[int]:
    """Tenants whose accruals may be behind, those who wait the longest first."""
    return queue.due_tenants(connection, now=now, most=most)


def rating_lag(connection: sa.Connection, *, now: datetime) -> RatingLag:
    """How far accruals are behind the ledger of usage."""
    return queue.rating_lag(connection, now=now)


def accrue_due(
    connection: sa.Connection,
    tenant_ids: Sequence[int],
    *,
    enqueue_mirror: EnqueueMirror | None = None,
    now: datetime,
) -> AccruedPage:
    """Accrue what is due of tenants, and pay it with their credit, in the operator's transaction.

    What a plan wants invoiced on the way is invoiced in the same transaction.

    Args:
        tenant_ids: a page of a few hundred at most; they are locked until commit.
        enqueue_mirror: how the Stripe mirror is asked for; None where Stripe is not configured.

    Raises:
        SteelyardError: a tenant's usage cannot be rated; see `postpone`.
    """
    tenants = {each.id: each for each in tenancy_store.tenants_by_id(connection, tenant_ids)}
    bound = bound_plans_of(connection, tenant_ids)
    contracts: defaultdict[int, list[Contract]] = defaultdict(list)
    for entry in bound:
        contracts[entry.contract.tenant_id].append(entry.contract)
    levels = queue.tenants_with_levels(connection, tenant_ids)
    rows = queue.take_due(connection, tenant_ids, now=now)
    touched = _touched(rows, tenants, levels, now=now)
    asked = [(tenants[id_], period) for id_ in tenants for period in touched.get(id_, ())]
    accrued = accrue_tenants(connection, tenant_periods(connection, asked, bound), now=now)
    for tenant_id in sorted({owner for owner, _ in lock_credits(connection, touched)}):
        _pay(connection, tenants[tenant_id], touched[tenant_id], now=now)
    fired = _fired(connection, accrued, now=now)
    issued = [
        _invoice(connection, tenants[tenant_id], enqueue_mirror, now=now)
        for tenant_id in _to_invoice(accrued, now=now)
    ]
    known = {row.tenant_id for row in rows if row.problem == UNRATED}
    unrated = [each for each in accrued if each.unrated]
    queue.put_due(
        connection,
        [
            *_ahead(rows, tenants, now=now),
            *(_unrated_row(each, now=now) for each in unrated),
            *(_refused_row(each, now=now) for each in issued if each.problem),
            *(
                row
                for tenant in tenants.values()
                if (row := _clock_row(tenant, contracts[tenant.id], tenant.id in levels, now=now))
            ),
        ],
    )
    queue.count_periods(connection, sum(each.posted for each in accrued))
    slugs = {each.tenant.slug for each in unrated if each.tenant.id not in known}
    return AccruedPage(
        periods=accrued,
        unrated=tuple(sorted(slugs)),
        fired=fired,
        invoiced=tuple(each.number for each in issued if each.number),
        refused=tuple((each.tenant.slug, each.problem) for each in issued if each.problem),
    )


def postpone(connection: sa.Connection, tenant_id: int, problem: str, *, now: datetime) -> int:
    """Try a tenant again later, the later the oftener it failed; how often it has by now.

    New usage of it is tried at once.
    """
    tenant = tenancy_store.tenant_by_id(connection, tenant_id)
    rows = queue.take_due(connection, [tenant_id], now=now)
    attempts = 1 + max((row.attempts for row in rows), default=0)
    pause = min(RETRY_MIN * 2 ** min(attempts - 1, 10), RETRY_MAX)
    by_period: dict[datetime, DueRow] = {}
    for row in rows:
        start = tenant.billing_period(row.touched).start
        before = by_period.get(start, row)
        by_period[start] = replace(
            row,
            touched=start,
            onwards=row.onwards or before.onwards,
            noted_at=min(row.noted_at, before.noted_at),
            due_at=now + pause,
            by_clock=False,
            attempts=attempts,
            problem=problem,
        )
    queue.put_due(connection, by_period.values())
    queue.count_failure(connection)
    return attempts


def _touched(
    rows: Iterable[DueRow],
    tenants: dict[int, Tenant],
    levels: frozenset[int],
    *,
    now: datetime,
) -> dict[int, tuple[Period, ...]]:
    """Billing periods by tenant, ascending; those that are still to come are left out."""
    found: defaultdict[int, set[tuple[datetime, datetime]]] = defaultdict(set)
    for row in rows:
        if row.by_clock and row.due_at > now:
            continue
        tenant = tenants[row.tenant_id]
        period = tenant.billing_period(row.touched)
        # A level that was changed goes on in every period after it.
        onwards = row.onwards or row.tenant_id in levels
        while period.start <= now:
            found[row.tenant_id].add((period.start, period.end))
            if not onwards:
                break
            period = tenant.billing_period(period.end)
    return {
        tenant_id: tuple(Period(start=start, end=end) for start, end in sorted(spans))
        for tenant_id, spans in found.items()
    }


def _fired(
    connection: sa.Connection, accrued: Sequence[AccruedPeriod], *, now: datetime
) -> tuple[FiredAlert, ...]:
    """Thresholds that were reached; lines are made of those tenants alone who have one."""
    watched = watched_tenants(connection, [each.tenant.id for each in accrued])
    rated = [each.rated for each in accrued if each.tenant.id in watched]
    return fire_alerts(connection, rated, now=now)


def _pay(
    connection: sa.Connection, tenant: Tenant, periods: Sequence[Period], *, now: datetime
) -> None:
    """Pay what was accrued with credit; draws stop counting once all of it is paid."""
    for period in periods:
        last = period is periods[-1]
        apply_credits(
            connection,
            tenant=tenant,
            period=period,
            settled_through=now - COMMIT_LAG if last else None,
            now=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    """What became of an invoice on the way: a number, a problem, or neither if none was due."""

    tenant: Tenant
    number: str | None = None
    problem: str | None = None


def _to_invoice(accrued: Iterable[AccruedPeriod], *, now: datetime) -> list[int]:
    """Tenants whose running period may have to be invoiced so far; unrated usage is in the way."""
    return [
        each.tenant.id
        for each in accrued
        if now in each.period
        and not each.unrated
        and (threshold := lowest_threshold(entry.plan for entry in each.asked.bound)) is not None
        and total_spent(each.rated) >= threshold
    ]


def _invoice(
    connection: sa.Connection,
    tenant: Tenant,
    enqueue_mirror: EnqueueMirror | None,
    *,
    now: datetime,
) -> _Issued:
    savepoint = connection.begin_nested()
    try:
        row = issue_progressive(connection, tenant=tenant, enqueue_mirror=enqueue_mirror, now=now)
    except SteelyardError as error:
        # What was accrued stays: an invoice that is refused makes no figure wrong.
        savepoint.rollback()
        return _Issued(tenant=tenant, problem=error.code)
    savepoint.commit()
    return _Issued(tenant=tenant, number=row and row.number)


def _refused_row(issued: _Issued, *, now: datetime) -> DueRow:
    return DueRow(
        tenant_id=issued.tenant.id,
        touched=issued.tenant.billing_period(now).start,
        onwards=False,
        due_at=now + RETRY_MAX,
        noted_at=now,
        attempts=1,
        problem=issued.problem,
    )


def _ahead(rows: Iterable[DueRow], tenants: dict[int, Tenant], *, now: datetime) -> list[DueRow]:
    """Entries of usage in billing periods that have not begun, kept until they do."""
    starts = [(row, tenants[row.tenant_id].billing_period(row.touched).start) for row in rows]
    return [replace(row, due_at=start) for row, start in starts if start > now]


def _unrated_row(accrued: AccruedPeriod, *, now: datetime) -> DueRow:
    return DueRow(
        tenant_id=accrued.tenant.id,
        touched=accrued.period.start,
        onwards=False,
        due_at=now + UNRATED_AGAIN,
        noted_at=now,
        attempts=1,
        problem=UNRATED,
    )


def _clock_row(
    tenant: Tenant, contracts: Iterable[Contract], has_levels: bool, *, now: datetime
) -> DueRow | None:
    """When time alone changes what a tenant has earned: fees begin, minimums close, levels last."""
    period = tenant.billing_period(now)
    instants: list[datetime] = []
    for contract in contracts:
        if contract.valid_until is not None and contract.valid_until <= now:
            continue
        instants += [contract.valid_from, contract.valid_until or period.end]
        if contract.in_force(now):
            instants.append(period.end)
            if has_levels:
                instants.append(bucket_of(now) + BUCKET)
    due_at = min((instant for instant in instants if instant > now), default=None)
    if due_at is None:
        return None
    return DueRow(
        tenant_id=tenant.id,
        touched=period.start,
        onwards=True,
        due_at=due_at,
        noted_at=now,
        by_clock=True,
    )
