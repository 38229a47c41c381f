"""A page of journal records as a batch for the ledger, and the attempts in it that bill nothing.

Decides: which records have an outcome that the ledger keeps, and which of its columns each field
becomes. No statement is sent while a page is encoded, so that it can run while the server is busy
with the page before; the row ids of names are looked up beforehand (`Names`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

import sqlalchemy as sa

from billing.journal.records import (
    UNBILLED,
    UNREACHED,
    Attribution,
    Checkpoint,
    Intent,
    Record,
    Usage,
    Void,
)
from billing.metering.event_id import from_microseconds
from billing.metering.request_event import carried_by
from billing.metering.unit_meter import UnitMeter
from billing.metering.usage_event import Cause
from billing.operations.admission.leases import draw
from billing.operations.metering.attempt_rows import attempt_rows, backends_of
from billing.operations.metering.step_rows import step_rows
from billing.operations.metering.token_meters import (
    PLAIN,
    TokenMeters,
    ensure_token_set,
    token_meters,
)
from billing.store import catalog
from billing.store.usage import append as usage_store
from billing.store.usage.attempts import AttemptRow, insert_attempts
from billing.store.usage.raw_counts import pack_counts
from billing.store.usage.read import ScrapRow, insert_scrap
from billing.store.usage.staged_rows import (
    BUCKET_US,
    EncodedOrigin,
    Origin,
    StagedRows,
    course_bytes,
    encoded_origin,
)
from billing.store.usage.steps import StepRow, insert_steps

_MeterSet: TypeAlias = tuple[tuple[str, ...], int]

_CAUSES = {cause.name.lower(): int(cause) for cause in Cause}


@dataclass(frozen=True, slots=True)
class Names:
    """Row ids of what records name. What is in here has been committed, or dies with its use.

    Attributes:
        meters: the versions that count, read when some event of `quarter` had ended.
        quarter: newest quarter hour (since 1970) of which that is known.
        meter_sets: by the units as a record has them and the span of `meters`: the row id, and
            the units in its order.
        shapes: by the paths as a record has them: the row id, and the paths in its order.
    """

    meters: TokenMeters = field(default_factory=TokenMeters)
    quarter: int = -1
    meter_sets: dict[_MeterSet, tuple[int, tuple[str, ...]]] = field(
        default_factory=dict["_MeterSet", tuple[int, tuple[str, ...]]]
    )
    backends: dict[str, int] = field(default_factory=dict[str, int])
    shapes: dict[tuple[str, ...], tuple[int, tuple[str, ...]]] = field(
        default_factory=dict[tuple[str, ...], tuple[int, tuple[str, ...]]]
    )

    def cover(self, outcomes: Outcomes) -> bool:
        """Whether every name in the outcomes is known."""
        return (
            self.quarter >= outcomes.quarter
            and self.backends.keys() >= outcomes.backends
            and (not self.meters.starts or self.meters.knows(outcomes.price_versions))
            and all(
                tuple(usage.raw) in self.shapes
                and _meter_set(usage, self.meters) in self.meter_sets
                for usage in outcomes.usages
            )
        )

    def lasting(self) -> Names:
        """What holds whatever meters are defined: what contracts price tokens by."""
        return Names(meters=TokenMeters(split=self.meters.split))


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The records of a page that the ledger keeps, and those that only limits count."""

    usages: list[Usage]
    voids: list[Void]
    unbilled: list[Void]

    @property
    def backends(self) -> set[str]:
        """Names of the backends that they ran on."""
        return backends_of((*self.usages, *self.voids))

    @property
    def price_versions(self) -> set[int]:
        """Price versions of the usage events."""
        return {usage.attribution.price_version_id for usage in self.usages}

    @property
    def quarter(self) -> int:
        """The newest quarter hour since 1970 in which one ended; -1 if there is none.

        What is read when one has ended holds to the end of its quarter hour: a meter's next
        version begins with a later one.
        """
        return max((usage.at_us for usage in self.usages), default=-1) // BUCKET_US


@dataclass(frozen=True, slots=True)
class EncodedPage:
    """What a page adds to the ledger."""

    staged: StagedRows
    scrap: list[ScrapRow]
    drawing: list[Usage]
    unbilled: list[Void]
    attempts: list[AttemptRow]
    steps: list[StepRow]


def outcomes_of(records: Iterable[Record]) -> Outcomes:
    """The outcomes among records of a journal."""
    outcomes = Outcomes(usages=[], voids=[], unbilled=[])
    for record in records:
        match record:
            case Usage():
                outcomes.usages.append(record)
            case Void(reason=reason) if reason == UNBILLED:
                outcomes.unbilled.append(record)
            case Void() if record.reason != UNREACHED:
                outcomes.voids.append(record)
            case Intent() | Checkpoint() | Void():
                pass
    return outcomes


