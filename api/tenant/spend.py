"""A tenant's running billing period: balance, forecast, thresholds and what they told."""

from __future__ import annotations

from litestar import Controller, delete, get, put
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import SlugPath
from api.spend_schemas import (
    Balance,
    Forecast,
    NewThreshold,
    SpendAlert,
    SpendThreshold,
    show_alert,
    show_balance,
    show_forecast,
    show_threshold,
    threshold_of,
)
from billing.operations.rating.alerts import (
    MadeBy,
    define_threshold,
    end_threshold,
    list_alerts,
    list_thresholds,
)
from billing.operations.rating.forecast_spend import require_forecast
from billing.operations.rating.live_balance import live_balance, rate_running


class SpendController(Controller):
    """Spend of the caller."""

    path = "/spend"
    tags = ("Spend",)
    guards = (TENANT_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(
        "/balance",
        operation_id="show_balance",
        summary="Show what the running billing period comes to now",
        sync_to_thread=True,
    )
    def balance(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> Balance:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return show_balance(live_balance(transaction, tenant=tenant, now=deployment.now()))

    @get(
        "/forecast",
        operation_id="show_forecast",
        summary="Forecast the running billing period, with a range and the method",
        sync_to_thread=True,
    )
    def forecast(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> Forecast:
        tenant, now = tenant_caller.tenant, deployment.now()
        with deployment.as_tenant(tenant) as transaction:
            rated = rate_running(transaction, tenant=tenant, now=now)
            return show_forecast(require_forecast(transaction, rated, now=now))

    @get(
        "/thresholds",
        operation_id="list_thresholds",
        summary="List what spend is watched for",
        sync_to_thread=True,
    )
    def thresholds(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant
    ) -> list[SpendThreshold]:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return [show_threshold(row) for row in list_thresholds(transaction, tenant=tenant)]

    @put(
        "/thresholds/{name:str}",
        operation_id="set_threshold",
        summary="Watch spend; the same words again change nothing",
        sync_to_thread=True,
    )
    def define(
        self,
        deployment: DeploymentInUse,
        tenant_caller: CallingTenant,
        name: SlugPath,
        data: JSONBody[NewThreshold],
    ) -> SpendThreshold:
        tenant, terms = tenant_caller.tenant, threshold_of(data)
        with deployment.as_tenant(tenant) as transaction:
            return show_threshold(
                define_threshold(
                    transaction,
                    tenant=tenant,
                    name=name,
                    terms=terms,
                    made_by=MadeBy.TENANT,
                    now=deployment.now(),
                )
            )

    @delete(
        "/thresholds/{name:str}",
        operation_id="end_threshold",
        summary="Stop watching; alerts that fired stay",
        status_code=HTTP_200_OK,
        sync_to_thread=True,
    )
    def end(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, name: SlugPath
    ) -> SpendThreshold:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return show_threshold(
                end_threshold(
                    transaction,
                    tenant=tenant,
                    name=name,
                    asked_by=MadeBy.TENANT,
                    now=deployment.now(),
                )
            )

    @get(
        "/alerts",
        operation_id="list_spend_alerts",
        summary="List the newest alerts",
        sync_to_thread=True,
    )
    def alerts(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> list[SpendAlert]:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return [show_alert(row) for row in list_alerts(transaction, tenant_id=tenant.id)]
