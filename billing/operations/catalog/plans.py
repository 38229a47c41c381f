"""Apply a plan file as an immutable version, and read versions back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.catalog.charge import Charge
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import OUTCOME_PREFIX
from billing.errors import InvalidPlan, NotFound
from billing.metering.meter import outcome_meter
from billing.planfiles.plan_dump import digest, dump
from billing.planfiles.plan_file import load_document, require_price_books
from billing.rating.meter_fit import DeclaredMeter, declared_meter
from billing.store import catalog as store
from billing.store import meters as meter_store
from billing.store import outcomes as outcome_store
from billing.store.catalog import PlanVersionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedPlan:
    """A stored plan version; `created` is False if it equals the newest one."""

    plan: PricePlan
    created: bool


def apply_plan(connection: sa.Connection, text: str | bytes, *, now: datetime) -> AppliedPlan:
    """Store a plan file as the next version of its plan.

    A file equal to the newest version stores nothing, so that applying a folder of plans again
    is harmless. Outcomes that the plan prices and nobody defined yet are defined with it.

    Raises:
        InvalidPlan: the file is refused; names line, field and remedy.
    """
    plan, *others = _read(connection, text)
    if others:
        raise InvalidPlan(
            "a file of several currencies is several plans",
            field="currencies",
            remedy="apply it with steelyard plan apply, or one file per currency",
        )
    return _apply(connection, plan, now=now)


def apply_price_books(
    connection: sa.Connection, text: str | bytes, *, now: datetime
) -> tuple[AppliedPlan, ...]:
    """`apply_plan` for a file of any number of currencies: one plan for each, its own first.

    Raises:
        InvalidPlan: the file is refused; names line, field and remedy.
    """
    plans = _read(connection, text)
    return tuple(_apply(connection, plan, now=now) for plan in plans)


def declared_meters(
    connection: sa.Connection, *, at: datetime | None = None
) -> dict[str, DeclaredMeter]:
    """The meters of this deployment by code, as their newest versions declare them.

    Args:
        at: of the versions that have taken effect by then; None: of all.
    """
    # Rows come by code and version, so that the last one of a code stays.
    rows = meter_store.meter_versions(connection)
    return {
        row.defined.meter.code: declared_meter(row.defined)
        for row in rows
        if at is None or row.defined.effective_from <= at
    }


def _read(connection: sa.Connection, text: str | bytes) -> tuple[PricePlan, ...]:
    return require_price_books(text, meters=declared_meters(connection))


def _apply(connection: sa.Connection, plan: PricePlan, *, now: datetime) -> AppliedPlan:
    newest = store.newest_plan_version(connection, plan.slug)
    fingerprint = bytes.fromhex(digest(plan))
    if newest is not None and bytes(newest.digest) == fingerprint:
        return AppliedPlan(plan=plan_of(newest), created=False)
    for charge in plan.charges:
        if charge.selector is not None and charge.selector.meter.startswith(OUTCOME_PREFIX):
            _define_outcome(connection, charge, charge.selector.meter, now=now)
    version = 1 if newest is None else newest.version + 1
    store.insert_plan_version(
        connection,
        slug=plan.slug,
        version=version,
        name=plan.name,
        currency_code=plan.currency.code,
        document=dump(plan),
        digest=fingerprint,
        now=now,
    )
    return AppliedPlan(plan=require_plan(connection, plan.slug, version), created=True)


def require_plan(connection: sa.Connection, slug: str, version: int | None = None) -> PricePlan:
    """A stored plan version; the newest one without a version.

    Raises:
        NotFound: no such plan or version.
    """
    return plan_of(require_plan_row(connection, slug, version))


def require_plan_row(
    connection: sa.Connection, slug: str, version: int | None = None
) -> PlanVersionRow:
    """The row of a stored plan version; the newest one without a version.

    Raises:
        NotFound: no such plan or version.
    """
    row = store.plan_version(connection, slug, version)
    if row is None:
        raise NotFound(
            "no such plan or version", field="plan", remedy="apply the plan file, or list plans"
        )
    return row


def list_plans(connection: sa.Connection) -> list[PricePlan]:
    """All versions of all plans, by slug and version."""
    return [plan_of(row) for row in store.plan_versions(connection)]


def plan_of(row: PlanVersionRow) -> PricePlan:
    """The plan of a stored row."""
    return load_document(row.document, version=row.version)


def _define_outcome(connection: sa.Connection, charge: Charge, code: str, *, now: datetime) -> None:
    slug = code.removeprefix(OUTCOME_PREFIX)
    if outcome_store.definition(connection, slug) is not None:
        return
    meter = outcome_meter(slug)
    meter_id = store.insert_meter(
        connection, code=meter.code, unit=meter.unit, informational=False, now=now
    )
    outcome_store.insert_definition(
        connection,
        slug=slug,
        name=charge.description,
        meter_version_id=meter_id,
        now=now,
    )
