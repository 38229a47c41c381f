"""Usage files: lines of JSON, added up as finely as a plan asks."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.charge import Charge
from billing.catalog.price import Percentage, PerUnit, Price, Span
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import Selector
from billing.errors import AmountOutOfRange, InvalidInput
from billing.metering.meter import Aggregation
from billing.money import currency
from billing.period import Period
from billing.planfiles.usage_tally import UsageTally, tally
from billing.rating.quantity import MeteredQuantity
from tests.charges import declared, flat_fee
from tests.strategies import MODELS, PATIENT

NOVEMBER = Period(start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 12, 1, tzinfo=UTC))
MINUTES = timedelta(minutes=1)


def plan_of(*charges: Charge) -> PricePlan:
    fee = flat_fee(key="fee", description="Fee", amount=Decimal(0))
    return PricePlan(slug="p", name="P", currency=currency("USD"), charges=(fee, *charges))


def charge(meter: str, price: Price | None = None, *, where=(), window=None, **terms) -> Charge:
    return Charge(
        key=meter,
        description="Used",
        selector=Selector(meter=meter, where=where, window=window),
        price=price or PerUnit(price=Decimal(1)),
        **terms,
    )


def read_usage(lines, *charges, meters=None, period=None) -> tuple[MeteredQuantity, ...]:
    usage = UsageTally(plan=plan_of(*charges), meters=meters or {}, period=period)
    return tally(lines, usage)


def sums(*lines: str) -> dict[tuple[str, str | None], Decimal]:
    return {(q.meter, q.model): q.quantity for q in read_usage(lines)}


def test_all_forms_of_a_row_are_summed():
    assert sums(
        '{"meter": "requests", "model": "a", "quantity": "3"}',
        "",
        '{"tokens": "output", "model": "a", "quantity": 1200}',
        '{"model": "a", "input": 900, "cached_input": "100", "output": 1200}',
        '{"meter": "outcome.solved", "quantity": "0.5"}',
    ) == {
        ("requests", "a"): 3,
        ("tokens.output", "a"): 2400,
        ("tokens.input", "a"): 900,
        ("tokens.cached_input", "a"): 100,
        ("outcome.solved", None): Decimal("0.5"),
    }


ROWS = [
    (
        '{"meter": "gpu.hours", "quantity": "1.5", "dimensions": {"g": "b", "slice": "a"},'
        ' "at": "2026-11-02T10:44:59+01:00"}'
    ),
    (
        '{"meter": "gpu.hours", "quantity": 2, "dimensions": {"slice": "a", "g": "b"},'
        ' "at": "2026-11-02T09:30:00Z"}'
    ),
    '{"meter": "gpu.hours", "quantity": 4, "at": "2026-11-02T09:45:00Z"}',
]


def test_lines_are_added_up_by_the_dimensions_and_quarter_hours_that_prices_ask_for():
    hourly = charge("gpu.hours", split_by=("slice",), restart=Span.HOUR)

    assert [(row.quantity, row.dimensions, row.at) for row in read_usage(ROWS, hourly)] == [
        (Decimal("3.5"), (("slice", "a"),), datetime(2026, 11, 2, 9, 30, tzinfo=UTC)),
        (Decimal(4), (), datetime(2026, 11, 2, 9, 45, tzinfo=UTC)),
    ]
    assert [row.quantity for row in read_usage(ROWS, charge("gpu.hours"))] == [Decimal("7.5")]


def test_memory_does_not_grow_with_lines_that_add_up():
    """What no price asks for is dropped as it is read."""
    usage = UsageTally(plan=plan_of(charge("gpu.hours")))

    def lines(count: int) -> Iterator[str]:
        for number in range(count):
            at = NOVEMBER.start + number * MINUTES
            yield (
                f'{{"meter": "gpu.hours", "quantity": {number}, "at": "{at:%Y-%m-%dT%H:%M:%SZ}",'
                f' "dimensions": {{"host": "h{number}"}}}}'
            )

    def peak(count: int) -> int:
        tracemalloc.start()
        tally(lines(count), usage)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(500)
    assert peak(5_000) < 2 * few


def test_single_transactions_stay_in_the_order_of_time_then_of_the_file():
    percentage = charge("sales", Percentage(percent=Decimal(1), fixed=Decimal(1)))
    (used,) = read_usage(
        [
            '{"meter": "sales", "quantity": "3", "at": "2026-11-02T10:00:00Z"}',
            '{"meter": "sales", "transactions": ["1", "2"]}',
            '{"meter": "sales", "quantity": "4", "at": "2026-11-02T09:00:00Z"}',
        ],
        percentage,
    )
    assert [int(point.value) for point in used.transactions] == [1, 2, 4, 3]
    assert used.quantity == 10


READINGS = [
    '{"meter": "m", "quantity": "3", "at": "2026-11-02T10:00:00Z"}',
    '{"meter": "m", "quantity": "9", "at": "2026-11-03T10:00:00Z"}',
    '{"meter": "m", "quantity": "5", "at": "2026-11-04T10:00:00Z"}',
]


@pytest.mark.parametrize(
    ("aggregation", "lines", "expected"),
    [
        (Aggregation.SUM, READINGS, 17),
        (Aggregation.MAX, READINGS, 9),
        (Aggregation.LATEST, [READINGS[2], READINGS[0]], 5),
        (Aggregation.PERCENTILE, READINGS, 9),
        (Aggregation.UNIQUE, ['{"meter": "m", "value": "a"}'] * 2 + READINGS[:1], 4),
        # A day of 2 and 29 days of 4, and hours that somebody counted.
        (
            Aggregation.TIME_WEIGHTED_SUM,
            [
                '{"meter": "m", "level": 4, "at": "2026-11-02T00:00:00Z"}',
                '{"meter": "m", "level": 2, "at": "2026-10-07T00:00:00Z"}',
                '{"meter": "m", "quantity": 10}',
            ],
            2 * 24 + 4 * 24 * 29 + 10,
        ),
    ],
)
def test_lines_combine_as_their_meter_says(aggregation, lines, expected):
    meters = declared("m", aggregation=aggregation)
    found = read_usage(lines, charge("m"), meters=meters, period=NOVEMBER)
    assert sum(used.quantity for used in found) == expected


def test_a_level_by_the_quarter_hour_and_by_days():
    meters = declared("seats", aggregation=Aggregation.TIME_WEIGHTED_SUM)
    lines = [
        '{"meter": "seats", "level": 10}',
        '{"meter": "seats", "level": 16, "at": "2026-11-21T00:00:00Z"}',
    ]
    (by_days,) = read_usage(lines, charge("seats", prorated=True), meters=meters, period=NOVEMBER)
    by_time = read_usage(lines, charge("seats", restart=Span.HOUR), meters=meters, period=NOVEMBER)

    # 6 more seats for 10 of 30 days.
    assert [(int(c.units), int(c.prorated)) for c in by_days.changes] == [(10, 10), (6, 2)]
    assert by_days.quantity == 12
    assert len(by_time) == 30 * 96
    assert sum(used.quantity for used in by_time) == 24 * (20 * 10 + 10 * 16)


def test_lines_outside_the_period_are_counted_and_left_out():
    usage = UsageTally(plan=plan_of(charge("m")), period=NOVEMBER)
    lines = [
        '{"meter": "m", "quantity": 1, "at": "2026-10-31T23:59:59.999999Z"}',
        '{"meter": "m", "quantity": 2, "at": "2026-11-01T00:00:00Z"}',
        '{"meter": "m", "quantity": 4, "at": "2026-12-01T00:00:00Z"}',
        '{"meter": "m", "quantity": 8}',
    ]
    (used,) = tally(lines, usage)
    assert (used.quantity, usage.outside) == (10, 2)


@pytest.mark.parametrize(
    ("aggregation", "line", "field"),
    [
        (Aggregation.SUM, '{"meter": "m", "level": 1}', "line 1: level"),
        (Aggregation.SUM, '{"meter": "m", "value": "a"}', "line 1: value"),
        (Aggregation.MAX, '{"meter": "m", "transactions": ["1"]}', "line 1: transactions"),
        (Aggregation.LATEST, '{"meter": "m", "level": 1}', "line 1: level"),
        (Aggregation.UNIQUE, '{"meter": "m", "level": 1}', "line 1: level"),
        (Aggregation.TIME_WEIGHTED_SUM, '{"meter": "m", "level": 1}', "line 1: level"),
    ],
)
def test_what_a_meter_cannot_use_is_refused_with_a_remedy(aggregation, line, field):
    with pytest.raises(InvalidInput) as refused:
        read_usage([line], charge("m"), meters=declared("m", aggregation=aggregation))
    assert refused.value.field == field
    assert refused.value.remedy


def test_a_price_by_time_names_the_line_that_has_none():
    with pytest.raises(InvalidInput) as refused:
        read_usage(['{"meter": "m", "quantity": 1}'], charge("m", restart=Span.DAY))
    assert refused.value.field == "line 1: at"


REFUSED = {
    "dimensions as a list": (
        '{"meter": "requests", "quantity": 1, "dimensions": ["a"]}',
        "line 2: dimensions",
    ),
    "a number for a dimension": (
        '{"meter": "requests", "quantity": 1, "dimensions": {"a": 1}}',
        "line 2: dimensions.a",
    ),
    "a malformed dimension": (
        '{"meter": "requests", "quantity": 1, "dimensions": {"A b": "1"}}',
        "line 2: dimensions",
    ),
    "a time without a zone": (
        '{"meter": "requests", "quantity": 1, "at": "2026-11-02T09:00:00"}',
        "line 2: at",
    ),
    "not JSON": ("{", "line 2"),
    "a list": ("[]", "line 2"),
    "nested deeply": ("[" * 9000, "line 2"),
    "overlong": ('{"meter": "' + "x" * 20_000, "line 2"),
    "a float": ('{"meter": "requests", "quantity": 1.5}', "line 2"),
    "an exponent": ('{"meter": "requests", "quantity": 1e3}', "line 2"),
    "NaN": ('{"meter": "requests", "quantity": NaN}', "line 2"),
    "huge integer": ('{"meter": "requests", "quantity": ' + "9" * 5000 + "}", "line 2"),
    "member twice": ('{"meter": "requests", "meter": "x", "quantity": 1}', "line 2"),
    "no quantity": ('{"meter": "requests"}', "line 2: quantity"),
    "counts nothing": ('{"model": "a"}', "line 2: meter"),
    "both forms": ('{"meter": "a", "tokens": "output", "quantity": 1}', "line 2: meter"),
    "unknown class": ('{"tokens": "reasoning", "quantity": 1}', "line 2: tokens"),
    "unknown member": ('{"model": "a", "input": 1, "inptu": 1}', "line 2: inptu"),
    "meter and counts": ('{"meter": "requests", "quantity": 1, "input": 1}', "line 2: input"),
    "truth value": ('{"meter": "requests", "quantity": true}', "line 2: requests"),
    "text": ('{"meter": "requests", "quantity": "many"}', "line 2: requests"),
    "negative": ('{"meter": "requests", "quantity": -1}', "line 2: requests"),
    "number as a model": ('{"model": 5, "input": 1}', "line 2: model"),
    "malformed model": ('{"model": "a b", "input": 1}', "line 2: model"),
    "said twice": ('{"meter": "m", "quantity": 1, "level": 1}', "line 2: level"),
    "transactions as a number": ('{"meter": "m", "transactions": 1}', "line 2: transactions"),
    "a float as a transaction": ('{"meter": "m", "transactions": [1.5]}', "line 2"),
    "a list as a value": ('{"meter": "m", "value": []}', "line 2: value"),
    "number as a meter": ('{"meter": 5, "quantity": 1}', "line 2: meter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_line(case):
    row, field = REFUSED[case]

    with pytest.raises(InvalidInput) as refused:
        read_usage(['{"meter": "requests", "quantity": 1}', row])

    assert refused.value.field == field


def test_sums_beyond_what_can_be_rated_raise():
    row = '{"meter": "requests", "quantity": "1000000000000000000"}'

    assert sums(row)
    with pytest.raises(AmountOutOfRange):
        read_usage([row, row])


rows = st.fixed_dictionaries(
    {"model": st.sampled_from(MODELS), "input": st.integers(0, 10**9)},
    optional={"output": st.integers(0, 10**9)},
)


@PATIENT
@given(st.lists(rows, max_size=20), st.randoms(use_true_random=False))
def test_L4_rows_in_any_order_give_the_same_sums(drawn, random):
    lines = [json.dumps(row) for row in drawn]
    expected = sums(*lines)
    random.shuffle(lines)

    assert sums(*lines) == expected
    assert sum(expected.values()) == sum(row["input"] + row.get("output", 0) for row in drawn)
