"""Limits of tenants: set, read, end."""

from __future__ import annotations

import msgspec
from litestar import Controller, delete, get, put
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.credit_schemas import CurrencyCode
from api.deployment import DeploymentInUse
from api.fields import DecimalText, Slug, SlugPath, Text
from api.limit_schemas import Limit, show_limit
from billing.admission.limit import Unit, Window
from billing.money import LEDGER_DECIMALS, exact_decimal
from billing.operations.holds.define_limit import (
    LimitTerms,
    define_limit,
    end_limit,
    list_limits,
    require_named_limit,
)
from billing.operations.tenancy.tenants import require_tenant


class NewLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a limit is to say. The same words again change nothing.

    `capacity` counts `unit` in one `window`: money in major units of `currency`, tokens, requests,
    or slots, which are requests in flight. `project`, `key` (its public part) and `model` say
    whose requests it counts; null means all. A soft limit only tells; one in shadow is counted and
    refuses nothing.
    """

    unit: Unit
    window: Window = Window.NONE
    capacity: DecimalText
    currency: CurrencyCode | None = None
    project: Slug | None = None
    key: Text | None = None
    model: Text | None = None
    hard: bool = True
    shadow: bool = False


class LimitController(Controller):
    """Limits of all tenants."""

    path = "/operator/tenants/{tenant:str}/limits"
    tags = ("Operator: limits",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(
        operation_id="operator_list_limits",
        summary="List a tenant's limits and what is left of them",
        sync_to_thread=True,
    )
    def list_all(self, deployment: DeploymentInUse, tenant: SlugPath) -> list[Limit]:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            found = list_limits(transaction, tenant=owner, now=deployment.now())
        return [show_limit(row) for row in found]

    @get(
        "/{name:str}",
        operation_id="operator_show_limit",
        summary="Show a limit, ended or not",
        sync_to_thread=True,
    )
    def show(self, deployment: DeploymentInUse, tenant: SlugPath, name: SlugPath) -> Limit:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return show_limit(
                require_named_limit(transaction, tenant=owner, name=name, now=deployment.now())
            )

    @put(
        "/{name:str}",
        operation_id="operator_set_limit",
        summary="Set a limit, or change its capacity; what it has counted stays counted",
        sync_to_thread=True,
    )
    def define(
        self,
        deployment: DeploymentInUse,
        tenant: SlugPath,
        name: SlugPath,
        data: JSONBody[NewLimit],
    ) -> Limit:
        terms = LimitTerms(
            unit=data.unit,
            window=data.window,
            capacity=exact_decimal(data.capacity, field="capacity", decimals_max=LEDGER_DECIMALS),
            currency=data.currency,
            project=data.project,
            key=data.key,
            model=data.model,
            hard=data.hard,
            shadow=data.shadow,
        )
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return show_limit(
                define_limit(
                    transaction, tenant=owner, name=name, terms=terms, now=deployment.now()
                )
            )

    @delete(
        "/{name:str}",
        operation_id="operator_end_limit",
        summary="End a limit: it counts nothing from now on, and stays readable",
        status_code=HTTP_200_OK,
        sync_to_thread=True,
    )
    def end(self, deployment: DeploymentInUse, tenant: SlugPath, name: SlugPath) -> Limit:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return show_limit(end_limit(transaction, tenant=owner, name=name, now=deployment.now()))
