"""CloudEvents 1.0 as reports of usage.

Decides which members of a CloudEvent a report is made of. Meters that read its type say how much;
of a type that is itself the code of a meter, `data.quantity` does. `data` names model, project and
kind, where there are any. Other attributes and members are tolerated and never counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType

from billing.errors import InvalidInput
from billing.metering.usage_event import EventKind, UsageReport
from billing.money import QUANTITY_DECIMALS_MAX, exact_decimal

_KINDS = {kind.name.lower(): kind for kind in EventKind}
_CANONICAL = json.JSONEncoder(sort_keys=True, default=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The attributes of an event that count, and its data; numbers in it are int or Decimal."""

    source: str
    id: str
    type: str
    time: datetime
    data: Mapping[str, object]


def read_cloud_event(event: CloudEvent) -> UsageReport:
    """The report that an event makes.

    Raises:
        InvalidInput: no usable quantity, or text, time or kind that a report cannot have; `field`
            names the member.
    """
    return _report(event, ((event.type, _quantity(event.data.get("quantity"))),), {}, body=None)


def report_of(
    event: CloudEvent,
    quantities: tuple[tuple[str, Decimal], ...],
    *,
    properties: Mapping[str, str] = MappingProxyType({}),
) -> UsageReport:
    """The report of what meters read in an event: (meter, quantity), one or more.

    Args:
        properties: by path what it carries for the dimensions of these meters.

    Raises:
        InvalidInput: text, time or kind that a report cannot have, or a quantity, or data that
            is nested too deeply.
    """
    return _report(event, quantities, properties, body=_digest(event))


def _report(
    event: CloudEvent,
    quantities: tuple[tuple[str, Decimal], ...],
    properties: Mapping[str, str],
    *,
    body: bytes | None,
) -> UsageReport:
    (meter, quantity), *further = quantities
    return UsageReport(
        source=event.source,
        foreign_id=event.id,
        meter=meter,
        quantity=quantity,
        further=tuple(further),
        occurred_at=event.time,
        model=_text(event.data, "model"),
        project=_text(event.data, "project"),
        kind=require_kind(_text(event.data, "kind") or "billed", field="data.kind"),
        body=body,
        properties=tuple(sorted(properties.items())),
        # An event that says its quantity itself needs no reading again.
        event_type=None if body is None else event.type,
        data=None if body is None else event.data,
    )


def _digest(event: CloudEvent) -> bytes:
    """Of the event and not of what meters made of it: sent again it is the same, whatever meters
    were defined in between. Members have no order, and a decimal is its digits.
    """
    try:
        data = _CANONICAL.encode(event.data)
    except RecursionError:
        raise InvalidInput("nested too deeply", field="data", remedy="send fewer levels") from None
    members = (event.type, event.time.isoformat(), data)
    return hashlib.blake2b("\x1f".join(members).encode(), digest_size=16).digest()


def require_kind(name: str, *, field: str) -> EventKind:
    """The kind of event with this name.

    Raises:
        InvalidInput: there is none.
    """
    kind = _KINDS.get(name)
    if kind is None:
        kinds = ", ".join(_KINDS)
        raise InvalidInput("unknown kind of event", field=field, remedy=f"use {kinds}")
    return kind


def _quantity(value: object) -> Decimal:
    match value:
        case bool() | None:
            found = None
        case int() | Decimal():
            found = Decimal(value)
        case str():
            found = exact_decimal(value, field="data.quantity", decimals_max=QUANTITY_DECIMALS_MAX)
        case _:
            found = None
    if found is None:
        raise InvalidInput("not a number, or missing", field="data.quantity", remedy="add it")
    return found


def _text(data: Mapping[str, object], member: str) -> str | None:
    value = data.get(member)
    if value is None or isinstance(value, str):
        return value
    raise InvalidInput("not text", field=f"data.{member}", remedy="write it as text")
