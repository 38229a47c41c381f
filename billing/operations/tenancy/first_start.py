"""What `steelyard up` creates on the first start, so that the first request works."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from billing.operations.catalog.contracts import bind_contract
from billing.operations.catalog.plans import apply_plan
from billing.operations.tenancy.keys import issue_key
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant, list_tenants
from billing.planfiles.plan_file import EXAMPLES
from billing.tenancy.api_key import Role

TENANT = "demo"
KEY_LIFE = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStart:
    """What a start made.

    Attributes:
        created: the operator and its demo tenant are new.
        key: a fresh key of the demo tenant; None if somebody removed that tenant.
    """

    created: bool
    key: str | None = field(repr=False)


def prepare_first_start(connection: sa.Connection, *, now: datetime) -> FirstStart:
    """Create a demo operator and tenant if there is no tenant yet, and issue a fresh key.

    Keys are never stored, so every start issues one; it ends after `KEY_LIFE`.
    """
    tenants = list_tenants(connection)
    created = not tenants
    if created:
        _create(connection, now=now)
    elif TENANT not in {tenant.slug for tenant in tenants}:
        return FirstStart(created=False, key=None)
    key = issue_key(
        connection,
        role=Role.TENANT,
        tenant=TENANT,
        name="issued at start-up",
        expires_at=now + KEY_LIFE,
        now=now,
    )
    return FirstStart(created=created, key=key.text)


def _create(connection: sa.Connection, *, now: datetime) -> None:
    create_legal_entity(
        connection,
        slug="operator",
        name="Demo Operator",
        country="US",
        currency_code="USD",
        zone_name="UTC",
        invoice_prefix="INV-",
        now=now,
    )
    tenant = create_tenant(connection, slug=TENANT, name="Demo Tenant", now=now)
    plan = apply_plan(connection, EXAMPLES.joinpath("starter.yaml").read_text("utf-8"), now=now)
    bind_contract(
        connection,
        tenant=TENANT,
        plan=plan.plan.slug,
        valid_from=tenant.billing_period(now).start,
        now=now,
    )
