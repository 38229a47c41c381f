"""Create and list tenants."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, get, post
from litestar.params import JSONBody

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import Name, Slug, SlugPath
from billing.operations.tenancy.tenants import create_tenant, list_tenants, require_tenant
from billing.tenancy import tenant as tenancy


class NewTenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant to create. Its zone decides where its months begin."""

    slug: Slug
    name: Name
    legal_entity: Slug | None = None
    zone: Annotated[str, msgspec.Meta(max_length=64, examples=["Europe/Paris"])] | None = None
    anchor_day: int = 1


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation, which is also the bill-to."""

    slug: str
    name: str
    legal_entity: str
    zone: str
    anchor_day: int


class TenantController(Controller):
    """Tenants of this deployment."""

    path = "/operator/tenants"
    tags = ("Operator: tenants",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(operation_id="operator_list_tenants", summary="List tenants", sync_to_thread=True)
    def tenants(self, deployment: DeploymentInUse) -> list[Tenant]:
        with deployment.as_operator() as transaction:
            return [_shown(tenant) for tenant in list_tenants(transaction)]

    @post(operation_id="operator_create_tenant", summary="Create a tenant", sync_to_thread=True)
    def create(self, deployment: DeploymentInUse, data: JSONBody[NewTenant]) -> Tenant:
        with deployment.as_operator() as transaction:
            created = create_tenant(
                transaction,
                slug=data.slug,
                name=data.name,
                legal_entity=data.legal_entity,
                zone_name=data.zone,
                anchor_day=data.anchor_day,
                now=deployment.now(),
            )
        return _shown(created)

    @get(
        "/{tenant:str}",
        operation_id="operator_show_tenant",
        summary="Show a tenant",
        sync_to_thread=True,
    )
    def tenant(self, deployment: DeploymentInUse, tenant: SlugPath) -> Tenant:
        with deployment.as_operator() as transaction:
            return _shown(require_tenant(transaction, tenant))


def _shown(tenant: tenancy.Tenant) -> Tenant:
    return Tenant(
        slug=tenant.slug,
        name=tenant.name,
        legal_entity=tenant.legal_entity,
        zone=tenant.zone,
        anchor_day=tenant.anchor_day,
    )
