"""Usage that the operator reports, and usage that waits: without a price, or parked.

Only the operator reports: a tenant that could write usage could write its own bill.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
import sqlalchemy as sa
from litestar import Controller, get, post
from litestar.params import JSONBody, QueryParameter

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import DecimalText, Instant, SlugPath, SlugQuery, Text, asked_instant, in_utc
from billing.errors import InvalidInput
from billing.metering.usage_event import EventKind, UsageReport, Verdict, VerdictKind
from billing.money import QUANTITY_DECIMALS_MAX, exact_decimal, plain
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.metering.read_usage import parked_usage
from billing.operations.metering.unrated_usage import unrated_usage
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.store.database import Role, acting_as

Kind = Literal["billed", "included", "internal", "free", "outcome_bound"]
AtQuery = Annotated[
    str | None, QueryParameter(max_length=40, description="RFC 3339 instant; now if left out.")
]


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fact to report. (tenant, source, id) counts once, for ever.

    `quantity` is a whole number, or text; a JSON number with a point is refused.
    """

    source: Text
    id: Text
    meter: Text
    quantity: int | DecimalText
    occurred_at: Instant
    model: Text | None = None
    project: Text | None = None
    kind: Kind = "billed"


class UsageBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events to report, all of them or none."""

    events: list[UsageEvent]


class UsageVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event; `event_id` is that of the event which holds the fact."""

    id: str
    verdict: VerdictKind
    event_id: str | None
    reason: str | None


class UsageVerdicts(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict per event, in the order in which they were sent."""

    verdicts: list[UsageVerdict]


class UnratedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Usage that no charge prices; it blocks its tenant's invoice."""

    tenant: str
    meter: str
    model: str | None
    quantity: str


class ParkedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A reported event that nothing can count yet."""

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


class OperatorUsageController(Controller):
    """Usage of all tenants."""

    path = "/operator"
    tags = ("Operator: usage",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @post(
        "/tenants/{tenant:str}/usage/events",
        operation_id="operator_report_usage",
        summary="Report usage events of a tenant",
        status_code=200,
        sync_to_thread=True,
    )
    def report(
        self,
        deployment: DeploymentInUse,
        tenant: SlugPath,
        data: JSONBody[UsageBatch | list[UsageEvent]],
    ) -> UsageVerdicts:
        events, base = (data, "") if isinstance(data, list) else (data.events, "events")
        reports = [_report(event, f"{base}[{at}]") for at, event in enumerate(events)]

        def ingest(transaction: sa.Connection) -> list[Verdict]:
            owner = require_tenant(transaction, tenant)
            # Events are written by the one role that can append them and read nobody's usage.
            with acting_as(transaction, Role.INGEST):
                return ingest_usage(transaction, reports, tenant=owner, now=deployment.now())

        verdicts = deployment.database.retrying(Role.OPERATOR, ingest)
        return UsageVerdicts(
            verdicts=[
                UsageVerdict(
                    id=report.foreign_id,
                    verdict=verdict.kind,
                    event_id=verdict.event_id and str(verdict.event_id),
                    reason=verdict.reason,
                )
                for report, verdict in zip(reports, verdicts, strict=True)
            ]
        )

    @get(
        "/unrated",
        operation_id="operator_list_unrated",
        summary="List usage without a price, in the billing periods that hold an instant",
        sync_to_thread=True,
    )
    def unrated(self, deployment: DeploymentInUse, at: AtQuery = None) -> list[UnratedUsage]:
        instant = deployment.now() if at is None else asked_instant(at, field="at")
        with deployment.as_operator(snapshot=True) as transaction:
            found = unrated_usage(transaction, instant=instant)
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


def _report(event: UsageEvent, place: str) -> UsageReport:
    try:
        return UsageReport(
            source=event.source,
            foreign_id=event.id,
            meter=event.meter,
            quantity=exact_decimal(
                str(event.quantity), field="quantity", decimals_max=QUANTITY_DECIMALS_MAX
            ),
            occurred_at=in_utc(event.occurred_at, field="occurred_at"),
            model=event.model,
            project=event.project,
            kind=EventKind[event.kind.upper()],
        )
    except InvalidInput as refused:
        raise type(refused)(
            refused.message, field=f"{place}.{refused.field}", remedy=refused.remedy
        ) from None
