"""Meters as YAML files: what is counted, how it is read from events, from when on.

Decides: how a meter is written down. What makes a meter valid is decided by `billing.metering`;
this module adds the line. Whether a filter can be evaluated is decided where it is compiled.

    code: gpu.context_tokens
    unit: tokens
    event_type: llm.request
    value: data.tokens
    aggregation: sum
    where: {region: eu}
    dimensions:
      - {name: context, path: data.context_length, edges: [8000, 32000]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from billing.errors import InvalidInput, InvalidPlan
from billing.metering.dimension import Dimension
from billing.metering.meter import Aggregation, Meter, MeterVersion, Reading
from billing.metering.request_event import is_token_meter, require_token_meter
from billing.money import plain
from billing.period import parse_instant, require_on_grid
from billing.planfiles.decimal_text import DecimalText
from billing.planfiles.validation import Document, read_document
from billing.planfiles.yaml_source import YamlPath, YamlSource, field_name, field_path, read_yaml
from billing.rating.meter_fit import DeclaredMeter, declared_by


class _DimensionDocument(Document):
    name: str
    path: str
    edges: list[DecimalText] = Field(default_factory=list[DecimalText])


class _MeterDocument(Document):
    code: str
    unit: str
    event_type: str
    aggregation: str
    value: str | None = None
    percentile: DecimalText | None = None
    informational: bool = False
    where: dict[str, str | int | bool] = Field(default_factory=dict[str, str | int | bool])
    filter: str | None = None
    dimensions: list[_DimensionDocument] = Field(default_factory=list[_DimensionDocument])
    effective_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterFile:
    """A meter as its file has it.

    Attributes:
        effective_from: on the 15-minute grid; None leaves it to the definition.
        source: where everything stands, for errors that are found later.
    """

    meter: Meter
    reading: Reading
    effective_from: datetime | None
    source: YamlSource

    @property
    def declared(self) -> DeclaredMeter:
        """The meter as charges see it."""
        return declared_by(self.meter, self.reading)

    def refuse(self, refused: InvalidInput) -> InvalidPlan:
        """An error about a field of the file, with its line."""
        path = field_path(refused.field or "")
        return self.source.refuse(refused.message, path=path, remedy=refused.remedy)


def read_meter(text: str | bytes) -> MeterFile:
    """Read a meter file.

    Raises:
        InvalidPlan: names the line and field of what is wrong, and what to do about it.
    """
    source = read_yaml(text)
    document = read_document(_MeterDocument, source)
    with _located(source, ("aggregation",)):
        aggregation = _aggregation(document.aggregation)
    dimensions: list[Dimension] = []
    for position, each in enumerate(document.dimensions):
        with _located(source, ("dimensions", position)):
            dimensions.append(Dimension(name=each.name, path=each.path, edges=tuple(each.edges)))
    with _located(source, ()):
        meter = Meter(
            code=document.code,
            unit=document.unit,
            aggregation=aggregation,
            percentile=document.percentile,
            informational=document.informational,
        )
        reading = Reading(
            event_type=document.event_type,
            value=document.value,
            where=tuple(
                (f"data.{name}", _written(value)) for name, value in sorted(document.where.items())
            ),
            filter=document.filter,
            dimensions=tuple(dimensions),
        )
        if is_token_meter(meter.code):
            require_token_meter(meter, reading)
        effective_from = None
        if document.effective_from is not None:
            effective_from = require_on_grid(
                parse_instant(document.effective_from, field="effective_from"),
                field="effective_from",
            )
    return MeterFile(meter=meter, reading=reading, effective_from=effective_from, source=source)


def declared_by_code(files: Iterable[MeterFile]) -> dict[str, DeclaredMeter]:
    """The meters of files as plans refer to them.

    Raises:
        InvalidInput: two files declare one meter.
    """
    found: dict[str, DeclaredMeter] = {}
    for each in files:
        if found.setdefault(each.meter.code, each.declared) != each.declared:
            raise InvalidInput(
                f"two files declare the meter {each.meter.code}",
                field="meters",
                remedy="leave one of them out",
            )
    return found


def units_by_code(meters: Mapping[str, DeclaredMeter]) -> dict[str, str]:
    """What a unit of each meter is called."""
    return {code: each.meter.unit for code, each in meters.items()}


def meter_digest(meter: Meter, reading: Reading) -> bytes:
    """SHA-256 of what a version says, whatever its number and its effective-from."""
    canonical = [
        meter.code,
        meter.unit,
        meter.aggregation.value,
        None if meter.percentile is None else plain(meter.percentile),
        meter.informational,
        reading.event_type,
        reading.value,
        reading.where,
        reading.filter,
        [
            (each.name, each.path, [plain(edge) for edge in each.edges])
            for each in reading.dimensions
        ],
    ]
    text = json.dumps(canonical, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def dump_meter(defined: MeterVersion) -> dict[str, object]:
    """A meter version as a JSON-safe document with the fields of a meter file."""
    meter, reading = defined.meter, defined.reading
    document: dict[str, object] = {
        "code": meter.code,
        "version": defined.version,
        "unit": meter.unit,
        "aggregation": meter.aggregation.value,
        "state": meter.aggregation.state.value,
        "percentile": None if meter.percentile is None else plain(meter.percentile),
        "informational": meter.informational,
        "effective_from": f"{defined.effective_from:%Y-%m-%dT%H:%M:%SZ}",
        "built_in": reading is None or is_token_meter(meter.code),
    }
    if reading is not None:
        document |= {
            "event_type": reading.event_type,
            "value": reading.value,
            "where": {path.removeprefix("data."): text for path, text in reading.where},
            "filter": reading.filter,
            "dimensions": [
                {
                    "name": each.name,
                    "path": each.path,
                    "edges": [plain(edge) for edge in each.edges],
                }
                for each in reading.dimensions
            ],
        }
    return document


def _aggregation(text: str) -> Aggregation:
    try:
        return Aggregation(text)
    except ValueError:
        raise InvalidInput(
            "unknown aggregation", remedy=f"use one of {', '.join(Aggregation)}"
        ) from None


def _written(value: str | int | bool) -> str:
    """How a value of an event is compared: as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@contextmanager
def _located(source: YamlSource, path: YamlPath) -> Generator[None]:
    """Give errors of the core the line and the full path of what they are about."""
    try:
        yield
    except InvalidInput as refused:
        full = (*path, *field_path(refused.field or ""))
        raise source.refuse(
            refused.message, path=full, field=field_name(full), remedy=refused.remedy
        ) from None
