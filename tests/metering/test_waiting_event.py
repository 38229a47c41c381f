"""Data of an event that waits is read back as it came, or is not kept at all."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.metering.waiting_event import DATA_BYTES_MAX, DEPTH_MAX, read_data, written_data

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner)
)


@given(st.dictionaries(st.text(max_size=9), values, max_size=5))
def test_data_is_read_back_as_it_came(data: dict[str, object]) -> None:
    text = written_data(data)
    assert text is None or (text.isascii() and read_data(text) == data)


@pytest.mark.parametrize(
    "data",
    [
        {
            "v": Decimal("2.50"),
            "n": 10**30,
            "nul": "\0",
            "half": "\ud800",
            "list": [1, {"a": None}],
        },
        {"text": "x" * 256},
        {"é" * 128: "é" * 128},
    ],
)
def test_short_data_is_kept_to_the_digit(data: dict[str, object]) -> None:
    text = written_data(data)
    assert text is not None
    assert repr(read_data(text)) == repr(data)


def nested(depth: int) -> dict[str, object]:
    return {} if depth == 1 else {"in": nested(depth - 1)}


def test_depth_and_length_are_bounded() -> None:
    assert written_data(nested(DEPTH_MAX)) is not None
    assert written_data(nested(DEPTH_MAX + 1)) is None
    fill = len('{"k":[]}')
    assert written_data({"k": [1] * ((DATA_BYTES_MAX - fill + 1) // 2)}) is not None
    assert written_data({"k": [1] * ((DATA_BYTES_MAX - fill + 1) // 2 + 1)}) is None


@pytest.mark.parametrize(
    "value",
    ["x" * 257, "é" * 129, Decimal("NaN"), Decimal("Infinity"), object(), 10**5000],
    ids=["long", "wide", "nan", "infinite", "strange", "huge"],
)
def test_P1_what_is_no_number_or_short_text_is_not_kept(value: object) -> None:
    assert written_data({"a": 1, "b": [value]}) is None
