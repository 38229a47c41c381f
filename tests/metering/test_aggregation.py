"""L4 for aggregations: arrival order and the split into batches change no result, exactly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.metering.aggregation import (
    Latest,
    Levels,
    Maximum,
    Point,
    Runs,
    Sum,
    distinct,
    level_hours,
    level_hours_by_span,
    nearest_rank,
    rounded_level_hours,
)
from billing.metering.meter import Aggregation, State
from billing.period import Period

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = Period(start=START, end=START + timedelta(days=1))

values = st.decimals(min_value=-(10**6), max_value=10**6, places=6)
instants = st.integers(0, 86_399_999_999).map(lambda us: START + timedelta(microseconds=us))
# Few instants and epochs, so that ties are common and the id has to decide.
crowded = st.sampled_from([START + timedelta(minutes=m) for m in (0, 1, 1, 15, 90)])
points = st.lists(
    st.builds(
        Point,
        occurred_at=instants | crowded,
        epoch=st.integers(1, 3),
        event_id=st.uuids(version=4),
        value=values | st.sampled_from([Decimal(0), Decimal(1)]),
    ),
    unique_by=lambda point: point.event_id,
    max_size=30,
)

Result = Callable[[list[list[Point]]], object]


def folded(empty, batches: list[list[Point]]):
    """A state of batches: each added up alone, then merged."""
    states = [reduce(lambda state, point: state.add(point), batch, empty) for batch in batches]
    return reduce(lambda one, other: one.merge(other), states, empty)


RESULTS: dict[str, Result] = {
    "sum": lambda batches: folded(Sum(), batches).result(),
    "max": lambda batches: folded(Maximum(), batches).result(),
    "latest": lambda batches: folded(Latest(), batches).result(),
    "unique": lambda batches: distinct(folded(Runs(), batches).runs),
    "percentile": lambda batches: nearest_rank(
        (runs := folded(Runs(), batches)).runs, percentile=Decimal(95), events=runs.events()
    ),
    "time_weighted_sum": lambda batches: folded(Levels(), batches).result(
        DAY, initial=Decimal("2.5")
    ),
}


def oracle(name: str, events: list[Point]) -> object:
    """The same figures by the shortest definition that reads every event."""
    ordered = sorted(events, key=lambda p: (p.occurred_at, p.epoch, p.event_id))
    if name == "time_weighted_sum":
        return sum(
            Fraction(level) * Fraction((end - start) // timedelta(microseconds=1), 3_600_000_000)
            for level, start, end in zip(
                [Decimal("2.5"), *(point.value for point in ordered)],
                [DAY.start, *(point.occurred_at for point in ordered)],
                [*(point.occurred_at for point in ordered), DAY.end],
                strict=True,
            )
        )
    if not events:
        return 0
    ascending = sorted(point.value for point in events)
    match name:
        case "sum":
            return sum((Fraction(value) for value in ascending), Fraction(0))
        case "max":
            return ascending[-1]
        case "latest":
            return ordered[-1].value
        case "unique":
            return len(set(ascending))
        case _:
            return ascending[-(-95 * len(ascending) // 100) - 1]


@pytest.mark.parametrize("name", RESULTS)
@given(events=points, shuffled=st.randoms(use_true_random=False), cut=st.integers(0, 30))
def test_L4_order_and_split_change_no_aggregate(name, events, shuffled, cut) -> None:
    expected = oracle(name, events)
    shuffled.shuffle(events)
    assert RESULTS[name]([events]) == expected
    assert RESULTS[name]([events[:cut], events[cut:]]) == expected
    assert RESULTS[name]([events[cut:], [], events[:cut]]) == expected


@given(events=points, cuts=st.lists(instants, unique=True, max_size=4), initial=values)
def test_a_level_over_a_period_is_the_sum_of_its_spans(events, cuts, initial) -> None:
    ordered = sorted(events)
    edges = sorted({DAY.start, *cuts})
    spans = [
        Period(start=a, end=b) for a, b in zip(edges, [*edges[1:], DAY.end], strict=True) if a < b
    ]
    split = level_hours_by_span(ordered, spans, initial=initial)
    assert sum(hours for _, hours in split) == level_hours(ordered, DAY, initial=initial)


def point(at: datetime, value: str, *, epoch: int = 1, serial: int = 1) -> Point:
    return Point(occurred_at=at, epoch=epoch, event_id=UUID(int=serial), value=Decimal(value))


def test_a_level_holds_from_its_instant_until_the_next_and_the_period_is_half_open() -> None:
    noon = START + timedelta(hours=12)
    set_twice = [point(noon, "100"), point(noon, "4", epoch=2)]
    assert level_hours([], DAY, initial=Decimal(2)) == 48
    assert level_hours(set_twice, DAY, initial=Decimal(2)) == 12 * 2 + 12 * 4
    assert level_hours([point(DAY.end, "9")], DAY, initial=Decimal(0)) == 0
    assert level_hours([point(START, "1")], DAY, initial=Decimal(7)) == 24
    assert level_hours(
        [point(DAY.end - timedelta(microseconds=1), "1")], DAY, initial=Decimal(0)
    ) == Fraction(1, 3_600_000_000)


def test_a_time_weighted_sum_is_rounded_once_half_up() -> None:
    assert rounded_level_hours(Fraction(1, 3)) == Decimal("0.333333333333")
    assert rounded_level_hours(Fraction(5, 10**13)) == Decimal("0.000000000001")
    assert rounded_level_hours(Fraction(-5, 10**13)) == Decimal("-0.000000000001")


@pytest.mark.parametrize(
    ("percentile", "expected"), [("5", 15), ("30", 20), ("40", 20), ("50", 35), ("100", 50)]
)
def test_a_percentile_is_a_reported_value_by_nearest_rank(percentile: str, expected: int) -> None:
    runs = [(Decimal(value), 1) for value in (15, 20, 35, 40, 50)]
    assert nearest_rank(runs, percentile=Decimal(percentile), events=5) == expected


def test_a_percentile_with_decimals_is_no_binary_float() -> None:
    runs = [(Decimal(value), 1) for value in range(1, 1001)]
    assert nearest_rank(runs, percentile=Decimal("99.9"), events=1000) == 999
    assert nearest_rank(runs, percentile=Decimal("99.91"), events=1000) == 1000


def test_only_sums_and_counts_can_be_taken_from_rollups() -> None:
    states = {each: each.state for each in Aggregation}
    assert [each for each, state in states.items() if state is State.ADDITIVE] == [
        Aggregation.SUM,
        Aggregation.COUNT,
    ]
    assert [each for each, state in states.items() if state is State.MERGEABLE] == [Aggregation.MAX]
