"""Golden cases of percentages of transactions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

import pytest

from billing.catalog.charge import Charge
from billing.catalog.price import Percentage
from billing.metering.aggregation import Point
from tests.rating.golden.cases import (
    LATER,
    SELECTOR,
    cases_of,
    exact_of,
    holds,
    name_of,
    plan_of,
    rated,
    used,
)

CATEGORIES = ("percentage", "percentage_per_txn_min_max")
START = datetime(2026, 11, 1, tzinfo=UTC)


def values_of(case) -> list[Decimal]:
    """Single values; the other form tells running totals, and the total after the last."""
    given = case["input"]
    if "transactions" in given:
        return [Decimal(text) for text in given["transactions"]]
    totals = ["0", *given["running_totals_of_first_events"], given["total_amount"]]
    assert len(totals) == given["events"] + 1
    return [Decimal(later) - Decimal(earlier) for earlier, later in pairwise(totals)]


def points(values) -> list[Point]:
    return [
        Point(
            occurred_at=START + timedelta(minutes=number),
            epoch=1,
            event_id=UUID(int=number),
            value=value,
        )
        for number, value in enumerate(values)
    ]


def charge_of(case) -> Charge:
    price = case["price"]
    free_value, most = price["free_total"], price.get("per_txn_max")
    return Charge(
        key="golden",
        description=case["id"],
        selector=SELECTOR,
        price=Percentage(
            percent=Decimal(price["rate_pct"]),
            fixed=Decimal(price["fixed_per_event"]),
            free_transactions=price["free_events"],
            free_value=None if free_value is None else Decimal(free_value),
            minimum=Decimal(price.get("per_txn_min") or "0"),
            maximum=None if most is None else Decimal(most),
        ),
    )


@pytest.mark.parametrize("case", cases_of(CATEGORIES), ids=name_of)
def test_golden_transactions(case):
    values = values_of(case)

    usage = used(sum(values), transactions=tuple(points(values)))

    holds(case, rated(plan_of(case, charge_of(case)), usage))


@pytest.mark.parametrize("case", cases_of(CATEGORIES), ids=name_of)
def test_R2_golden_transactions_one_by_one_in_any_order_of_arrival(case):
    """A late transaction is rated at its own time: the order of arrival changes nothing."""
    plan = plan_of(case, charge_of(case))
    arrived = list(reversed(points(values_of(case))))
    ratings = []
    for number, point in enumerate(arrived):
        earlier = tuple(arrived[:number])
        usage = used(
            point.value,
            sum((p.value for p in earlier), Decimal(0)),
            transactions=(point,),
            transactions_before=earlier,
        )
        ratings.append(rated(plan, usage, of=LATER))

    assert sum(map(exact_of, ratings)) == Decimal(case["expected"]["amount"])
