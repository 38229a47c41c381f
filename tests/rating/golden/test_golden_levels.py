"""Golden cases of seats and other levels: tiers by units, prices by days."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.rating.quantity import LevelChange
from tests.rating.golden.cases import (
    LATER,
    cases_of,
    charge_of,
    exact_of,
    holds,
    name_of,
    plan_of,
    rated,
    used,
)

CATEGORIES = ("prorated_graduated", "volume_prorated")
START = datetime(2026, 11, 1, tzinfo=UTC)


def changes_of(case) -> tuple[LevelChange, ...]:
    given = case["input"]
    events = given.get("events") or [given["full_units"]]
    weights = given.get("prorated_values") or [given["prorated_units"]]
    return tuple(
        LevelChange(
            at=START + timedelta(days=number), units=Decimal(units), prorated=Decimal(weight)
        )
        for number, (units, weight) in enumerate(zip(events, weights, strict=True))
    )


def weight(changes) -> Decimal:
    return sum((change.prorated for change in changes), Decimal(0))


@pytest.mark.parametrize("case", cases_of(CATEGORIES), ids=name_of)
def test_golden_level(case):
    changes = changes_of(case)
    plan = plan_of(case, replace(charge_of(case), prorated=True))

    holds(case, rated(plan, used(weight(changes), changes=changes)))


@pytest.mark.parametrize("case", cases_of(CATEGORIES), ids=name_of)
def test_R2_golden_level_change_by_change_costs_the_same(case):
    changes = changes_of(case)
    plan = plan_of(case, replace(charge_of(case), prorated=True))
    whole = rated(plan, used(weight(changes), changes=changes))

    slices = [
        rated(
            plan,
            used(
                change.prorated,
                weight(changes[:number]),
                changes=(change,),
                changes_before=changes[:number],
            ),
            of=LATER,
        )
        for number, change in enumerate(changes)
    ]

    assert sum(map(exact_of, slices)) == exact_of(whole)
