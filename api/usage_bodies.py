"""From bodies to reports of usage: JSON, JSON lines and CloudEvents.

Decides which forms are taken and how one malformed event is told from a malformed body: a body
that is no list of events is refused as a whole; an event that cannot be used gets the verdict
`rejected` with the field at fault, and the others count. Numbers are read as decimals, digit by
digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.params import SkipValidation

from api.bodies import read_json, refusal, require_media_type
from api.fields import Instant, Text, in_utc
from billing.errors import InvalidInput
from billing.metering.cloud_event import CloudEvent
from billing.metering.usage_event import EventKind, UsageReport
from billing.money import QUANTITY_DECIMALS_MAX, exact_decimal
from billing.operations.metering.ingest_usage import require_batch

JSON = "application/json"
LINES = ("application/x-ndjson", "application/jsonl")
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
MEDIA_TYPES = ("", JSON, *LINES, CLOUD_EVENT, CLOUD_EVENTS)

_NUMBER_CHARS_MAX = 64
_FEW_DIGITS = 18
_KINDS = {kind.name.lower(): kind for kind in EventKind}

Kind = Literal["billed", "included", "internal", "free", "outcome_bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadEvent:
    """One event of a body: what it reports and for whom, or why it cannot be used."""

    id: str | None
    tenant: str | None
    report: UsageReport | CloudEvent | InvalidInput


class _UsageEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: Text
    id: Text
    meter: Text
    quantity: msgspec.Raw
    occurred_at: Instant
    tenant: Text | None = None
    model: Text | None = None
    project: Text | None = None
    kind: Kind = "billed"


class _UsageBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Extension attributes are tolerated, as the specification of CloudEvents asks for."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    time: Instant
    data: dict[str, Any]
    subject: Text | None = None


class _Named(msgspec.Struct, frozen=True):
    """What an event that cannot be used is told by."""

    id: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentUsage:
    """A body of usage events that nobody has read yet.

    A handler reads it, in its thread: thousands of events read on the event loop would hold up
    every other request.
    """

    content: bytes
    media_type: str

    def events(self) -> list[ReadEvent]:
        """The events that were sent.

        Raises:
            InvalidInput: a body that is no list of events, or too long a list.
        """
        return read_usage(self.content, self.media_type)


async def usage_body(request: Request[object, object, State]) -> SentUsage:
    """The body of a request of usage events.

    Raises:
        HTTPException: another media type, or too large.
    """
    header = request.headers.get("content-type", "")
    media_type = require_media_type(header, MEDIA_TYPES)
    return SentUsage(content=await request.body(), media_type=media_type)


UsageBody = NamedDependency[SkipValidation[SentUsage]]
"""How a handler asks for the usage events that were sent."""


def read_usage(body: bytes, media_type: str) -> list[ReadEvent]:
    """The events of a body of one of `MEDIA_TYPES`.

    Raises:
        InvalidInput: no list of events, or too long a list.
    """
    read = _read_plain
    parts: Sequence[msgspec.Raw | bytes]
    if media_type in LINES:
        parts = [line for line in body.split(b"\n") if line.strip()]
    elif media_type == CLOUD_EVENT:
        parts, read = [read_json(body, msgspec.Raw)], _read_cloud
    elif media_type == CLOUD_EVENTS:
        parts, read = read_json(body, list[msgspec.Raw]), _read_cloud
    else:
        batch: _UsageBatch | list[msgspec.Raw] = read_json(body, _UsageBatch | list[msgspec.Raw])
        parts = batch if isinstance(batch, list) else batch.events
    require_batch(len(parts))
    return [_read(part, read) for part in parts]


def _read(
    part: msgspec.Raw | bytes,
    read: Callable[[msgspec.Raw | bytes], tuple[str, str | None, UsageReport | CloudEvent]],
) -> ReadEvent:
    try:
        event_id, tenant, report = read(part)
    except msgspec.ValidationError as error:
        refused = refusal(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        refused = InvalidInput("not JSON", remedy="send one JSON object per event, in UTF-8")
    except InvalidInput as error:
        refused = error
    else:
        return ReadEvent(id=event_id, tenant=tenant, report=report)
    return ReadEvent(id=_id_of(part), tenant=None, report=refused)


def _id_of(part: msgspec.Raw | bytes) -> str | None:
    try:
        return _NAMED.decode(part).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _read_plain(part: msgspec.Raw | bytes) -> tuple[str, str | None, UsageReport]:
    event = _PLAIN.decode(part)
    report = UsageReport(
        source=event.source,
        foreign_id=event.id,
        meter=event.meter,
        quantity=_quantity(bytes(event.quantity)),
        occurred_at=in_utc(event.occurred_at, field="occurred_at"),
        model=event.model,
        project=event.project,
        kind=_KINDS[event.kind],
    )
    return event.id, event.tenant, report


def _read_cloud(part: msgspec.Raw | bytes) -> tuple[str, str | None, CloudEvent]:
    event = _CLOUD.decode(part)
    read = CloudEvent(
        source=event.source,
        id=event.id,
        type=event.type,
        time=in_utc(event.time, field="time"),
        data=event.data,
    )
    return event.id, event.subject, read


def _quantity(raw: bytes) -> Decimal:
    """A JSON number, or text, as it was written: no binary float comes near it."""
    if len(raw) <= _FEW_DIGITS and raw.strip(b'"').isdigit():
        return Decimal(int(raw.strip(b'"')))
    if raw[:1] == b'"':
        text = msgspec.json.decode(raw, type=str)
        return exact_decimal(text, field="quantity", decimals_max=QUANTITY_DECIMALS_MAX)
    if raw[:1] not in b"-0123456789":
        raise InvalidInput("not a number", field="quantity", remedy="send a number, or text")
    return _exact_number(raw.decode())


def _exact_number(text: str) -> Decimal:
    try:
        return Decimal(text if len(text) <= _NUMBER_CHARS_MAX else "NaN")
    except ArithmeticError:
        return Decimal("NaN")


_PLAIN = msgspec.json.Decoder(_UsageEvent)
_CLOUD = msgspec.json.Decoder(_CloudEvent, float_hook=_exact_number)
_NAMED = msgspec.json.Decoder(_Named)


@dataclass
class UsageOperation(Operation):
    """Describes a route whose body is a list of usage events in one of several forms."""

    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING, min_length=1, max_length=256)
        plain = Schema(
            type=OpenAPIType.OBJECT,
            required=["source", "id", "meter", "quantity", "occurred_at"],
            properties={
                **dict.fromkeys(("source", "id", "meter", "model", "project", "tenant"), text),
                "quantity": Schema(
                    type=OpenAPIType.STRING, description="Decimal text; a JSON number is as exact."
                ),
                "occurred_at": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME),
                "kind": Schema(type=OpenAPIType.STRING, enum=sorted(_KINDS)),
            },
        )
        cloud = Schema(
            type=OpenAPIType.OBJECT,
            description="CloudEvents 1.0: meters read its type, the subject is the tenant.",
            required=["specversion", "id", "source", "type", "time", "data"],
            properties={
                **dict.fromkeys(("specversion", "id", "source", "type", "subject"), text),
                "time": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME),
                "data": Schema(type=OpenAPIType.OBJECT),
            },
        )
        lines = Schema(type=OpenAPIType.STRING, description="One JSON object per line.")
        forms = {
            JSON: Schema(type=OpenAPIType.ARRAY, items=plain),
            **dict.fromkeys(LINES, lines),
            CLOUD_EVENT: cloud,
            CLOUD_EVENTS: Schema(type=OpenAPIType.ARRAY, items=cloud),
        }
        self.request_body = RequestBody(
            required=True,
            content={name: OpenAPIMediaType(schema=schema) for name, schema in forms.items()},
        )
