"""A tenant's own limits: what they count and what is left."""

from __future__ import annotations

from litestar import Controller, get

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.deployment import DeploymentInUse
from api.limit_schemas import Limit, show_limit
from billing.operations.holds.define_limit import list_limits


class OwnLimitController(Controller):
    """Limits of the caller."""

    path = "/limits"
    tags = ("Limits",)
    guards = (TENANT_ONLY,)
    security = SECURITY

    @get(
        operation_id="list_limits",
        summary="List limits and what is left of them",
        sync_to_thread=True,
    )
    def list_all(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> list[Limit]:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            found = list_limits(transaction, tenant=tenant, now=deployment.now())
        return [show_limit(row) for row in found]
