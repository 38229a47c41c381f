"""A tenant's own credit: what is left, where it came from, what it paid."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.params import QueryParameter

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.credit_schemas import Credit, CreditStatement, show_credit, show_statement
from api.deployment import DeploymentInUse
from api.fields import FromQuery, ToQuery, asked_period
from billing.operations.credits.read_credits import read_credit, read_statement

CurrencyQuery = Annotated[str, QueryParameter(pattern=r"^[A-Z]{3}$")]


class CreditController(Controller):
    """Credit of the caller."""

    path = "/credit"
    tags = ("Credit",)
    guards = (TENANT_ONLY,)
    security = SECURITY

    @get(
        operation_id="show_credit",
        summary="Show balances, grants and open holds",
        sync_to_thread=True,
    )
    def show(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> Credit:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return show_credit(read_credit(transaction, tenant=tenant, now=deployment.now()))

    @get(
        "/statement",
        operation_id="show_credit_statement",
        summary="Show every movement of credit; without a period, of the current billing period",
        sync_to_thread=True,
    )
    def statement(
        self,
        deployment: DeploymentInUse,
        tenant_caller: CallingTenant,
        currency: CurrencyQuery,
        from_: FromQuery = None,
        to_: ToQuery = None,
    ) -> CreditStatement:
        tenant = tenant_caller.tenant
        period = asked_period(from_, to_, default=tenant.billing_period(deployment.now()))
        with deployment.as_tenant(tenant) as transaction:
            found = read_statement(
                transaction, tenant=tenant, currency_code=currency, period=period
            )
        return show_statement(found)
