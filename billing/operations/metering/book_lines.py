"""Append the usage of a batch's answered lines, each exactly once (D7).

Decides: under which model a line is billed, and by which words its event is known: the source is
`batch:<backend>`, the id `<batch>:<custom id>`, and both are claimed in the key table with the
event. A line is priced as the batch was submitted, in the service tier `batch`, and occurred when
the batch was over. Does not decide which lines there are (`settle_batch.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import assert_never

import sqlalchemy as sa

from billing.admission.backend import YIELDS, ModelKind, ServedModel, classes_of
from billing.admission.charged import charged_tokens, charged_units
from billing.admission.route import Route
from billing.engines.batch_lines import Answered, BatchLine, Failed, Unreadable
from billing.errors import InvalidInput
from billing.metering.event_id import microseconds
from billing.metering.request_event import ServiceTier, carried_by
from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter
from billing.metering.usage_event import Cause, EventKind, require_text
from billing.operations.metering.token_meters import PLAIN, ensure_token_set, token_meters
from billing.operations.minting import mint_ids
from billing.planfiles.backend_file import BackendModel
from billing.store import catalog
from billing.store.batch_runs import BatchRun
from billing.store.batch_settlement import Counted
from billing.store.usage import append as usage_store
from billing.store.usage.append import EventRow

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """An answered line as it is charged for.

    Attributes:
        model_id: row id; 0 if nobody knows the model.
        known: the backend is configured with the model.
    """

    line: Answered
    model_id: int
    known: bool
    counts: TokenCounts
    units: Mapping[UnitMeter, int]

    @property
    def nothing(self) -> bool:
        """The backend counts in what the model is not charged for."""
        said = self.line.reading.units or not self.line.reading.counts.is_zero
        return self.counts.is_zero and not self.units and bool(said)

    @property
    def estimated(self) -> bool:
        """Whether it may have cost more."""
        return not self.line.reading.exact or self.nothing

    @property
    def anomalous(self) -> bool:
        """Whether an operator should look at it."""
        return self.estimated or not self.known or bool(self.line.reading.anomalies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """What became of lines.

    Attributes:
        billed: those that were answered, and not billed before.
    """

    billed: Sequence[Charged]
    counted: Counted


class Models:
    """The names that a batch's lines can be billed under.

    A line names its model as the backend does. Where that is no name of the configuration, it is
    the batch's one model; failing that, the backend's own name, which no plan may price: then the
    line waits in the queue of what is not rated, and nobody serves it for nothing.
    """

    def __init__(self, batch: BatchRun, route: Route, served: Sequence[BackendModel]) -> None:
        self._batch = batch
        self._kind = route.spec.model_kind or ModelKind.TEXT
        self._served = served

    def charge(self, connection: sa.Connection, lines: Sequence[Answered]) -> list[Charged]:
        """What lines are charged for, in their order."""
        told = {line.model for line in lines if line.model is not None}
        names = {model.name for model in self._served} | told
        ids = catalog.ensure_models(connection, names)
        return [self._charge(line, ids) for line in lines]

    def _charge(self, line: Answered, ids: Mapping[str, int]) -> Charged:
        models = {ids[each.name]: each for each in self._served}
        candidates = [
            id_ for id_, each in models.items() if line.model == (each.upstream or each.name)
        ]
        of_batch = self._batch.model_id
        if of_batch is not None and (not candidates or of_batch in candidates):
            model_id = of_batch
        elif candidates:
            model_id = candidates[0]
        else:
            model_id = catalog.NONE if line.model is None else ids[line.model]
        served = models.get(model_id)
        kind = self._kind if served is None else ModelKind(served.kind)
        model = ServedModel(
            id=model_id,
            name="",
            backends=(),
            classes=classes_of(kind, cache_write=served is not None and bool(served.cache_write)),
            units=YIELDS[kind][1],
        )
        return Charged(
            line=line,
            model_id=model_id,
            # A backend without a list of models serves whatever it says.
            known=bool(candidates) or of_batch is not None or not self._served,
            counts=charged_tokens(model, line.reading.counts),
            units=charged_units(model, line.reading.units),
        )


def book_lines(
    connection: sa.Connection,
    batch: BatchRun,
    lines: Sequence[BatchLine],
    *,
    models: Models,
    occurred_at: datetime,
    now: datetime,
) -> Booked:
    """Append the lines' usage in the ingest role's transaction.

    A line whose custom id was billed before, in these lines or ever, is not billed again: it
    counts as unreadable, because a batch has each id once.
    """
    answered: list[Answered] = []
    errors = unreadable = 0
    for line in lines:
        match line:
            case Answered():
                answered.append(line)
            case Failed():
                errors += 1
            case Unreadable():
                unreadable += 1
            case _:
                assert_never(line)
    charged = models.charge(connection, answered)
    events = _events(connection, batch, charged, occurred_at=occurred_at, now=now)
    appended = usage_store.append(connection, events) if events else None
    repeated: set[int] = set() if appended is None else set(appended.known)
    billed = [each for number, each in enumerate(charged) if number not in repeated]
    return Booked(
        billed=billed,
        counted=Counted(
            events=len(billed),
            errors=errors,
            unreadable=unreadable + len(repeated),
            anomalies=sum(each.anomalous for each in billed),
        ),
    )


def _events(
    connection: sa.Connection,
    batch: BatchRun,
    charged: Sequence[Charged],
    *,
    occurred_at: datetime,
    now: datetime,
) -> list[EventRow]:
    backend_id = catalog.ensure_backends(connection, [batch.backend])[batch.backend]
    meters = token_meters(connection, [batch.price_version_id])
    span = meters.span_of(batch.price_version_id, microseconds(occurred_at))
    meter_sets: dict[tuple[UnitMeter, ...], int] = {}
    shapes: dict[tuple[str, ...], int] = {(): catalog.NONE}
    rows: list[EventRow] = []
    for id_, each in zip(mint_ids(now, len(charged)), charged, strict=True):
        raw, units = each.line.reading.raw, tuple(sorted(each.units))
        paths = tuple(sorted(raw))
        if units not in meter_sets:
            meter_sets[units] = ensure_token_set(connection, meters, span, units)
        if paths not in shapes:
            shapes[paths] = usage_store.ensure_usage_shape(connection, paths)
        rows.append(
            EventRow(
                id=id_,
                occurred_at=occurred_at,
                tenant_id=batch.tenant_id,
                project_id=batch.project_id,
                key_id=batch.key_id,
                model_id=each.model_id,
                backend_id=backend_id,
                price_version_id=batch.price_version_id,
                meter_set_id=meter_sets[units],
                kind=int(EventKind.BILLED),
                cause=int(Cause.COMPLETED),
                estimated=each.estimated,
                quantities=_quantities(each, units),
                raw_shape_id=shapes[paths],
                raw_counts=tuple(raw[path] for path in paths),
                source=f"batch:{batch.backend}",
                foreign_id=_foreign_id(batch, each.line.custom_id),
                body_hash=_body_hash(each),
                properties=() if span == PLAIN else carried_by(each.counts, ServiceTier.BATCH),
            )
        )
    return rows


def _quantities(each: Charged, units: Sequence[UnitMeter]) -> tuple[Decimal | int, ...]:
    """In the order of the meter set: token classes, requests, units."""
    counts = each.counts
    return (
        counts.input,
        counts.cached_input,
        counts.cache_write,
        counts.output,
        1,
        *(unit.quantity(each.units[unit]) for unit in units),
    )


def _foreign_id(batch: BatchRun, custom_id: str) -> str:
    """The line's id in the key table; of one that no ledger keeps, its hash stands there."""
    written = f"{batch.batch_id}:{custom_id}"
    try:
        return require_text(written, field="custom_id")
    except InvalidInput:
        digest = hashlib.sha256(custom_id.encode()).hexdigest()
        return f"{batch.batch_id}:sha256:{digest}"


def _body_hash(each: Charged) -> bytes:
    """Equal for equal lines, whatever the configuration makes of them by now."""
    reading = each.line.reading
    members = [
        each.line.model or "",
        *(f"{path}={reading.raw[path]}" for path in sorted(reading.raw)),
    ]
    return hashlib.blake2b("\x1f".join(members).encode(), digest_size=_DIGEST_BYTES).digest()
