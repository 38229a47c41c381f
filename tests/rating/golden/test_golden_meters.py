"""Golden cases of what is metered: levels over time, last values, costs, credits per action."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

import pytest

from billing.catalog.selector import Selector
from billing.metering.aggregation import Latest, Point, Sum, level_hours
from billing.money import round_half_up
from billing.period import Period, parse_instant
from tests.charges import per_unit
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

COSTS = ("dynamic", "llm_token_cost", "action_credits")
CATEGORIES = ("weighted_sum", "latest_increments", *COSTS)
START = datetime(2026, 11, 1, tzinfo=UTC)


def point(number: int, value: Decimal, at: datetime = START) -> Point:
    return Point(occurred_at=at, epoch=1, event_id=UUID(int=number), value=value)


@pytest.mark.parametrize("case", cases_of(["weighted_sum"]), ids=name_of)
def test_golden_level_over_a_period(case):
    """The case tells changes; a meter of a level is told levels."""
    start, end = (
        datetime.fromisoformat(text).replace(tzinfo=UTC)
        for text in case["price"]["period"].split("/")
    )
    level, points = Decimal(case["input"]["initial"]), []
    for number, (at, delta) in enumerate(case["input"]["deltas"]):
        level += Decimal(delta)
        points.append(point(number, level, parse_instant(at, field="at")))
    period = Period(start=start, end=end)

    hours = level_hours(points, period, initial=Decimal(case["input"]["initial"]))

    whole = Fraction((end - start) // timedelta(hours=1))
    assert round_half_up(hours / whole, 5) == Decimal(case["expected"]["value_5dp"])


@pytest.mark.parametrize("case", cases_of(["latest_increments"]), ids=name_of)
def test_golden_last_value(case):
    state, read = Latest(), [Decimal(0)]
    for number, value in enumerate(case["input"]["values"]):
        state = state.add(point(number, Decimal(value)))
        read.append(state.result())

    increments = [later - earlier for earlier, later in pairwise(read)]
    assert increments == [Decimal(text) for text in case["expected"]["increments"]]
    assert state.result() == Decimal(case["expected"]["final"])


@pytest.mark.parametrize("case", cases_of(["dynamic"]), ids=name_of)
def test_golden_amounts_that_events_carry(case):
    state = Sum()
    for number, amount in enumerate(case["input"]["event_amounts"]):
        state = state.add(point(number, Decimal(amount)))

    holds(case, rated(plan_of(case, charge_of(case)), used(state.result())))


@pytest.mark.parametrize("case", cases_of(["llm_token_cost"]), ids=name_of)
def test_golden_cost_plus(case):
    """The supplier's prices make the cost that an event carries; a factor on it is the price."""
    price, given, expected = case["price"], case["input"], case["expected"]
    charges = [
        per_unit(
            key=name,
            description=name,
            selector=Selector(meter=f"tokens.{name}"),
            price=Decimal(price[f"{name}_per_million"]),
            per=1_000_000,
        )
        for name in ("input", "output")
    ]
    usage = [
        type(used(1))(meter=f"tokens.{name}", quantity=Decimal(given[f"{name}_tokens"]))
        for name in ("input", "output")
    ]
    cost = exact_of(rated(plan_of(case, *charges), *usage))
    markup = per_unit(
        key="cost",
        description="Cost",
        selector=Selector(meter="requests"),
        price=1 + Decimal(price["markup_pct"]).scaleb(-2),
    )

    assert cost == Decimal(expected["base"])
    assert exact_of(rated(plan_of(case, markup), used(cost))) == Decimal(expected["cost"])


@pytest.mark.parametrize("case", cases_of(["action_credits"]), ids=name_of)
def test_golden_credits_per_action(case):
    price = case["price"]
    charge = charge_of({**case, "price": {"unit": price["price_per_100000_credits"]}}, per=100_000)
    credits_used = case["input"]["actions"] * Decimal(price["credits_per_action"])

    holds(case, rated(plan_of(case, charge), used(credits_used)))