def look_up(connection: sa.Connection, outcomes: Outcomes, known: Names | None) -> Names:
    """The names that outcomes need, beside those that are known; new ones are added."""
    known = known or Names()
    meters, meter_sets = known.meters, dict(known.meter_sets)
    if known.quarter < outcomes.quarter or not meters.knows(outcomes.price_versions):
        meters, meter_sets = token_meters(connection, outcomes.price_versions, known=meters), {}
    for units, span in sorted(
        {_meter_set(usage, meters) for usage in outcomes.usages} - meter_sets.keys()
    ):
        ordered = tuple(sorted(units))
        set_id = ensure_token_set(connection, meters, span, ordered)
        meter_sets[units, span] = (set_id, ordered)
    shapes = dict(known.shapes)
    for usage in outcomes.usages:
        paths = tuple(usage.raw)
        if paths not in shapes:
            ordered = tuple(sorted(paths))
            shape = usage_store.ensure_usage_shape(connection, ordered) if paths else catalog.NONE
            shapes[paths] = (shape, ordered)
    backends = catalog.ensure_backends(connection, outcomes.backends)
    return Names(
        meters=meters,
        quarter=max(known.quarter, outcomes.quarter),
        meter_sets=meter_sets,
        backends={**known.backends, **backends},
        shapes=shapes,
    )


def _meter_set(usage: Usage, meters: TokenMeters) -> _MeterSet:
    if not meters.starts:  # the common case, once per event
        return tuple(usage.units), PLAIN
    return tuple(usage.units), meters.span_of(usage.attribution.price_version_id, usage.at_us)


def encode_page(outcomes: Outcomes, names: Names) -> EncodedPage:
    """The batch of a page, complete but for the epoch."""
    staged = StagedRows()
    _stage(staged, outcomes.usages, names)
    staged.settle()
    return EncodedPage(
        staged=staged,
        scrap=[_scrap(void, names.backends) for void in outcomes.voids],
        drawing=[usage for usage in outcomes.usages if usage.draws],
        unbilled=outcomes.unbilled,
        attempts=attempt_rows((*outcomes.usages, *outcomes.voids), names.backends),
        steps=step_rows(outcomes.usages),
    )


def append_page(
    connection: sa.Connection, page: EncodedPage, *, again: bool
) -> tuple[list[bytes], int]:
    """Append what was encoded: (ids of the events that were new, scrap attempts).

    A page can come again after a lost answer: what goes with an event is appended for the new
    ones only.

    Args:
        again: the page has been committed before; what has no event to go with counts once.
    """
    insert_scrap(connection, page.scrap)
    insert_attempts(connection, page.attempts)
    insert_steps(connection, page.steps)
    accepted: list[bytes] = []
    if len(page.staged):
        accepted = usage_store.append_operations(connection, page.staged)
    new = frozenset(accepted)
    drawing: list[Usage | Void] = [usage for usage in page.drawing if usage.id in new]
    draw(connection, drawing if again else [*drawing, *page.unbilled])
    return accepted, len(page.scrap)


def append_records(
    connection: sa.Connection, records: Sequence[Record], *, again: bool = True
) -> tuple[int, int]:
    """Append the outcomes among journal records: (new events, scrap attempts).

    Args:
        again: they may have been appended before; see `append_page`.
    """
    outcomes = outcomes_of(records)
    if not outcomes.usages and not outcomes.voids and not outcomes.unbilled:
        return 0, 0
    accepted, scrap = append_page(
        connection, encode_page(outcomes, look_up(connection, outcomes, None)), again=again
    )
    return len(accepted), scrap


def _stage(staged: StagedRows, usages: Iterable[Usage], names: Names) -> None:
    origins: dict[tuple[Attribution, int, int], EncodedOrigin] = {}
    for usage in usages:
        counts, raw = usage.counts, usage.raw
        shape, paths = names.shapes[tuple(raw)]
        units_and_span = _meter_set(usage, names.meters)
        meter_set, units = names.meter_sets[units_and_span]
        shared = (usage.attribution, shape, meter_set)
        origin = origins.get(shared)
        if origin is None:
            origin = origins[shared] = encoded_origin(
                _origin(usage.attribution, shape, meter_set, names.backends)
            )
        # The order of BUILT_IN: the token classes, then requests; units stand behind them.
        quantities: tuple[int | Decimal, ...] = (
            counts.input, counts.cached_input, counts.cache_write, counts.output, 1,
        )  # fmt: skip
        if units:
            quantities += tuple(UnitMeter(unit).quantity(usage.units[unit]) for unit in units)
        staged.add(
            usage.id,
            usage.at_us,
            origin,
            course_bytes(_CAUSES[usage.cause], usage.estimated, usage.ttft_us, usage.duration_us),
            quantities,
            pack_counts([raw[path] for path in paths]),
        )
        if units_and_span[1] != PLAIN:
            tier = usage.served_tier or usage.attribution.service_tier
            staged.properties[usage.id] = carried_by(counts.tokens(), tier)


def _origin(whose: Attribution, shape: int, meter_set: int, backends: dict[str, int]) -> Origin:
    return Origin(
        tenant_id=whose.tenant_id,
        project_id=whose.project_id,
        key_id=whose.key_id,
        model_id=whose.model_id,
        backend_id=backends[whose.backend],
        price_version_id=whose.price_version_id,
        meter_set_id=meter_set,
        raw_shape_id=shape,
        kind=whose.kind,
        run_id=whose.run_id,
    )


def _scrap(void: Void, backends: dict[str, int]) -> ScrapRow:
    return ScrapRow(
        id=UUID(bytes=void.id),
        at=from_microseconds(void.at_us),
        tenant_id=void.attribution.tenant_id,
        model_id=void.attribution.model_id,
        backend_id=backends[void.attribution.backend],
        reason=void.reason,
    )
