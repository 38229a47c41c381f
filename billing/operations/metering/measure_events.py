"""CloudEvents of a batch as reports of usage: which meters count an event, and how much.

Decides: that a type which is the code of a meter without a reading says its quantity itself; that
every other event is read by the meters that are in force for its type; that an event which none
of them selects is rejected, naming what left it out; that an event of a type which no meter reads
waits. Nothing enters the ledger but quantities and what declared dimensions name (P1); one that
waits keeps its data, if it is short, and is measured again when it is released.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import sqlalchemy as sa

from billing.errors import InvalidInput
from billing.metering.cloud_event import CloudEvent, read_cloud_event, report_of
from billing.metering.usage_event import UsageReport
from billing.operations.metering.compiled_meters import CompiledMeters, compile_meters
from billing.store.meters import meter_versions

WAITING = "type:"
"""Before the type of an event that waits, where a report names its meter: no code begins so."""


def measure_events(
    connection: sa.Connection, events: Sequence[CloudEvent]
) -> list[UsageReport | InvalidInput]:
    """What each event reports, in order; an error where it cannot be used.

    A report of the meter `WAITING` plus the event's type is one that no meter can count yet.
    """
    if not events:
        return []
    rows = meter_versions(connection)
    plain = {row.defined.meter.code for row in rows if row.defined.reading is None}
    meters = compile_meters(rows)
    return [_measure(event, meters, plain) for event in events]


def _measure(
    event: CloudEvent, meters: CompiledMeters, plain: set[str]
) -> UsageReport | InvalidInput:
    try:
        if event.type in plain:
            return read_cloud_event(event)
        measured = meters.match(event.type, event.data, event.time)
        if not measured:
            if not meters.in_force(event.type, event.time):
                return report_of(event, ((WAITING + event.type, Decimal(0)),))
            return InvalidInput(
                "left out by every meter of its type: "
                + "; ".join(meters.conditions(event.type, event.time)),
                field="filter",
                remedy="change the meter, or do not send such events",
            )
        return report_of(
            event,
            tuple((each.code, each.quantity) for each in measured),
            properties=dict(carried for each in measured for carried in each.properties),
        )
    except InvalidInput as refused:
        return refused
