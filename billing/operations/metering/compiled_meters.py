"""Meters compiled for reading events: which meter versions count an event, and how much.

Decides: which version of a meter is in force when an event occurred, and that its filter is
compiled before the first event is read. Usage from before a meter's effective-from yields
nothing: it is not billed after the fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.errors import InvalidInput
from billing.filters.cel import Filter, compile_filter
from billing.metering.meter import MeterVersion
from billing.store.meters import MeterVersionRow, meter_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One quantity that an event yields.

    Attributes:
        meter_version_id: row id of the version that counted it.
        code: code of its meter.
        quantity: as the ledger keeps it: for `unique` the number that stands for the value.
        dimensions: (name, value) of every dimension that the version declares, in its order.
        properties: (path, text) of what the event carries for them.
    """

    meter_version_id: int
    code: str
    quantity: Decimal
    dimensions: tuple[tuple[str, str], ...]
    properties: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    row: MeterVersionRow
    filter: Filter | None


class CompiledMeters:
    """Every meter of a deployment at one moment; made by `compile_meters`."""

    def __init__(self, by_type: Mapping[str, tuple[tuple[_Compiled, ...], ...]]) -> None:
        # Per event type, per meter, its versions with the newest first.
        self._by_type = by_type

    def match(
        self, event_type: str, data: Mapping[str, object], occurred_at: datetime
    ) -> tuple[Measured, ...]:
        """What an event yields, by code; empty if no meter in force counts it.

        Args:
            event_type: type of the event.
            data: its properties; numbers are int or Decimal.
            occurred_at: decides which version of a meter counts it.

        Raises:
            InvalidInput: a meter in force cannot read a value from it, or cannot judge it.
        """
        measured: list[Measured] = []
        for versions in self._by_type.get(event_type, ()):
            compiled = _in_force(versions, event_type, occurred_at)
            if compiled is not None and _selects(compiled, event_type, data):
                measured.append(_measure(compiled.row, data))
        return tuple(measured)

    def in_force(self, event_type: str, occurred_at: datetime) -> bool:
        """Whether some meter would look at such an event: if none does, it can only wait."""
        return any(
            _in_force(versions, event_type, occurred_at) is not None
            for versions in self._by_type.get(event_type, ())
        )

    def conditions(self, event_type: str, occurred_at: datetime) -> tuple[str, ...]:
        """What every meter in force asks of such an event, in words, by code."""
        return tuple(
            _condition(compiled.row.defined)
            for versions in self._by_type.get(event_type, ())
            if (compiled := _in_force(versions, event_type, occurred_at)) is not None
        )


def load_meters(connection: sa.Connection) -> CompiledMeters:
    """All meters as they are stored now."""
    return compile_meters(meter_versions(connection))


def compile_meters(rows: Iterable[MeterVersionRow]) -> CompiledMeters:
    """Compile meter versions; filters that were compiled before are not compiled again.

    A version that reads another event type than the one before it ends that one for its meter.

    Raises:
        InvalidInput: a filter that cannot be compiled.
    """
    by_code: dict[str, list[MeterVersionRow]] = {}
    for row in sorted(rows, key=lambda row: (row.defined.meter.code, -row.defined.version)):
        if row.defined.reading is not None:
            by_code.setdefault(row.defined.meter.code, []).append(row)
    by_type: dict[str, list[tuple[_Compiled, ...]]] = {}
    for versions in by_code.values():
        compiled = tuple(_compile(row) for row in versions)
        for event_type in sorted({_event_type(row.defined) for row in versions}):
            by_type.setdefault(event_type, []).append(compiled)
    return CompiledMeters({event_type: tuple(meters) for event_type, meters in by_type.items()})


def _compile(row: MeterVersionRow) -> _Compiled:
    reading = row.defined.reading
    assert reading is not None
    text = reading.filter
    return _Compiled(row=row, filter=None if text is None else compile_filter(text))


def _in_force(
    versions: tuple[_Compiled, ...], event_type: str, occurred_at: datetime
) -> _Compiled | None:
    """The version of one meter that counts at an instant, if it reads this type of event."""
    newest = next(
        (each for each in versions if each.row.defined.effective_from <= occurred_at), None
    )
    if newest is None or _event_type(newest.row.defined) != event_type:
        return None
    return newest


def _condition(defined: MeterVersion) -> str:
    reading = defined.reading
    assert reading is not None
    asked = [f"{path} = {text}" for path, text in reading.where]
    if reading.filter is not None:
        asked.append(reading.filter)
    return f"{defined.meter.code} asks for {' and '.join(asked)}"


def _event_type(defined: MeterVersion) -> str:
    assert defined.reading is not None
    return defined.reading.event_type


def _selects(compiled: _Compiled, event_type: str, data: Mapping[str, object]) -> bool:
    reading = compiled.row.defined.reading
    assert reading is not None
    if not reading.selects_plainly(data):
        return False
    return compiled.filter is None or compiled.filter.matches(event_type, data)


def _measure(row: MeterVersionRow, data: Mapping[str, object]) -> Measured:
    defined = row.defined
    assert defined.reading is not None
    dimensions = defined.reading.dimensions
    try:
        carried = [each.property_of(data) for each in dimensions]
        return Measured(
            meter_version_id=row.id,
            code=defined.meter.code,
            quantity=defined.quantity_of(data),
            dimensions=tuple(
                (each.name, each.value_of(text))
                for each, text in zip(dimensions, carried, strict=True)
            ),
            properties=tuple(
                (each.path, text)
                for each, text in zip(dimensions, carried, strict=True)
                if text is not None
            ),
        )
    except InvalidInput as refused:
        raise InvalidInput(
            f"meter {defined.meter.code} cannot read this event: {refused.message}",
            field=refused.field,
            remedy=refused.remedy,
        ) from None
