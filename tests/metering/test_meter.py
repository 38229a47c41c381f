"""Meters: which definitions are refused, how values are read, how bands tile the numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidInput
from billing.metering.dimension import ABSENT, Dimension
from billing.metering.meter import (
    Aggregation,
    Meter,
    MeterVersion,
    Reading,
    fingerprint,
)
from billing.metering.usage_event import require_quantity

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def version(
    aggregation: Aggregation, value: str | None, percentile: Decimal | None = None
) -> MeterVersion:
    return MeterVersion(
        meter=Meter(
            code="gpu.context", unit="tokens", aggregation=aggregation, percentile=percentile
        ),
        version=1,
        effective_from=BEGIN,
        reading=Reading(event_type="llm.request", value=value),
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (7, "7"),
        (10**18, "1000000000000000000"),
        (Decimal("0.1"), "0.1"),
        ("0.115", "0.115"),
        ("12", "12"),
    ],
)
def test_a_value_is_an_int_or_an_exact_decimal(found: object, expected: str) -> None:
    meter = version(Aggregation.SUM, "data.usage.tokens")
    assert meter.quantity_of({"usage": {"tokens": found}}) == Decimal(expected)


@pytest.mark.parametrize(
    "found", [None, True, "1e3", "", "x", [1], {}, Decimal("NaN"), 0.5, "1" * 65, -1]
)
def test_what_is_no_number_to_bill_is_refused_by_its_path(found: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        version(Aggregation.SUM, "data.tokens").quantity_of({"tokens": found})
    assert refused.value.field == "data.tokens"


def test_a_level_may_fall_below_zero_and_a_count_reads_nothing() -> None:
    assert version(Aggregation.LATEST, "data.n").quantity_of({"n": -3}) == -3
    assert version(Aggregation.COUNT, None).quantity_of({}) == 1


def test_equal_values_of_a_unique_meter_have_equal_numbers_and_others_do_not() -> None:
    assert fingerprint("a", field="v") == fingerprint("a", field="v")
    assert fingerprint(Decimal("1.50"), field="v") == fingerprint("1.5", field="v")
    numbers = {fingerprint(value, field="v") for value in range(10_000)}
    assert len(numbers) == 10_000
    assert {require_quantity(number, field="v") for number in numbers} == numbers
    with pytest.raises(InvalidInput):
        fingerprint(None, field="v")


@pytest.mark.parametrize(
    "path", ["tokens", "data", "data.", "data.*", "data[0]", "data.a..b", "data" + ".a" * 9, "$.x"]
)
def test_a_path_is_plain(path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Reading(event_type="t", value=path)
    assert refused.value.field == "value"


def test_a_meter_takes_what_its_aggregation_needs_and_nothing_else() -> None:
    with pytest.raises(InvalidInput, match="count takes no value"):
        version(Aggregation.COUNT, "data.n")
    with pytest.raises(InvalidInput, match="count takes no value"):
        version(Aggregation.MAX, None)
    with pytest.raises(InvalidInput, match="percentile"):
        version(Aggregation.PERCENTILE, "data.n")
    with pytest.raises(InvalidInput, match="percentile"):
        version(Aggregation.SUM, "data.n", percentile=Decimal(95))
    with pytest.raises(InvalidInput, match="at most 100"):
        version(Aggregation.PERCENTILE, "data.n", percentile=Decimal("100.1"))


def test_a_version_begins_on_the_grid() -> None:
    with pytest.raises(InvalidInput, match="15-minute grid"):
        MeterVersion(
            meter=Meter(code="a", unit="u"),
            version=1,
            effective_from=datetime(2026, 11, 1, 0, 1, tzinfo=UTC),
            reading=Reading(event_type="t", value="data.n"),
        )


CONTEXT = Dimension(name="context", path="data.length", edges=(Decimal(8000), Decimal("32000.5")))


@pytest.mark.parametrize(
    ("length", "band"),
    [
        (0, "<8000"),
        (Decimal("7999.999"), "<8000"),
        (8000, "8000..32000.5"),
        (Decimal("32000.5"), ">=32000.5"),
        (None, ABSENT),
    ],
)
def test_a_band_holds_its_lower_edge(length: object, band: str) -> None:
    assert CONTEXT.value_of(CONTEXT.property_of({"length": length})) == band


@given(
    edges=st.lists(st.integers(-100, 100), unique=True, min_size=1, max_size=8).map(sorted),
    numbers=st.lists(st.integers(-150, 150), max_size=50),
)
def test_row_05_quantities_by_band_add_up_to_the_whole(edges, numbers) -> None:
    dimension = Dimension(name="n", path="data.n", edges=tuple(map(Decimal, edges)))
    by_band: dict[str, int] = {}
    for number in numbers:
        band = dimension.value_of(dimension.property_of({"n": number}))
        by_band[band] = by_band.get(band, 0) + number
    assert sum(by_band.values()) == sum(numbers)
    assert len(by_band) <= len(edges) + 1


@pytest.mark.parametrize("text", ["", "x" * 257, "a\0b"])
def test_P1_a_dimension_has_room_for_no_prompt(text: str) -> None:
    with pytest.raises(InvalidInput):
        Dimension(name="region", path="data.region").property_of({"region": text})


@pytest.mark.parametrize("edges", [(2, 1), (1, 1)])
def test_edges_ascend(edges: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="ascend"):
        Dimension(name="n", path="data.n", edges=tuple(map(Decimal, edges)))
