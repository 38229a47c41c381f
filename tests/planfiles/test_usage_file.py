"""Usage files: rows of JSON, summed by meter and model."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import AmountOutOfRange, InvalidInput
from billing.planfiles.usage_file import read_usage
from tests.strategies import MODELS, PATIENT


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


def test_rows_are_summed_by_dimensions_and_quarter_hour():
    rows = read_usage(
        [
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
    )
    assert [(row.quantity, row.dimensions, row.at) for row in rows] == [
        (
            Decimal("3.5"),
            (("g", "b"), ("slice", "a")),
            datetime(2026, 11, 2, 9, 30, tzinfo=UTC),
        ),
        (Decimal(4), (), datetime(2026, 11, 2, 9, 45, tzinfo=UTC)),
    ]


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
