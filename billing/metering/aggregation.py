"""Aggregations: how the values of a period combine to one quantity, exactly.

Every state has `add` and `merge`, and its result depends on the set of events alone: not on the
order in which they arrive, nor on how they were split into batches (L4). That an event is added
once is the ledger's business. Where time matters, the order is total: the instant, then the epoch,
then the id, so that two events of one microsecond have a first and a last.

`unique` and `percentile` work on runs: (value, how many times) by ascending value. A database can
stream runs, so that both need no memory that grows with the period.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from heapq import merge as merge_sorted
from itertools import groupby
from typing import TypeAlias
from uuid import UUID

from billing.money import EXACT, round_half_up
from billing.period import Period

LEVEL_DECIMALS = 12
"""Decimals of a time-weighted sum; it is rounded half up once, when all spans are added."""

LEVEL_UNIT = timedelta(hours=1)
"""A level of one that lasts this long counts one."""

_MICROSECOND = timedelta(microseconds=1)

Run: TypeAlias = tuple[Decimal, int]
"""A value and how many events have it."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Point:
    """A value at its place in the total order of events."""

    occurred_at: datetime
    epoch: int
    event_id: UUID
    value: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """`sum`, and `count` with ones as values: the running sum."""

    total: Decimal = Decimal(0)

    def add(self, point: Point) -> Sum:
        """With one event more."""
        return Sum(total=EXACT.add(self.total, point.value))

    def merge(self, other: Sum) -> Sum:
        """Of both sets of events."""
        return Sum(total=EXACT.add(self.total, other.total))

    def result(self) -> Decimal:
        """The sum; 0 of no events."""
        return self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Maximum:
    """`max`: the largest value."""

    largest: Decimal | None = None

    def add(self, point: Point) -> Maximum:
        """With one event more."""
        return self.merge(Maximum(largest=point.value))

    def merge(self, other: Maximum) -> Maximum:
        """Of both sets of events."""
        known = [each for each in (self.largest, other.largest) if each is not None]
        return Maximum(largest=max(known, default=None))

    def result(self) -> Decimal:
        """The largest value; 0 of no events."""
        return Decimal(0) if self.largest is None else self.largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """`latest`: the value of the event that is last in the total order."""

    last: Point | None = None

    def add(self, point: Point) -> Latest:
        """With one event more."""
        return self.merge(Latest(last=point))

    def merge(self, other: Latest) -> Latest:
        """Of both sets of events."""
        known = [each for each in (self.last, other.last) if each is not None]
        return Latest(last=max(known, default=None))

    def result(self) -> Decimal:
        """The last value; 0 of no events."""
        return Decimal(0) if self.last is None else self.last.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The state of `unique` and `percentile`: every value with its count, ascending."""

    runs: tuple[Run, ...] = ()

    def add(self, point: Point) -> Runs:
        """With one event more."""
        return self.merge(Runs(runs=((point.value, 1),)))

    def merge(self, other: Runs) -> Runs:
        """Of both sets of events."""
        together = merge_sorted(self.runs, other.runs)
        return Runs(
            runs=tuple(
                (value, sum(count for _, count in run))
                for value, run in groupby(together, key=lambda run: run[0])
            )
        )

    def events(self) -> int:
        """How many events it holds."""
        return sum(count for _, count in self.runs)


def distinct(runs: Iterable[Run]) -> Decimal:
    """`unique`: the exact number of distinct values of ascending runs."""
    return Decimal(sum(1 for _ in runs))


def nearest_rank(runs: Iterable[Run], *, percentile: Decimal, events: int) -> Decimal:
    """`percentile`: the smallest value that at least so many percent of the events do not exceed.

    Nearest rank: the value at position ceil(percentile / 100 x events), which is always one that
    was reported, never one in between. 0 of no events.

    Args:
        runs: ascending by value.
        percentile: above 0, at most 100.
        events: how many events the runs hold.
    """
    scaled = Fraction(percentile) * events / Fraction(100)
    rank = -(-scaled.numerator // scaled.denominator)
    passed = 0
    for value, count in runs:
        passed += count
        if passed >= rank:
            return value
    return Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The state of `time_weighted_sum`: levels from the instants at which they were set."""

    points: tuple[Point, ...] = ()

    def add(self, point: Point) -> Levels:
        """With one event more."""
        return self.merge(Levels(points=(point,)))

    def merge(self, other: Levels) -> Levels:
        """Of both sets of events."""
        return Levels(points=tuple(merge_sorted(self.points, other.points)))

    def result(self, span: Period, *, initial: Decimal) -> Fraction:
        """Level times hours over a span, exactly; see `level_hours`."""
        return level_hours(self.points, span, initial=initial)


def level_hours(points: Iterable[Point], span: Period, *, initial: Decimal) -> Fraction:
    """The integral of a level over one span; see `level_hours_by_span`."""
    return next(hours for _, hours in level_hours_by_span(points, [span], initial=initial))


def level_hours_by_span(
    points: Iterable[Point], spans: Iterable[Period], *, initial: Decimal
) -> Iterator[tuple[Period, Fraction]]:
    """The integral of a level over half-open spans, in units of the level times hours, exactly.

    A level holds from its instant until the next one in the total order; of several at one
    instant the last counts, the others lasted no time. A point at the end of a span belongs to
    the next one.

    Args:
        points: ascending in the total order, none before the first span.
        spans: ascending, each beginning where the one before ends.
        initial: the level when the first span begins; 0 if none was ever set.
    """
    level, ahead = initial, iter(points)
    point = next(ahead, None)
    for span in spans:
        total, since = Fraction(0), span.start
        while point is not None and point.occurred_at < span.end:
            total += _area(level, point.occurred_at - since)
            level, since = point.value, point.occurred_at
            point = next(ahead, None)
        yield span, total + _area(level, span.end - since)


def rounded_level_hours(hours: Fraction) -> Decimal:
    """A time-weighted sum as a quantity: 12 decimals, half up, rounded once at the end."""
    return round_half_up(hours, LEVEL_DECIMALS)


def _area(level: Decimal, lasted: timedelta) -> Fraction:
    return Fraction(level) * Fraction(lasted // _MICROSECOND, LEVEL_UNIT // _MICROSECOND)
