"""Outcomes that the operator reports; tenants confirm them."""

from __future__ import annotations

from litestar import Controller, get, post
from litestar.params import JSONBody

from api.auth import OPERATOR_ONLY, SECURITY, CallingKey
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import SlugPath, in_utc
from api.schemas import OutcomeClaim, show_claim
from api.tenant.outcomes import Limit, NewOutcome
from billing.operations.outcomes.claims import list_claims, report_outcome
from billing.operations.tenancy.tenants import require_tenant
from billing.outcomes.claim import Actor


class OperatorOutcomeController(Controller):
    """Claims of one tenant."""

    path = "/operator/tenants/{tenant:str}/outcomes"
    tags = ("Operator: usage",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(
        operation_id="operator_list_outcomes", summary="List a tenant's claims", sync_to_thread=True
    )
    def claims(
        self, deployment: DeploymentInUse, tenant: SlugPath, limit: Limit = 100
    ) -> list[OutcomeClaim]:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            found = list_claims(transaction, tenant_id=owner.id, limit=limit)
        return [show_claim(claim) for claim in found]

    @post(
        operation_id="operator_report_outcome",
        summary="Report an outcome for a tenant to confirm",
        status_code=200,
        sync_to_thread=True,
    )
    def report(
        self,
        deployment: DeploymentInUse,
        caller: CallingKey,
        tenant: SlugPath,
        data: JSONBody[NewOutcome],
    ) -> OutcomeClaim:
        with deployment.as_operator() as transaction:
            claim = report_outcome(
                transaction,
                tenant=require_tenant(transaction, tenant),
                outcome=data.outcome,
                subject=data.subject,
                occurred_at=in_utc(data.occurred_at, field="occurred_at"),
                actor=Actor.OPERATOR,
                key_id=caller.key_id,
                now=deployment.now(),
            )
        return show_claim(claim)
