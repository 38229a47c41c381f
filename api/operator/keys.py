"""API keys of everybody: list, issue, revoke."""

from __future__ import annotations

import msgspec
from litestar import Controller, delete, get, post
from litestar.params import JSONBody

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import IdPath, Instant, Name, Slug, SlugQuery, in_utc
from api.schemas import ApiKey, NewKeySecret, show_key, show_secret
from billing.operations.tenancy.keys import issue_key, list_keys, revoke_key
from billing.operations.tenancy.tenants import require_tenant
from billing.tenancy.api_key import Role
from billing.tenancy.tenant import DEFAULT_PROJECT


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to issue: tenant and inference keys name a tenant, operator and finance keys none."""

    role: Role
    tenant: Slug | None = None
    name: Name = ""
    project: Slug = DEFAULT_PROJECT
    expires_at: Instant | None = None


class OperatorKeyController(Controller):
    """API keys of this deployment."""

    path = "/operator/keys"
    tags = ("Operator: tenants",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(operation_id="operator_list_keys", summary="List keys", sync_to_thread=True)
    def keys(self, deployment: DeploymentInUse, tenant: SlugQuery = None) -> list[ApiKey]:
        with deployment.as_operator() as transaction:
            owner = None if tenant is None else require_tenant(transaction, tenant)
            listed = list_keys(transaction, tenant_id=owner and owner.id)
        return [show_key(key) for key in listed]

    @post(
        operation_id="operator_issue_key",
        summary="Issue a key; its secret is shown this once",
        sync_to_thread=True,
    )
    def issue(self, deployment: DeploymentInUse, data: JSONBody[NewKey]) -> NewKeySecret:
        with deployment.as_operator() as transaction:
            issued = issue_key(
                transaction,
                role=data.role,
                tenant=data.tenant,
                name=data.name,
                project=data.project,
                expires_at=data.expires_at and in_utc(data.expires_at, field="expires_at"),
                now=deployment.now(),
            )
        return show_secret(issued)

    @delete(
        "/{key_id:int}",
        operation_id="operator_revoke_key",
        summary="Revoke any key",
        sync_to_thread=True,
    )
    def revoke(self, deployment: DeploymentInUse, key_id: IdPath) -> None:
        with deployment.as_operator() as transaction:
            revoke_key(transaction, key_id, tenant_id=None, now=deployment.now())
