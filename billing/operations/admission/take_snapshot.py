"""Take the snapshot of keys, terms and models against which the proxy admits requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from billing.admission.backend import ServedModel
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import TenantTerms
from billing.catalog.price_plan import PricePlan, prices_model
from billing.metering.event_id import microseconds
from billing.metering.token_class import TokenClass
from billing.operations.catalog.contracts import BoundPlan, bound_plans
from billing.store import catalog
from billing.store import tenancy as tenancy_store
from billing.store.database import Role, become


def take_snapshot(
    connection: sa.Connection, *, models: Sequence[ServedModel], version: int, now: datetime
) -> Snapshot:
    """Everything that admission needs, at one instant.

    Args:
        models: what the configured backends serve; ids are filled in here.
        version: number of the snapshot.
    """
    become(connection, Role.OPERATOR)
    keys = tenancy_store.live_keys(connection, now=now)
    bound: defaultdict[int, list[BoundPlan]] = defaultdict(list)
    for entry in bound_plans(connection):
        if entry.contract.in_force(now):
            bound[entry.contract.tenant_id].append(entry)
    # Events are written under the ingest role, which also interns what they refer to.
    become(connection, Role.INGEST)
    ids = catalog.ensure_models(connection, (model.name for model in models))
    return Snapshot(
        version=version,
        keys={
            key.digest: KeyGrant(
                key_id=key.id,
                tenant_id=key.tenant_id,
                project_id=key.project_id,
                may_infer=key.role.may_infer,
                expires_at_us=None if key.expires_at is None else microseconds(key.expires_at),
            )
            for key in keys
            if key.tenant_id is not None and key.project_id is not None
        },
        terms={
            tenant_id: TenantTerms(
                tenant_id=tenant_id,
                price_version_id=catalog.price_version(
                    connection,
                    tenant_id=tenant_id,
                    contract_ids=[entry.contract.id for entry in entries],
                ),
                priced=_priced([entry.plan for entry in entries], models),
            )
            for tenant_id, entries in bound.items()
        },
        models={model.name: replace(model, id=ids[model.name]) for model in models},
    )


def _priced(
    plans: Sequence[PricePlan], models: Sequence[ServedModel]
) -> dict[str, frozenset[TokenClass]]:
    priced = {
        model.name: frozenset[TokenClass]().union(
            *(prices_model(plan, model.name) for plan in plans)
        )
        for model in models
    }
    return {name: classes for name, classes in priced.items() if classes}
