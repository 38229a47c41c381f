"""Take the snapshot of keys, terms and models against which the proxy admits requests.

Decides: what of the contracts in force reaches the proxy. Tenants on the same plans share one
reading of them, so that the work grows with plans and models, not with tenants.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from billing.admission.amounts import Rates
from billing.admission.backend import ServedModel
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import AdmissionPolicy, Payment, TenantTerms, Unpriced
from billing.catalog.admission_policy import strictest
from billing.catalog.contract_terms import NO_TERMS
from billing.catalog.price_plan import Coverage, PricePlan
from billing.catalog.rates import proxy_rates, rates_of
from billing.metering.event_id import microseconds
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter
from billing.operations.admission.wired_limits import require_wired
from billing.operations.catalog.contracts import BoundPlan, bound_plans
from billing.operations.catalog.coverage import leaves_unpriced
from billing.operations.catalog.plans import declared_meters
from billing.rating.meter_fit import DeclaredMeter
from billing.store import catalog
from billing.store import holds as holds_store
from billing.store import leases as leases_store
from billing.store import tenancy as tenancy_store
from billing.store.database import Role, become


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanTerms:
    """What a set of plans says together, whoever is bound to it."""

    priced: Mapping[str, frozenset[TokenClass]]
    priced_units: Mapping[str, frozenset[UnitMeter]]
    policy: AdmissionPolicy
    rates: Mapping[str, Rates]
    currency: str


def take_snapshot(
    connection: sa.Connection,
    *,
    models: Sequence[ServedModel],
    version: int,
    now: datetime,
    all_said: bool = True,
) -> Snapshot:
    """Everything that admission needs, at one instant.

    Args:
        models: what the configured backends serve; ids are filled in here.
        version: number of the snapshot.
        all_said: no backend is left that has not said yet what it serves.

    Raises:
        ConfigurationError: a limit is in force that cannot be kept.
    """
    become(connection, Role.OPERATOR)
    keys = take_keys(connection, now=now)
    limits = leases_store.limits_of(connection, now=now)
    # Before contracts are read: an error of theirs would not say which limit it breaks.
    require_wired(connection, limits, currencies={}, served=None)
    bound = _in_force(connection, now)
    said = _plan_terms(bound, models, _meters_of_shares(connection, bound, now))
    credit = _prepaid_credit(connection, said)
    # Events are written under the ingest role, which also interns what they refer to.
    become(connection, Role.INGEST)
    ids = catalog.ensure_models(connection, (model.name for model in models))
    require_wired(
        connection,
        limits,
        currencies={tenant_id: terms.currency for tenant_id, terms in said.items()},
        served=frozenset(ids.values()) if all_said else None,
    )
    versions = catalog.price_versions(
        connection,
        {tenant: [entry.contract.id for entry in entries] for tenant, entries in bound.items()},
    )
    return Snapshot(
        version=version,
        keys=keys,
        terms={
            tenant_id: TenantTerms(
                tenant_id=tenant_id,
                price_version_id=versions[tenant_id],
                priced=terms.priced,
                priced_units=terms.priced_units,
                policy=terms.policy,
                rates=terms.rates,
                currency=terms.currency,
                limits=limits.get(tenant_id, ()),
                prepaid=credit.get(tenant_id),
            )
            for tenant_id, terms in said.items()
        },
        models={model.name: replace(model, id=ids[model.name]) for model in models},
        taken_at_us=microseconds(now),
    )


def _in_force(connection: sa.Connection, now: datetime) -> Mapping[int, list[BoundPlan]]:
    """The contracts in force, by tenant."""
    bound: defaultdict[int, list[BoundPlan]] = defaultdict(list)
    for entry in bound_plans(connection, at=now):
        if entry.contract.in_force(now):
            bound[entry.contract.tenant_id].append(entry)
    return bound


def take_keys(connection: sa.Connection, *, now: datetime) -> dict[bytes, KeyGrant]:
    """The keys that live at an instant, by their digest."""
    return {
        key.digest: KeyGrant(
            key_id=key.id,
            tenant_id=key.tenant_id,
            project_id=key.project_id,
            may_infer=key.role.may_infer,
            expires_at_us=None if key.expires_at is None else microseconds(key.expires_at),
        )
        for key in tenancy_store.live_keys(connection, now=now)
        if key.tenant_id is not None and key.project_id is not None
    }


def _meters_of_shares(
    connection: sa.Connection, bound: Mapping[int, Sequence[BoundPlan]], now: datetime
) -> Mapping[str, DeclaredMeter]:
    """The meters in effect, if some plan leaves part of a class to other contracts."""
    every = (entry.plan.policies.coverage for entries in bound.values() for entry in entries)
    return declared_meters(connection, at=now) if Coverage.TOGETHER in every else {}


def _plan_terms(
    bound: Mapping[int, Sequence[BoundPlan]],
    models: Sequence[ServedModel],
    meters: Mapping[str, DeclaredMeter],
) -> dict[int, _PlanTerms]:
    shared: dict[tuple[tuple[str, int, int], ...], _PlanTerms] = {}
    said: dict[int, _PlanTerms] = {}
    for tenant_id, entries in bound.items():
        plans = tuple(sorted(_prices_of(entry) for entry in entries))
        if plans not in shared:
            shared[plans] = _read_plans([entry.plan for entry in entries], models, meters)
        said[tenant_id] = shared[plans]
    return said


def _prices_of(entry: BoundPlan) -> tuple[str, int, int]:
    """What names a contract's prices: its plan version, and the contract if it has terms."""
    contract = entry.contract
    own = 0 if entry.terms == NO_TERMS else contract.id
    return contract.plan_slug, contract.plan_version, own


def _read_plans(
    plans: Sequence[PricePlan],
    models: Sequence[ServedModel],
    meters: Mapping[str, DeclaredMeter],
) -> _PlanTerms:
    """What contracts say together; a class that they leave partly without a price is not sold."""
    policy = strictest(plan.policies.admission for plan in plans)
    prices = {model.name: rates_of(plans, model.name) for model in models}
    classes = {
        name: frozenset(
            each
            for each in TokenClass
            if each.meter in found
            and not ((meter := meters.get(each.meter)) and leaves_unpriced(plans, meter, name))
        )
        for name, found in prices.items()
    }
    units = {
        name: frozenset(unit for unit in UnitMeter if unit.value in found)
        for name, found in prices.items()
    }
    return _PlanTerms(
        priced={name: found for name, found in classes.items() if found},
        priced_units={name: found for name, found in units.items() if found},
        policy=policy,
        rates={
            name: proxy_rates(found)
            for name, found in prices.items()
            if classes[name] or units[name] or policy.unpriced is Unpriced.FREE
        },
        # Contracts of one billing period are in one currency: binding another is refused.
        currency=plans[0].currency.code,
    )


def _prepaid_credit(connection: sa.Connection, said: Mapping[int, _PlanTerms]) -> dict[int, int]:
    """Row ids of the credit that prepaid tenants draw on; one without credit yet gets its row.

    Without a row nothing would limit its requests.
    """
    prepaid = {
        tenant_id: terms.currency
        for tenant_id, terms in said.items()
        if terms.policy.payment is Payment.PREPAID
    }
    return holds_store.ensure_credits(connection, prepaid) if prepaid else {}
