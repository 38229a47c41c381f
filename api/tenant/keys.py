"""A tenant's own API keys: list, issue, revoke."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import Controller, delete, get, post
from litestar.params import JSONBody

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import IdPath, Instant, Name, Slug, in_utc
from api.schemas import ApiKey, NewKeySecret, show_key, show_secret
from billing.operations.tenancy.keys import issue_key, list_keys, revoke_key
from billing.tenancy.api_key import Role
from billing.tenancy.tenant import DEFAULT_PROJECT


class NewTenantKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to issue: `inference` for applications, `tenant` for people and scripts."""

    role: Literal["inference", "tenant"] = "inference"
    name: Name = ""
    project: Slug = DEFAULT_PROJECT
    expires_at: Instant | None = None


class KeyController(Controller):
    """API keys of the caller."""

    path = "/keys"
    tags = ("Keys",)
    guards = (TENANT_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(operation_id="list_keys", summary="List keys, without secrets", sync_to_thread=True)
    def keys(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> list[ApiKey]:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return [show_key(key) for key in list_keys(transaction, tenant_id=tenant.id)]

    @post(
        operation_id="issue_key",
        summary="Issue a key; its secret is shown this once",
        sync_to_thread=True,
    )
    def issue(
        self,
        deployment: DeploymentInUse,
        tenant_caller: CallingTenant,
        data: JSONBody[NewTenantKey],
    ) -> NewKeySecret:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            issued = issue_key(
                transaction,
                role=Role(data.role),
                tenant=tenant.slug,
                name=data.name,
                project=data.project,
                expires_at=data.expires_at and in_utc(data.expires_at, field="expires_at"),
                now=deployment.now(),
            )
        return show_secret(issued)

    @delete(
        "/{key_id:int}",
        operation_id="revoke_key",
        summary="Revoke a key, in less than a second",
        sync_to_thread=True,
    )
    def revoke(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, key_id: IdPath
    ) -> None:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            revoke_key(transaction, key_id, tenant_id=tenant.id, now=deployment.now())
