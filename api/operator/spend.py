"""Running billing periods of tenants: balance, forecast, thresholds and what they told."""

from __future__ import annotations

from litestar import Controller, delete, get, put
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK

from api.auth import OPERATOR_ONLY, SECURITY
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
from billing.operations.tenancy.tenants import require_tenant


class OperatorSpendController(Controller):
    """Spend of all tenants."""

    path = "/operator/tenants/{tenant:str}/spend"
    tags = ("Operator: spend",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(
        "/balance",
        operation_id="operator_show_balance",
        summary="Show what a tenant's running billing period comes to now",
        sync_to_thread=True,
    )
    def balance(self, deployment: DeploymentInUse, tenant: SlugPath) -> Balance:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return show_balance(live_balance(transaction, tenant=owner, now=deployment.now()))

    @get(
        "/forecast",
        operation_id="operator_show_forecast",
        summary="Forecast a tenant's running billing period, with a range and the method",
        sync_to_thread=True,
    )
    def forecast(self, deployment: DeploymentInUse, tenant: SlugPath) -> Forecast:
        now = deployment.now()
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            rated = rate_running(transaction, tenant=owner, now=now)
            return show_forecast(require_forecast(transaction, rated, now=now))

    @get(
        "/thresholds",
        operation_id="operator_list_thresholds",
        summary="List what a tenant's spend is watched for",
        sync_to_thread=True,
    )
    def thresholds(self, deployment: DeploymentInUse, tenant: SlugPath) -> list[SpendThreshold]:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return [show_threshold(row) for row in list_thresholds(transaction, tenant=owner)]

    @put(
        "/thresholds/{name:str}",
        operation_id="operator_set_threshold",
        summary="Watch a tenant's spend; the same words again change nothing",
        sync_to_thread=True,
    )
    def define(
        self,
        deployment: DeploymentInUse,
        tenant: SlugPath,
        name: SlugPath,
        data: JSONBody[NewThreshold],
    ) -> SpendThreshold:
        terms = threshold_of(data)
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return show_threshold(
                define_threshold(
                    transaction,
                    tenant=owner,
                    name=name,
                    terms=terms,
                    made_by=MadeBy.OPERATOR,
                    now=deployment.now(),
                )
            )

    @delete(
        "/thresholds/{name:str}",
        operation_id="operator_end_threshold",
        summary="Stop watching a tenant's spend; alerts that fired stay",
        status_code=HTTP_200_OK,
        sync_to_thread=True,
    )
    def end(self, deployment: DeploymentInUse, tenant: SlugPath, name: SlugPath) -> SpendThreshold:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return show_threshold(
                end_threshold(
                    transaction,
                    tenant=owner,
                    name=name,
                    asked_by=MadeBy.OPERATOR,
                    now=deployment.now(),
                )
            )

    @get(
        "/alerts",
        operation_id="operator_list_spend_alerts",
        summary="List a tenant's newest alerts",
        sync_to_thread=True,
    )
    def alerts(self, deployment: DeploymentInUse, tenant: SlugPath) -> list[SpendAlert]:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return [show_alert(row) for row in list_alerts(transaction, tenant_id=owner.id)]
