"""Usage that waits: without a price, or parked until somebody decides."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
import sqlalchemy as sa
from litestar import Controller, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import SlugQuery, Text, asked_instant
from api.operator.usage_events import OPERATOR
from billing.metering.usage_event import Verdict, VerdictKind
from billing.money import plain
from billing.operations.metering.parking import reject_parked, release_parked
from billing.operations.metering.read_usage import parked_usage
from billing.operations.metering.unrated_usage import unrated_usage
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.store.database import Role

AtQuery = Annotated[
    str | None, QueryParameter(max_length=40, description="RFC 3339 instant; now if left out.")
]


class UnratedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Usage that no charge prices; it blocks its tenant's invoice."""

    tenant: str
    meter: str
    model: str | None
    quantity: str


class ParkedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A reported event that nothing can count yet; `parked_id` is what decisions name."""

    parked_id: UUID
    tenant: str
    source: str
    id: str
    meter: str
    model: str | None
    project: str | None
    quantity: str
    occurred_at: datetime
    received_at: datetime
    reason: str


class NewRejection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a parked report is refused for good; its reporter is told so when it asks again."""

    reason: Text


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """What a release came to: `parked` if it still cannot be counted."""

    verdict: VerdictKind
    event_id: UUID | None
    reason: str | None


class OperatorUsageController(Controller):
    """Usage of all tenants."""

    path = "/operator"
    tags = ("Operator: usage",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(
        "/unrated",
        operation_id="operator_list_unrated",
        summary="List usage without a price, in the billing periods that hold an instant",
        sync_to_thread=True,
    )
    def unrated(self, deployment: DeploymentInUse, at: AtQuery = None) -> list[UnratedUsage]:
        instant = deployment.now() if at is None else asked_instant(at, field="at")
        with deployment.as_operator(snapshot=True) as transaction:
            found = unrated_usage(transaction, instant=instant, now=deployment.now())
        return [
            UnratedUsage(
                tenant=entry.tenant,
                meter=entry.quantity.meter,
                model=entry.quantity.model,
                quantity=plain(entry.quantity.quantity),
            )
            for entry in found
        ]

    @get(
        "/parked",
        operation_id="operator_list_parked",
        summary="List reported events that wait for a decision",
        sync_to_thread=True,
    )
    def parked(self, deployment: DeploymentInUse, tenant: SlugQuery = None) -> list[ParkedUsage]:
        with deployment.as_operator() as transaction:
            owner = None if tenant is None else require_tenant(transaction, tenant)
            slugs = {found.id: found.slug for found in list_tenants(transaction)}
            rows = parked_usage(transaction, tenant_id=owner and owner.id)
        return [
            ParkedUsage(
                parked_id=row.id,
                tenant=slugs[row.tenant_id],
                source=row.source,
                id=row.foreign_id,
                meter=row.meter,
                model=row.model,
                project=row.project,
                quantity=plain(row.quantity),
                occurred_at=row.occurred_at,
                received_at=row.received_at,
                reason=row.reason,
            )
            for row in rows
        ]

    @post(
        "/parked/{parked_id:uuid}/release",
        operation_id="operator_release_parked",
        summary="Take a parked event into the ledger",
        status_code=200,
        sync_to_thread=True,
    )
    def release(self, deployment: DeploymentInUse, parked_id: FromPath[UUID]) -> Released:
        def release(transaction: sa.Connection) -> Verdict:
            now = deployment.now()
            return release_parked(transaction, parked_id=parked_id, actor=OPERATOR, now=now)

        verdict = deployment.database.retrying(Role.OPERATOR, release)
        return Released(verdict=verdict.kind, event_id=verdict.event_id, reason=verdict.reason)

    @post(
        "/parked/{parked_id:uuid}/reject",
        operation_id="operator_reject_parked",
        summary="Refuse a parked event for good",
        status_code=204,
        sync_to_thread=True,
    )
    def reject(
        self, deployment: DeploymentInUse, parked_id: FromPath[UUID], data: JSONBody[NewRejection]
    ) -> None:
        with deployment.as_operator() as transaction:
            reject_parked(
                transaction,
                parked_id=parked_id,
                reason=data.reason,
                actor=OPERATOR,
                now=deployment.now(),
            )
