"""Credit of tenants: grant, read, take back; automatic top-ups and how they ended."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Controller, get, post, put
from litestar.params import FromPath, JSONBody

from api import credit_schemas as schemas
from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import (
    DecimalText,
    FromQuery,
    Instant,
    Name,
    SlugPath,
    ToQuery,
    asked_period,
    in_utc,
)
from api.tenant.credit import CurrencyQuery
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import PRIORITY_MAX, CreditScope, GrantKind, Rollover, TaxedAt
from billing.ledger.top_up import TopUpPolicy
from billing.money import LEDGER_DECIMALS, exact_decimal
from billing.operations.credits.grant_credit import GrantTerms, grant_credit, void_grant
from billing.operations.credits.read_credits import read_credit, read_statement
from billing.operations.credits.top_ups import (
    decline_top_up,
    list_top_ups,
    pay_top_up,
    set_top_up_policy,
    show_top_up_policy,
)
from billing.operations.tenancy.tenants import require_tenant

PaidFrom = Literal["bank", "stripe_clearing"]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class NewRollover(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes on of a grant at its end: a fraction of the rest, at most an amount."""

    fraction: DecimalText = "1"
    maximum: DecimalText | None = None


class NewGrant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credit to grant, in major units. The same key grants once.

    Paid credit says when it is taxed, and from which account its money came; `cost_basis` is that
    money, the amount if left out.
    """

    currency: schemas.CurrencyCode
    amount: DecimalText
    kind: GrantKind = GrantKind.PROMOTIONAL
    taxed_at: TaxedAt | None = None
    paid_from: PaidFrom | None = None
    cost_basis: DecimalText | None = None
    counts_toward_commitment: bool = False
    priority: Annotated[int, msgspec.Meta(ge=0, le=PRIORITY_MAX)] = 100
    starts_at: Instant | None = None
    expires_at: Instant | None = None
    scope: schemas.CreditScope = schemas.CreditScope()
    rollover: NewRollover | None = None
    recurs: bool = False
    source: Name
    idempotency_key: schemas.IdempotencyKey


class NewTopUpPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When credit is topped up: below the threshold, in any window at most so often and so much."""

    currency: schemas.CurrencyCode
    threshold: DecimalText
    amount: DecimalText
    window_ms: Milliseconds
    count_max: Count
    amount_max: DecimalText
    cool_down_ms: Milliseconds


class PaidTopUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The money of a top-up has come; again with the same words changes nothing."""

    taxed_at: TaxedAt
    paid_from: PaidFrom


class OperatorCreditController(Controller):
    """Credit of all tenants."""

    path = "/operator"
    tags = ("Operator: credit",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(
        "/tenants/{tenant:str}/credit",
        operation_id="operator_show_credit",
        summary="Show a tenant's balances, grants and open holds",
        sync_to_thread=True,
    )
    def show(self, deployment: DeploymentInUse, tenant: SlugPath) -> schemas.Credit:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            return schemas.show_credit(read_credit(transaction, tenant=owner, now=deployment.now()))

    @get(
        "/tenants/{tenant:str}/credit/statement",
        operation_id="operator_show_credit_statement",
        summary="Show every movement of a tenant's credit in a period",
        sync_to_thread=True,
    )
    def statement(
        self,
        deployment: DeploymentInUse,
        tenant: SlugPath,
        currency: CurrencyQuery,
        from_: FromQuery = None,
        to_: ToQuery = None,
    ) -> schemas.CreditStatement:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            period = asked_period(from_, to_, default=owner.billing_period(deployment.now()))
            found = read_statement(transaction, tenant=owner, currency_code=currency, period=period)
        return schemas.show_statement(found)

    @post(
        "/tenants/{tenant:str}/credit/grants",
        operation_id="operator_grant_credit",
        summary="Grant credit; the same key and terms give the same grant",
        status_code=200,
        sync_to_thread=True,
    )
    def grant(
        self, deployment: DeploymentInUse, tenant: SlugPath, data: JSONBody[NewGrant]
    ) -> schemas.CreditGrant:
        with deployment.as_operator() as transaction:
            granted = grant_credit(
                transaction,
                tenant=require_tenant(transaction, tenant),
                terms=_terms(data),
                idempotency_key=data.idempotency_key,
                now=deployment.now(),
            )
        return schemas.show_grant(granted)

    @post(
        "/credit/grants/{grant:uuid}/void",
        operation_id="operator_void_grant",
        summary="Take back what remains of a grant; a series ends",
        status_code=200,
        sync_to_thread=True,
    )
    def void(self, deployment: DeploymentInUse, grant: FromPath[UUID]) -> schemas.CreditGrant:
        with deployment.as_operator() as transaction:
            voided = void_grant(transaction, grant_id=grant, now=deployment.now())
        return schemas.show_grant(voided)


class TopUpController(Controller):
    """Automatic top-ups of all tenants."""

    path = "/operator"
    tags = ("Operator: credit",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @put(
        "/tenants/{tenant:str}/top-ups/policy",
        operation_id="operator_set_top_up_policy",
        summary="Set when a tenant's credit is topped up, from now on",
        sync_to_thread=True,
    )
    def set_policy(
        self, deployment: DeploymentInUse, tenant: SlugPath, data: JSONBody[NewTopUpPolicy]
    ) -> schemas.TopUps:
        policy = TopUpPolicy(
            threshold=_amount(data.threshold, "threshold"),
            amount=_amount(data.amount, "amount"),
            window_ms=data.window_ms,
            count_max=data.count_max,
            amount_max=_amount(data.amount_max, "amount_max"),
            cool_down_ms=data.cool_down_ms,
        )
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            asked = data.currency
            set_top_up_policy(
                transaction,
                tenant=owner,
                currency_code=asked,
                policy=policy,
                now=deployment.now(),
            )
            listed = list_top_ups(transaction, tenant=owner, currency_code=asked)
        return schemas.show_top_ups(policy, listed, asked)

    @get(
        "/tenants/{tenant:str}/top-ups",
        operation_id="operator_list_top_ups",
        summary="Show a tenant's top-up policy and what it requested",
        sync_to_thread=True,
    )
    def top_ups(
        self, deployment: DeploymentInUse, tenant: SlugPath, currency: CurrencyQuery
    ) -> schemas.TopUps:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            policy = show_top_up_policy(transaction, tenant=owner, currency_code=currency)
            listed = list_top_ups(transaction, tenant=owner, currency_code=currency)
        return schemas.show_top_ups(policy, listed, currency)

    @post(
        "/top-ups/{top_up:uuid}/paid",
        operation_id="operator_confirm_top_up",
        summary="Grant a requested top-up whose money was received, once",
        status_code=200,
        sync_to_thread=True,
    )
    def confirm(
        self, deployment: DeploymentInUse, top_up: FromPath[UUID], data: JSONBody[PaidTopUp]
    ) -> schemas.CreditGrant:
        with deployment.as_operator() as transaction:
            granted = pay_top_up(
                transaction,
                top_up_id=top_up,
                taxed_at=data.taxed_at,
                paid_from=AccountCode(data.paid_from),
                now=deployment.now(),
            )
        return schemas.show_grant(granted)

    @post(
        "/top-ups/{top_up:uuid}/declined",
        operation_id="operator_decline_top_up",
        summary="Record that a top-up could not be collected; its cool-down begins",
        status_code=204,
        sync_to_thread=True,
    )
    def decline(self, deployment: DeploymentInUse, top_up: FromPath[UUID]) -> None:
        with deployment.as_operator() as transaction:
            decline_top_up(transaction, top_up_id=top_up, now=deployment.now())


def _terms(data: NewGrant) -> GrantTerms:
    rollover = data.rollover
    return GrantTerms(
        currency=data.currency,
        amount=_amount(data.amount, "amount"),
        kind=data.kind,
        taxed_at=data.taxed_at,
        paid_from=None if data.paid_from is None else AccountCode(data.paid_from),
        cost_basis=None if data.cost_basis is None else _amount(data.cost_basis, "cost_basis"),
        counts_toward_commitment=data.counts_toward_commitment,
        priority=data.priority,
        starts_at=data.starts_at and in_utc(data.starts_at, field="starts_at"),
        expires_at=data.expires_at and in_utc(data.expires_at, field="expires_at"),
        scope=CreditScope(
            meters=_named(data.scope.meters),
            models=_named(data.scope.models),
            plans=_named(data.scope.plans),
        ),
        rollover=rollover
        and Rollover(
            fraction=exact_decimal(rollover.fraction, field="rollover.fraction"),
            maximum=None
            if rollover.maximum is None
            else _amount(rollover.maximum, "rollover.maximum"),
        ),
        recurs=data.recurs,
        source=data.source,
    )


def _amount(text: str, field: str) -> Decimal:
    return exact_decimal(text, field=field, decimals_max=LEDGER_DECIMALS)


def _named(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
