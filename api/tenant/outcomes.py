"""Outcomes of a tenant: report them, and confirm what the operator reported."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import Instant, Slug, Text, in_utc
from api.schemas import OutcomeClaim, show_claim
from billing.operations.outcomes.claims import confirm_outcome, list_claims, report_outcome
from billing.outcomes.claim import Actor

Limit = Annotated[int, QueryParameter(ge=1, le=1000)]


class NewOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outcome that happened for a subject, such as a ticket."""

    outcome: Slug
    subject: Text
    occurred_at: Instant


class OutcomeController(Controller):
    """Claims of the caller."""

    path = "/outcomes"
    tags = ("Outcomes",)
    guards = (TENANT_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(operation_id="list_outcomes", summary="List claims, newest first", sync_to_thread=True)
    def claims(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, limit: Limit = 100
    ) -> list[OutcomeClaim]:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            found = list_claims(transaction, tenant_id=tenant.id, limit=limit)
        return [show_claim(claim) for claim in found]

    @post(
        operation_id="report_outcome",
        summary="Report an outcome; the same one twice is one claim",
        status_code=200,
        sync_to_thread=True,
    )
    def report(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, data: JSONBody[NewOutcome]
    ) -> OutcomeClaim:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            claim = report_outcome(
                transaction,
                tenant=tenant,
                outcome=data.outcome,
                subject=data.subject,
                occurred_at=in_utc(data.occurred_at, field="occurred_at"),
                actor=Actor.TENANT,
                key_id=tenant_caller.key_id,
                now=deployment.now(),
            )
        return show_claim(claim)

    @post(
        "/{claim_id:uuid}/confirm",
        operation_id="confirm_outcome",
        summary="Confirm a claim; from then on it is billed",
        status_code=200,
        sync_to_thread=True,
    )
    def confirm(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, claim_id: FromPath[UUID]
    ) -> OutcomeClaim:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            claim = confirm_outcome(
                transaction,
                tenant=tenant,
                claim_id=claim_id,
                actor=Actor.TENANT,
                key_id=tenant_caller.key_id,
                now=deployment.now(),
            )
        return show_claim(claim)
