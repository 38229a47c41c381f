"""What a tenant used: sums by slot of time, and request by request."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
import sqlalchemy as sa
from litestar import Controller, get
from litestar.params import QueryParameter

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.deployment import DeploymentInUse
from api.fields import FromQuery, Name, TextPath, ToQuery, asked_period, shown_request_id
from billing.metering.usage_event import Cause, EventKind
from billing.money import plain
from billing.operations.metering.correct_usage import corrections_of
from billing.operations.metering.read_usage import (
    BY,
    LIMIT_MAX,
    OnlyUsage,
    request_of,
    requests_of,
    usage_of,
)
from billing.store.usage.levels import Level, UsageRow
from billing.store.usage.read import EventView
from billing.store.usage.reported import CorrectionRow
from billing.tenancy.tenant import Tenant

Group = Literal["day", "month", "hour", "bucket", "none"]
GroupQuery = Annotated[Group, QueryParameter(description="Width of a slot of time.")]
ByQuery = Annotated[
    str,
    QueryParameter(
        max_length=256,
        pattern="^[a-z0-9_:,]*$",
        description="Split by model, project, key and one dimension:NAME, with commas between.",
    ),
]
_BY = ",".join(BY)
OnlyQuery = Annotated[
    list[Name] | None,
    QueryParameter(description="Only these; may be repeated. An empty one is no usage at all."),
]
Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX)]


class UsageSlot(msgspec.Struct, frozen=True, kw_only=True):
    """What one meter counted in one slot of time; null where usage is not split by it.

    `value` is that of the dimension, or its band; `level` says whether the sums that were kept
    were read, or the events, because the dimension's edges changed since.
    """

    start: datetime
    meter: str
    model: str | None
    project: str | None
    key: str | None
    value: str | None
    quantity: str
    events: int
    level: Level


class UsageSums(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of a period. Days are those of the tenant's zone."""

    period_start: datetime
    period_end: datetime
    group: Group
    zone: str
    slots: list[UsageSlot]


class RequestCorrection(msgspec.Struct, frozen=True, kw_only=True):
    """A correction that a request is part of: as original, as what took it back, as the new one."""

    kind: str
    corrects: str
    taken_back_by: str
    replaced_by: str | None
    reason: str
    corrected_at: datetime


class MeteredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One usage event.

    `quantities` are by meter; `engine_figures` are the engine's own, by path; `estimated` marks
    counts of a request whose end the engine never reported. `run_id`, `step_id` and `agent_id`
    are what the request gave; empty for none.
    """

    request_id: str
    occurred_at: datetime
    model: str | None
    kind: str
    cause: str
    estimated: bool
    quantities: dict[str, str]
    engine_figures: dict[str, int]
    duration_us: int
    run_id: str
    step_id: str
    agent_id: str
    corrections: list[RequestCorrection]


class UsageController(Controller):
    """Metered usage."""

    path = "/usage"
    tags = ("Usage",)
    guards = (TENANT_ONLY,)
    security = SECURITY

    @get(operation_id="show_usage", summary="Sum usage over a period", sync_to_thread=True)
    def sums(
        self,
        *,
        deployment: DeploymentInUse,
        tenant_caller: CallingTenant,
        from_: FromQuery = None,
        to_: ToQuery = None,
        group: GroupQuery = "day",
        by: ByQuery = _BY,
        meter: OnlyQuery = None,
        model: OnlyQuery = None,
        project: OnlyQuery = None,
        key: OnlyQuery = None,
    ) -> UsageSums:
        tenant = tenant_caller.tenant
        current = tenant.billing_period(deployment.now())
        period = asked_period(from_, to_, default=current, on_grid=True)
        names = tuple(name for name in by.split(",") if name)
        only = OnlyUsage(meters=meter, models=model, projects=project, keys=key)
        with deployment.as_tenant(tenant) as transaction:
            rows = usage_of(
                transaction, tenant=tenant, period=period, group=group, by=names, only=only
            )
        return UsageSums(
            period_start=period.start,
            period_end=period.end,
            group=group,
            zone=tenant.zone,
            slots=[_slot(row) for row in rows],
        )

    @get(
        "/requests",
        operation_id="list_requests",
        summary="List the newest requests of a period",
        sync_to_thread=True,
    )
    def requests(
        self,
        deployment: DeploymentInUse,
        tenant_caller: CallingTenant,
        from_: FromQuery = None,
        to_: ToQuery = None,
        limit: Limit = 100,
    ) -> list[MeteredRequest]:
        tenant = tenant_caller.tenant
        current = tenant.billing_period(deployment.now())
        period = asked_period(from_, to_, default=current)
        with deployment.as_tenant(tenant) as transaction:
            events = requests_of(transaction, tenant=tenant, period=period, limit=limit)
            corrections = _corrections(transaction, tenant, events)
        return [_request(event, corrections) for event in events]

    @get(
        "/requests/{request_id:str}",
        operation_id="show_request",
        summary="Show one request by its x-steelyard-request-id",
        sync_to_thread=True,
    )
    def request(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, request_id: TextPath
    ) -> MeteredRequest:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            event = request_of(transaction, tenant=tenant, request_id=request_id)
            return _request(event, _corrections(transaction, tenant, [event]))


def _slot(row: UsageRow) -> UsageSlot:
    return UsageSlot(
        start=row.start,
        meter=row.meter,
        model=row.model,
        project=row.project,
        key=row.key,
        value=row.value,
        quantity=plain(row.quantity),
        events=row.events,
        level=row.level,
    )


def _corrections(
    transaction: sa.Connection, tenant: Tenant, events: list[EventView]
) -> list[CorrectionRow]:
    ids = [event.id for event in events]
    return corrections_of(transaction, tenant_id=tenant.id, event_ids=ids)


def _correction(row: CorrectionRow) -> RequestCorrection:
    return RequestCorrection(
        kind=row.kind,
        corrects=shown_request_id(row.corrects),
        taken_back_by=shown_request_id(row.event_id),
        replaced_by=row.replacement_id and shown_request_id(row.replacement_id),
        reason=row.reason,
        corrected_at=row.corrected_at,
    )


def _request(event: EventView, corrections: list[CorrectionRow]) -> MeteredRequest:
    return MeteredRequest(
        request_id=shown_request_id(event.id),
        occurred_at=event.occurred_at,
        model=event.model,
        kind=EventKind(event.kind).name.lower(),
        cause=Cause(event.cause).name.lower(),
        estimated=event.estimated,
        quantities={meter: plain(quantity) for meter, quantity in event.quantities.items()},
        engine_figures=event.raw,
        duration_us=event.duration_us,
        run_id=event.run_id,
        step_id=event.step_id,
        agent_id=event.agent_id,
        corrections=[
            _correction(row)
            for row in corrections
            if event.id in {row.corrects, row.event_id, row.replacement_id}
        ],
    )
