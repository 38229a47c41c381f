"""CloudEvents 1.0 as reports of usage.

Decides which members of a CloudEvent a report is made of. The type names the meter; `data` says
how much and, where the meter wants it, of which model, for which project, of which kind. Other
attributes and other members of `data` are tolerated and never kept (P1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.errors import InvalidInput
from billing.metering.usage_event import EventKind, UsageReport
from billing.money import QUANTITY_DECIMALS_MAX, exact_decimal


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
    return UsageReport(
        source=event.source,
        foreign_id=event.id,
        meter=event.type,
        quantity=_quantity(event.data.get("quantity")),
        occurred_at=event.time,
        model=_text(event.data, "model"),
        project=_text(event.data, "project"),
        kind=require_kind(_text(event.data, "kind") or "billed", field="data.kind"),
    )


def require_kind(name: str, *, field: str) -> EventKind:
    """The kind of event with this name.

    Raises:
        InvalidInput: there is none.
    """
    for kind in EventKind:
        if kind.name.lower() == name:
            return kind
    kinds = ", ".join(kind.name.lower() for kind in EventKind)
    raise InvalidInput("unknown kind of event", field=field, remedy=f"use {kinds}")


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
