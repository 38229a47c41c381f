"""Whose key this is, and the terms in force."""

from __future__ import annotations

from datetime import datetime

import msgspec
from litestar import Controller, get

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.deployment import DeploymentInUse
from api.schemas import BoundContract, show_contract
from billing.operations.catalog.contracts import list_contracts


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant, its current billing period and its contracts."""

    tenant: str
    name: str
    legal_entity: str
    zone: str
    anchor_day: int
    period_start: datetime
    period_end: datetime
    contracts: list[BoundContract]


class AccountController(Controller):
    """Who am I?"""

    path = "/me"
    tags = ("Account",)
    guards = (TENANT_ONLY,)
    security = SECURITY

    @get(operation_id="show_account", summary="Show the account of this key", sync_to_thread=True)
    def show(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> Account:
        tenant = tenant_caller.tenant
        period = tenant.billing_period(deployment.now())
        with deployment.as_tenant(tenant) as transaction:
            contracts = list_contracts(transaction, tenant_id=tenant.id)
        return Account(
            tenant=tenant.slug,
            name=tenant.name,
            legal_entity=tenant.legal_entity,
            zone=tenant.zone,
            anchor_day=tenant.anchor_day,
            period_start=period.start,
            period_end=period.end,
            contracts=[show_contract(contract, {tenant.id: tenant.slug}) for contract in contracts],
        )
