"""Define meters: each definition is an immutable version with an instant from which it counts.

A meter that exists gets its next version from an instant that is still to come, so that no event
that was counted would have been counted otherwise. Unit and aggregation are the meter's for good:
a period that spans two versions is still one figure. Of built-in meters those of tokens take
versions, which say by what they are split (`metering/request_event.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.catalog.selector import OUTCOME_PREFIX
from billing.errors import Conflict, InvalidInput, NotFound
from billing.filters.cel import compile_filter
from billing.metering.meter import MeterVersion
from billing.metering.request_event import is_token_meter
from billing.period import BUCKET, bucket_of
from billing.planfiles.meter_file import MeterFile, meter_digest, read_meter
from billing.store import meters as store
from billing.store.meters import MeterVersionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedMeter:
    """A stored meter version; `created` is False if the newest one says the same."""

    version: MeterVersion
    created: bool


def define_meter(connection: sa.Connection, text: str | bytes, *, now: datetime) -> DefinedMeter:
    """Store a meter file as the first or the next version of its meter, as the operator.

    A file that says what the newest version says stores nothing, so that defining it again is
    harmless. Left out, `effective_from` is the quarter of an hour that runs now for a first
    version, and the next one for a later version.

    Raises:
        InvalidPlan: the file is refused; names line, field and remedy.
        Conflict: the meter is built in, or its unit or aggregation would change.
    """
    file = read_meter(text)
    if file.reading.filter is not None:
        try:
            compile_filter(file.reading.filter)
        except InvalidInput as refused:
            raise file.refuse(refused) from None
    store.lock_meter(connection, file.meter.code)
    newest = store.newest_meter_version(connection, file.meter.code)
    _require_definable(file, newest)
    digest = meter_digest(file.meter, file.reading)
    if newest is not None and newest.digest == digest and _same_start(file, newest):
        return DefinedMeter(version=newest.defined, created=False)
    try:
        version = MeterVersion(
            meter=file.meter,
            version=1 if newest is None else newest.defined.version + 1,
            effective_from=_effective_from(file, newest, now=now),
            reading=file.reading,
        )
    except InvalidInput as refused:
        raise file.refuse(refused) from None
    store.insert_meter_version(connection, version, digest=digest, now=now)
    return DefinedMeter(version=version, created=True)


def list_meters(connection: sa.Connection) -> list[MeterVersion]:
    """All versions of all meters, by code and version."""
    return [row.defined for row in store.meter_versions(connection)]


def require_meter(connection: sa.Connection, code: str) -> list[MeterVersion]:
    """All versions of one meter, oldest first.

    Raises:
        NotFound: no such meter.
    """
    versions = [row.defined for row in store.meter_versions(connection, code=code)]
    if not versions:
        raise NotFound("no such meter", field="code", remedy="define it, or list meters")
    return versions


def _require_definable(file: MeterFile, newest: MeterVersionRow | None) -> None:
    built_in = newest is not None and newest.defined.reading is None
    if (built_in and not is_token_meter(file.meter.code)) or file.meter.code.startswith(
        OUTCOME_PREFIX
    ):
        raise Conflict(
            "this meter is built in", field="code", remedy="choose another code for yours"
        )
    if newest is not None and newest.defined.meter != file.meter:
        raise Conflict(
            "unit, aggregation, percentile and informational of a meter never change",
            field="aggregation",
            remedy="choose another code for the new meter",
        )


def _same_start(file: MeterFile, newest: MeterVersionRow) -> bool:
    return file.effective_from in {None, newest.defined.effective_from}


def _effective_from(file: MeterFile, newest: MeterVersionRow | None, *, now: datetime) -> datetime:
    if newest is None:
        return file.effective_from or bucket_of(now)
    earliest = max(bucket_of(now) + BUCKET, newest.defined.effective_from + BUCKET)
    if file.effective_from is not None and file.effective_from < earliest:
        raise InvalidInput(
            "a next version begins in the future, after the version before it",
            field="effective_from",
            remedy=f"{earliest:%Y-%m-%dT%H:%MZ} or later",
        )
    return file.effective_from or earliest
