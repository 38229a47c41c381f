"""What every handler works with: the database, the settings, the clock.

Decides which database role stands behind a tenant's and behind an operator's request. Decides no
rights of callers: `api.auth` does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from billing.operations.payments.mirror_invoice import enqueue_mirror
from billing.settings import Settings
from billing.store.database import Database, Role
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant

Clock = Callable[[], datetime]
Connection = ASGIConnection[Any, object, object, State]
"""A request, of whatever handler, caller and state."""


def utc_now() -> datetime:
    """The clock of a real process."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One running deployment, as handlers see it."""

    database: Database
    settings: Settings
    clock: Clock

    def now(self) -> datetime:
        """The instant at which a request acts."""
        return self.clock()

    def as_tenant(self, tenant: Tenant) -> AbstractContextManager[sa.Connection]:
        """A transaction in which row-level security shows only this tenant's rows (T1)."""
        return self.database.transaction(Role.TENANT, tenant_id=tenant.id)

    def as_operator(self, *, snapshot: bool = False) -> AbstractContextManager[sa.Connection]:
        """A transaction over all tenants' rows; with `snapshot` it reads one moment's."""
        return self.database.transaction(Role.OPERATOR, snapshot=snapshot)

    def enqueue_mirror(self) -> Callable[[sa.Connection, InvoiceRow], None] | None:
        """How an issued invoice reaches Stripe; None where Stripe is not configured."""
        return None if self.settings.stripe_api_key is None else enqueue_mirror


DeploymentInUse = NamedDependency[SkipValidation[Deployment]]
"""How a handler asks for its deployment."""


def deployment_of(connection: Connection) -> Deployment:
    """The deployment that an app was created for."""
    deployment: object = connection.app.state["deployment"]
    assert isinstance(deployment, Deployment)
    return deployment
