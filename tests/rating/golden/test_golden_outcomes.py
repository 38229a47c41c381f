"""Golden cases of outcomes: counted, bounded per subject, reversed, settled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.catalog.charge import Charge
from billing.catalog.price import Graduated
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.errors import InvalidInput
from billing.invoicing.invoice import due_on_line
from billing.money import currency, from_minor
from billing.outcomes.settlement import billable_at
from billing.period import parse_instant
from billing.rating.quantity import MeteredQuantity
from tests.charges import outcome_price
from tests.rating.golden.cases import ZERO, cases_of, exact_of, holds, name_of, plan_of, rated

CATEGORIES = (
    "outcome_per_entity_cap",
    "outcome_reversal",
    "outcome_tiered_type",
    "outcome_settlement",
)
USD = currency("USD")
SOLVED = "outcome.solved"


def confirmed(number: int, **of) -> MeteredQuantity:
    return MeteredQuantity(meter=SOLVED, quantity=Decimal(number), **of)


def solved(case) -> Charge:
    unit = Decimal(case["price"]["unit"])
    return outcome_price(key="solved", description="Solved", outcome="solved", price=unit)


@pytest.mark.parametrize("case", cases_of(["outcome_tiered_type"]), ids=name_of)
def test_golden_outcome(case):
    holds(case, rated(plan_of(case, solved(case)), confirmed(case["input"]["count"])))


@pytest.mark.parametrize("case", cases_of(["outcome_per_entity_cap"]), ids=name_of)
def test_golden_outcomes_of_one_subject(case):
    """A subject's first outcomes are paid, the others are free: tiers per subject."""
    price = case["price"]
    tiers = (
        Tier(up_to=Decimal(price["max_per_entity"]), unit=Decimal(price["unit"])),
        Tier(up_to=None, unit=ZERO),
    )
    charge = Charge(
        key="solved",
        description="Solved",
        selector=Selector(meter=SOLVED),
        price=Graduated(tiers=tiers),
        split_by=("conversation",),
    )
    subjects = (case["input"]["conversation"], "another")
    usage = [
        confirmed(case["input"]["resolutions"], dimensions=(("conversation", subject),))
        for subject in subjects
    ]

    holds(case, rated(plan_of(case, charge), usage[0]))
    both = rated(plan_of(case, charge), *usage)
    assert exact_of(both) == 2 * Decimal(case["expected"]["amount"])


@pytest.mark.parametrize("case", cases_of(["outcome_reversal"]), ids=name_of)
def test_R4_golden_outcome_that_is_taken_back(case):
    """The period is rated again without it; the difference is a line of the next invoice."""
    plan, expected = plan_of(case, solved(case)), case["expected"]
    (first,) = rated(plan, confirmed(1)).lines
    again = rated(plan, confirmed(1), confirmed(-1))

    adjusted = due_on_line(exact_of(again), first.amount.minor, USD)

    assert first.amount.major() == Decimal(expected["first_invoice"])
    assert from_minor(adjusted, USD) == Decimal(expected["next_invoice_adjustment"])
    assert first.amount.major() + from_minor(adjusted, USD) == Decimal(expected["net"])


@pytest.mark.parametrize("case", cases_of(["outcome_settlement"]), ids=name_of)
def test_golden_settlement(case):
    given = case["input"]
    resolved, last = (parse_instant(given[n], field=n) for n in ("resolved_at", "last_event_at"))
    window = timedelta(hours=case["price"]["settlement_hours"])
    expected = parse_instant(case["expected"]["billable_at"], field="billable_at")

    assert billable_at(resolved, later_events=[last, resolved], window=window) == expected
    assert billable_at(resolved, window=window) == resolved + window


def test_a_settlement_window_is_not_below_zero():
    with pytest.raises(InvalidInput):
        billable_at(datetime(2026, 1, 1, tzinfo=UTC), window=timedelta(hours=-1))
