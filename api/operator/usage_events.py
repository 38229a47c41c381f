"""Usage that the operator reports, and corrections of usage.

Only the operator reports and corrects: a tenant that could write usage could write its own bill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from litestar import Controller, post
from litestar.di import Provide
from litestar.params import JSONBody

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import Deployment, DeploymentInUse
from api.fields import DecimalText, SlugPath, Text, TextPath, shown_request_id
from api.usage_bodies import ReadEvent, UsageBody, UsageOperation, usage_body
from billing.errors import InvalidInput, NotFound
from billing.metering.cloud_event import CloudEvent
from billing.metering.correction import Correction
from billing.metering.usage_event import UsageReport, Verdict, VerdictKind
from billing.money import QUANTITY_DECIMALS_MAX, exact_decimal
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.tenancy.tenants import require_tenant
from billing.store.database import Role

OPERATOR = "operator"
"""Who acted, where the API did."""


class UsageVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event; `event_id` is that of the event which holds the fact."""

    id: str | None
    verdict: VerdictKind
    event_id: UUID | None
    reason: str | None


class UsageVerdicts(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict per event, in the order in which they were sent; `counts` by verdict."""

    counts: dict[str, int]
    verdicts: list[UsageVerdict]


class NewVoid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order to take an event back. `source` and `id` make it happen once."""

    source: Text
    id: Text
    reason: Text


class NewAmendment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order to count other quantities, by meter, instead of an event's."""

    source: Text
    id: Text
    reason: Text
    quantities: dict[Text, int | DecimalText]


class UsageCorrection(msgspec.Struct, frozen=True, kw_only=True):
    """A correction: which event was taken back by which, and what counts instead."""

    kind: str
    corrects: str
    corrects_at: datetime
    taken_back_by: str
    replaced_by: str | None
    source: str
    id: str
    reason: str
    corrected_at: datetime
    repeated: bool


class UsageEventsController(Controller):
    """Usage events from outside, and corrections of any usage event."""

    tags = ("Operator: usage",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None
    dependencies = {"sent": Provide(usage_body)}  # noqa: RUF012  # Litestar's attribute

    @post(
        "/usage/events",
        operation_id="report_usage",
        summary="Report usage events; each names its tenant",
        operation_class=UsageOperation,
        status_code=200,
        sync_to_thread=True,
    )
    def report(self, deployment: DeploymentInUse, sent: UsageBody) -> UsageVerdicts:
        return _ingest(deployment, sent.events(), None)

    @post(
        "/operator/tenants/{tenant:str}/usage/events",
        operation_id="operator_report_usage",
        summary="Report usage events of a tenant",
        operation_class=UsageOperation,
        status_code=200,
        sync_to_thread=True,
    )
    def report_of_tenant(
        self, deployment: DeploymentInUse, tenant: SlugPath, sent: UsageBody
    ) -> UsageVerdicts:
        events = sent.events()
        with deployment.as_operator() as transaction:
            require_tenant(transaction, tenant)
        return _ingest(deployment, events, tenant)

    @post(
        "/usage/events/{request_id:str}/void",
        operation_id="void_usage",
        summary="Take a usage event back",
        status_code=200,
        sync_to_thread=True,
    )
    def void(
        self, deployment: DeploymentInUse, request_id: TextPath, data: JSONBody[NewVoid]
    ) -> UsageCorrection:
        return _correct(deployment, _correction(_event_id(request_id), data))

    @post(
        "/usage/events/{request_id:str}/amend",
        operation_id="amend_usage",
        summary="Count other quantities instead of a usage event's",
        status_code=200,
        sync_to_thread=True,
    )
    def amend(
        self, deployment: DeploymentInUse, request_id: TextPath, data: JSONBody[NewAmendment]
    ) -> UsageCorrection:
        corrects = _event_id(request_id)
        quantities = {
            meter: exact_decimal(
                str(quantity), field=f"quantities.{meter}", decimals_max=QUANTITY_DECIMALS_MAX
            )
            for meter, quantity in data.quantities.items()
        }
        return _correct(deployment, _correction(corrects, data, quantities))


def _ingest(deployment: Deployment, events: list[ReadEvent], tenant: str | None) -> UsageVerdicts:
    """Ingest what can be used, in one transaction, and say of every event what became of it."""
    refused: dict[int, Verdict] = {}
    named: list[tuple[str, UsageReport | CloudEvent]] = []
    for position, event in enumerate(events):
        slug = tenant or event.tenant
        if isinstance(event.report, InvalidInput):
            refused[position] = _rejected(event.report)
        elif slug is None or (event.tenant is not None and event.tenant != slug):
            refused[position] = _rejected(
                InvalidInput(
                    "names no tenant, or another one than the path",
                    field="tenant",
                    remedy="write its slug: `tenant`, or `subject` of a CloudEvent",
                )
            )
        else:
            named.append((slug, event.report))

    def ingest(transaction: sa.Connection) -> list[Verdict]:
        return report_usage(transaction, named, now=deployment.now())

    found = deployment.database.retrying(Role.OPERATOR, ingest) if named else []
    if refused:
        rest = iter(found)
        found = [refused.get(position) or next(rest) for position in range(len(events))]
    counts = Counter([verdict.kind for verdict in found])
    return UsageVerdicts(
        counts={kind.value: counts[kind] for kind in VerdictKind},
        verdicts=[
            UsageVerdict(
                id=event.id,
                verdict=verdict.kind,
                event_id=verdict.event_id,
                reason=verdict.reason,
            )
            for event, verdict in zip(events, found, strict=True)
        ],
    )


def _rejected(refused: InvalidInput) -> Verdict:
    return Verdict(kind=VerdictKind.REJECTED, reason=str(refused))


def _event_id(request_id: str) -> UUID:
    try:
        return UUID(hex=request_id.removeprefix("req_"))
    except ValueError:
        raise NotFound(
            "no such usage event",
            field="event_id",
            remedy="use the request id that usage shows for it",
        ) from None


def _correction(
    corrects: UUID,
    data: NewVoid | NewAmendment,
    quantities: Mapping[str, Decimal] | None = None,
) -> Correction:
    return Correction(
        corrects=corrects,
        source=data.source,
        foreign_id=data.id,
        reason=data.reason,
        quantities=quantities,
    )


def _correct(deployment: Deployment, correction: Correction) -> UsageCorrection:
    def correct(transaction: sa.Connection) -> UsageCorrection:
        done = correct_usage(
            transaction, correction, tenant_id=None, actor=OPERATOR, now=deployment.now()
        )
        row = done.correction
        return UsageCorrection(
            kind=row.kind,
            corrects=shown_request_id(row.corrects),
            corrects_at=row.corrects_at,
            taken_back_by=shown_request_id(row.event_id),
            replaced_by=row.replacement_id and shown_request_id(row.replacement_id),
            source=row.source,
            id=row.foreign_id,
            reason=row.reason,
            corrected_at=row.corrected_at,
            repeated=done.repeated,
        )

    return deployment.database.retrying(Role.OPERATOR, correct)
