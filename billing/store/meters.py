"""Table meter_version, as meters that events can be read by: every version of every meter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from billing.metering.dimension import Dimension
from billing.metering.meter import Aggregation, Meter, MeterVersion, Reading
from billing.money import plain
from billing.store.database import first, only, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterVersionRow:
    """A stored meter version.

    Attributes:
        digest: SHA-256 of what the version says apart from its effective-from; None if built in.
    """

    id: int
    defined: MeterVersion
    digest: bytes | None


_VERSION = (
    "SELECT id, code, version, unit, aggregation, percentile, informational, effective_from, "
    "reading, digest FROM meter_version"
)


def lock_meter(connection: sa.Connection, code: str) -> None:
    """Let nobody else define a version of this meter until commit."""
    run(connection, "SELECT pg_advisory_xact_lock(hashtext('meter ' || :code))", code=code)


def meter_versions(connection: sa.Connection, *, code: str | None = None) -> list[MeterVersionRow]:
    """All versions of one meter, or of every meter if None, by code and version."""
    rows = query(
        connection,
        f"{_VERSION} WHERE CAST(:code AS text) IS NULL OR code = :code ORDER BY code, version",
        code=code,
    )
    return [_row(row) for row in rows]


def versions_of_meters(connection: sa.Connection, codes: Sequence[str]) -> list[MeterVersionRow]:
    """All versions of some meters, by code and version."""
    rows = query(
        connection, f"{_VERSION} WHERE code = ANY(:codes) ORDER BY code, version", codes=list(codes)
    )
    return [_row(row) for row in rows]


def newest_meter_version(connection: sa.Connection, code: str) -> MeterVersionRow | None:
    """The newest version of a meter."""
    row = first(
        connection, f"{_VERSION} WHERE code = :code ORDER BY version DESC LIMIT 1", code=code
    )
    return None if row is None else _row(row)


def insert_meter_version(
    connection: sa.Connection, defined: MeterVersion, *, digest: bytes, now: datetime
) -> int:
    """Add an immutable version of a meter that reads events; its id."""
    assert defined.reading is not None, "a meter without a reading comes with the schema"
    meter = defined.meter
    return only(
        connection,
        "INSERT INTO meter_version (code, version, unit, aggregation, percentile, informational, "
        "effective_from, reading, digest, created_at) VALUES (:code, :version, :unit, "
        ":aggregation, :percentile, :informational, :effective_from, CAST(:reading AS jsonb), "
        ":digest, :now) RETURNING id",
        code=meter.code,
        version=defined.version,
        unit=meter.unit,
        aggregation=meter.aggregation.value,
        percentile=meter.percentile,
        informational=meter.informational,
        effective_from=defined.effective_from,
        reading=json.dumps(reading_document(defined.reading)),
        digest=digest,
        now=now,
    ).id


def reading_document(reading: Reading) -> dict[str, Any]:
    """How a meter version reads events, as it is stored: numbers as text."""
    return {
        "event_type": reading.event_type,
        "value": reading.value,
        "where": [[path, text] for path, text in reading.where],
        "filter": reading.filter,
        "dimensions": [
            {"name": each.name, "path": each.path, "edges": [plain(edge) for edge in each.edges]}
            for each in reading.dimensions
        ],
    }


def read_reading(document: Mapping[str, Any]) -> Reading:
    """The reading that `reading_document` wrote."""
    return Reading(
        event_type=document["event_type"],
        value=document["value"],
        where=tuple((path, text) for path, text in document["where"]),
        filter=document["filter"],
        dimensions=tuple(
            Dimension(
                name=each["name"],
                path=each["path"],
                edges=tuple(Decimal(edge) for edge in each["edges"]),
            )
            for each in document["dimensions"]
        ),
    )


def _row(row: sa.Row[Any]) -> MeterVersionRow:
    return MeterVersionRow(
        id=row.id,
        defined=MeterVersion(
            meter=Meter(
                code=row.code,
                unit=row.unit,
                aggregation=Aggregation(row.aggregation),
                percentile=row.percentile,
                informational=row.informational,
            ),
            version=row.version,
            effective_from=row.effective_from,
            reading=None if row.reading is None else read_reading(row.reading),
        ),
        digest=None if row.digest is None else bytes(row.digest),
    )
