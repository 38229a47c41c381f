"""What the lines of a usage file add up to, as finely as a plan asks for it.

Decides: how lines of a meter combine, as its aggregation says, and what becomes of a level that
is written down when it changes. What no price asks for (dimensions, times) is dropped as it is
read, so that a long file takes no more memory than a short one, unless single transactions,
levels or values matter to a price.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias, assert_never
from uuid import UUID
from zoneinfo import ZoneInfo

from billing.catalog.price_plan import PricePlan
from billing.metering.aggregation import (
    Point,
    distinct,
    level_hours_by_span,
    nearest_rank,
    rounded_level_hours,
)
from billing.metering.meter import Aggregation, Meter, State
from billing.money import EXACT
from billing.period import BUCKET, Period, bucket_of, quarter_hours
from billing.planfiles.usage_file import Said, UsageLine, read_line
from billing.rating.levels import level_changes
from billing.rating.meter_fit import DeclaredMeter
from billing.rating.needs import NO_NEEDS, MeterNeeds, Needs, needs_of
from billing.rating.quantity import MeteredQuantity

_ZERO = Decimal(0)
_UTC = ZoneInfo("UTC")
_NO_TIME = datetime.min.replace(tzinfo=UTC)
"""Of a line without a time: it comes before those that have one."""

_Place: TypeAlias = tuple[str, str | None, tuple[tuple[str, str], ...], datetime | None]
_Series: TypeAlias = dict[tuple[str, str | None], list[Point]]


@dataclass(slots=True, kw_only=True)
class UsageTally:
    """Usage that is being added up.

    Attributes:
        plan: what prices it.
        meters: declared ones, by code; a meter that is not here adds up.
        period: the billing period; None: every line is of one, whichever it is.
        zone: whose midnights bound days.
        outside: lines that were left out, because their time is not in the period.
    """

    plan: PricePlan
    meters: Mapping[str, DeclaredMeter] = field(default_factory=dict[str, DeclaredMeter])
    period: Period | None = None
    zone: ZoneInfo = _UTC
    outside: int = 0
    _needs: Needs = field(init=False)
    _sums: dict[_Place, Decimal] = field(init=False, default_factory=dict[_Place, Decimal])
    _transactions: dict[_Place, list[Point]] = field(
        init=False, default_factory=lambda: defaultdict(list)
    )
    _readings: _Series = field(init=False, default_factory=lambda: defaultdict(list))
    _values: dict[tuple[str, str | None], set[Decimal]] = field(
        init=False, default_factory=lambda: defaultdict(set)
    )

    def __post_init__(self) -> None:
        self._needs = needs_of([self.plan])

    def add(self, line: UsageLine) -> None:
        """Count one line.

        Raises:
            InvalidInput: the line says it in a way that its meter or its price cannot use.
            AmountOutOfRange: more digits than are kept.
        """
        sets_level = line.said is Said.LEVEL
        if line.at is not None and self.period is not None and line.at not in self.period:
            before = line.at < self.period.start
            if not (sets_level and before):
                self.outside += 1
                return
        declared = self.meters.get(line.meter)
        meter = None if declared is None else declared.meter
        if meter is None or meter.aggregation.state is State.ADDITIVE:
            self._add_up(line)
        else:
            self._keep(line, meter.aggregation)

    def quantities(self) -> tuple[MeteredQuantity, ...]:
        """What was counted."""
        return (*self._summed(), *self._of_transactions(), *self._aggregated())

    def _add_up(self, line: UsageLine) -> None:
        if line.said not in {Said.QUANTITY, Said.TRANSACTIONS}:
            raise line.refuse(
                f"{line.meter} adds up",
                member=line.said,
                remedy="write quantity, or declare the meter with its aggregation in --meters",
            )
        asked = self._needs.get(line.meter, NO_NEEDS)
        place = _place(line, asked)
        if not asked.transactions:
            total = self._sums.get(place, _ZERO)
            for figure in line.figures:
                total = EXACT.add(total, figure)
            self._sums[place] = total
            return
        points = (_point(line, each) for each in range(len(line.figures)))
        self._transactions[place].extend(points)

    def _keep(self, line: UsageLine, aggregation: Aggregation) -> None:
        """Keep a reading or a value of a meter that does not add up."""
        asked = self._needs.get(line.meter, NO_NEEDS)
        series = (line.meter, line.model)
        match aggregation, line.said:
            case Aggregation.UNIQUE, Said.VALUE:
                self._values[series].update(line.figures)
            case ((Aggregation.UNIQUE | Aggregation.TIME_WEIGHTED_SUM), Said.QUANTITY) if (
                not asked.levels
            ):
                # Somebody counted already: distinct values, or units times hours.
                place = _place(line, asked)
                self._sums[place] = EXACT.add(self._sums.get(place, _ZERO), line.figures[0])
            case Aggregation.TIME_WEIGHTED_SUM, Said.LEVEL:
                if self.period is None:
                    raise line.refuse(
                        "how long a level lasts is known of a billing period only",
                        member=line.said,
                        remedy="name it with --period 2026-11",
                    )
                self._readings[series].append(_point(line))
            case ((Aggregation.MAX | Aggregation.LATEST | Aggregation.PERCENTILE), Said.QUANTITY):
                self._readings[series].append(_point(line))
            case _:
                raise line.refuse(
                    f"{line.meter} is a meter of {aggregation}",
                    member=line.said,
                    remedy=f"write {_written(aggregation)}",
                )

    def _summed(self) -> Iterator[MeteredQuantity]:
        for (meter, model, dimensions, at), quantity in self._sums.items():
            yield MeteredQuantity(
                meter=meter, model=model, quantity=quantity, dimensions=dimensions, at=at
            )

    def _of_transactions(self) -> Iterator[MeteredQuantity]:
        for (meter, model, dimensions, at), points in self._transactions.items():
            quantity = _ZERO
            for point in points:
                quantity = EXACT.add(quantity, point.value)
            yield MeteredQuantity(
                meter=meter,
                model=model,
                quantity=quantity,
                dimensions=dimensions,
                at=at,
                transactions=tuple(sorted(points)),
            )

    def _aggregated(self) -> Iterator[MeteredQuantity]:
        for (meter, model), values in self._values.items():
            quantity = distinct((value, 1) for value in values)
            yield MeteredQuantity(meter=meter, model=model, quantity=quantity)
        for (code, model), readings in self._readings.items():
            meter = self.meters[code].meter
            ordered = sorted(readings)
            if meter.aggregation is Aggregation.TIME_WEIGHTED_SUM:
                yield from self._of_level(code, model, ordered)
            else:
                quantity = _combined(meter, [point.value for point in ordered])
                yield MeteredQuantity(meter=code, model=model, quantity=quantity)

    def _of_level(
        self, meter: str, model: str | None, points: list[Point]
    ) -> Iterator[MeteredQuantity]:
        """Hours of a level, or its changes where units are prorated by days."""
        period = self.period
        assert period is not None, "a level is refused where no period is named"
        inside = [point for point in points if point.occurred_at >= period.start]
        before = [point for point in points if point.occurred_at < period.start]
        initial = before[-1].value if before else _ZERO
        asked = self._needs.get(meter, NO_NEEDS)
        if asked.levels:
            days = self.plan.policies.proration_days
            changes = tuple(
                level_changes(inside, initial=initial, period=period, zone=self.zone, days=days)
            )
            quantity = _ZERO
            for change in changes:
                quantity = EXACT.add(quantity, change.prorated)
            yield MeteredQuantity(meter=meter, model=model, quantity=quantity, changes=changes)
            return
        spans = [period]
        if asked.quarters:
            spans = [Period(start=start, end=start + BUCKET) for start in quarter_hours(period)]
        for span, hours in level_hours_by_span(inside, spans, initial=initial):
            if hours:
                at = span.start if asked.quarters else None
                quantity = rounded_level_hours(hours)
                yield MeteredQuantity(meter=meter, model=model, quantity=quantity, at=at)


def tally(lines: Iterable[str], into: UsageTally) -> tuple[MeteredQuantity, ...]:
    """Read and add up the lines of a usage file.

    Args:
        lines: of the file, from its first; blank ones are skipped.

    Raises:
        InvalidInput: `field` names line and member, like `line 3: quantity`.
        AmountOutOfRange: a quantity beyond 10^18.
    """
    for number, line in enumerate(lines, start=1):
        for said in read_line(line, number):
            into.add(said)
    return into.quantities()


def _place(line: UsageLine, asked: MeterNeeds) -> _Place:
    """Where a line counts, as finely as prices ask."""
    carried = dict(line.dimensions)
    dimensions = tuple((name, carried[name]) for name in asked.dimensions if name in carried)
    at = None
    if asked.quarters:
        if line.at is None:
            raise line.refuse(
                f"a price of {line.meter} goes by the time",
                member="at",
                remedy='add "at": "2026-11-02T09:00:00Z"',
            )
        at = bucket_of(line.at)
    return line.meter, line.model, dimensions, at


def _point(line: UsageLine, position: int = 0) -> Point:
    """A figure of a line in the order of time, then of the file."""
    return Point(
        occurred_at=_NO_TIME if line.at is None else line.at,
        epoch=line.number,
        event_id=UUID(int=position),
        value=line.figures[position],
    )


def _combined(meter: Meter, values: list[Decimal]) -> Decimal:
    """Readings as one quantity; they are in the order of time."""
    if meter.aggregation is Aggregation.MAX:
        return max(values)
    if meter.aggregation is Aggregation.LATEST:
        return values[-1]
    assert meter.percentile is not None, "a meter of a percentile says which"
    runs = ((value, 1) for value in sorted(values))
    return nearest_rank(runs, percentile=meter.percentile, events=len(values))


def _written(aggregation: Aggregation) -> str:
    """How a line of a meter says what was used."""
    match aggregation:
        case Aggregation.UNIQUE:
            return "value, or the quantity of distinct ones"
        case Aggregation.TIME_WEIGHTED_SUM:
            return "level"
        case (
            Aggregation.MAX
            | Aggregation.LATEST
            | Aggregation.PERCENTILE
            | Aggregation.SUM
            | Aggregation.COUNT
        ):
            return "quantity"
        case _:
            assert_never(aggregation)
