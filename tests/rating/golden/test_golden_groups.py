"""Golden cases of usage that is counted in parts: by bucket of time, by value of a dimension."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.catalog.price import Span
from tests.rating.golden.cases import (
    cases_of,
    charge_of,
    exact_of,
    holds,
    name_of,
    plan_of,
    rated,
    used,
)

BUCKETED = ("bucketed_graduated", "bucketed_volume", "bucketed_package", "bucketed_flat")
GROUPED = ("per_group_graduated", "per_group_volume")
CATEGORIES = (*BUCKETED, *GROUPED)
START = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize("case", cases_of(BUCKETED), ids=name_of)
def test_golden_buckets(case):
    usage = [
        used(value, at=START + timedelta(hours=number))
        for number, value in enumerate(case["input"]["bucket_values"])
    ]

    holds(case, rated(plan_of(case, charge_of(case, restart=Span.HOUR)), *usage))


@pytest.mark.parametrize("case", cases_of(GROUPED), ids=name_of)
def test_golden_groups(case):
    usage = [
        used(value, dimensions=(("region", f"r{number}"),))
        for number, value in enumerate(case["input"]["group_values"])
    ]
    charge = charge_of(case, split_by=("region",))

    holds(case, rated(plan_of(case, charge), *usage))
    pooled = exact_of(rated(plan_of(case, replace(charge, split_by=())), *usage))
    assert pooled != Decimal(case["expected"]["amount"])
