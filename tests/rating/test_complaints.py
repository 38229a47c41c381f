"""What users of billing engines complain about, of rating by itself: see `rating/README.md`."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.charge import Charge
from billing.catalog.price import PerUnit
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import Condition, Selector
from billing.errors import InvalidPlan
from billing.money import currency
from billing.rating.pipeline import rate
from billing.rating.quantity import MeteredQuantity
from tests.strategies import PATIENT

VALUES = ("eu", "us", "none")
NAMES = ("context", "region")

conditions = st.lists(
    st.builds(
        Condition,
        dimension=st.sampled_from(NAMES),
        values=st.frozensets(st.sampled_from(VALUES), min_size=1, max_size=2),
        others=st.booleans(),
    ),
    max_size=2,
    unique_by=lambda condition: condition.dimension,
)
selectors = st.builds(
    Selector,
    meter=st.just("tokens.input"),
    models=st.none() | st.frozensets(st.sampled_from(["big", "tiny"]), min_size=1),
    where=conditions.map(tuple),
)
usage = st.lists(
    st.builds(
        MeteredQuantity,
        meter=st.just("tokens.input"),
        model=st.sampled_from(["big", "tiny", None]),
        quantity=st.integers(1, 10**12).map(Decimal),
        dimensions=st.tuples(
            *(st.tuples(st.just(name), st.sampled_from(VALUES)) for name in NAMES)
        ),
    ),
    min_size=1,
    max_size=12,
)


def _plan(found: list[Selector]) -> PricePlan:
    return PricePlan(
        slug="any",
        version=1,
        name="Any",
        currency=currency("USD"),
        charges=tuple(
            Charge(
                key=f"charge-{number}",
                description="Some",
                selector=selector,
                price=PerUnit(price=Decimal(1)),
            )
            for number, selector in enumerate(found)
        ),
    )


@PATIENT
@given(st.lists(selectors, min_size=1, max_size=6), usage)
def test_row_05_R7_lines_and_what_is_unrated_add_up_under_any_filters(
    found: list[Selector], used: list[MeteredQuantity]
):
    kept: list[Selector] = []
    for selector in found:
        try:
            _plan([*kept, selector])
        except InvalidPlan:
            # Two filters that share usage make no plan; those that share none add up.
            continue
        kept.append(selector)
    plan = _plan(kept)
    for name in (None, *NAMES):
        for value in VALUES if name else (None,):
            part = [each for each in used if name is None or dict(each.dimensions)[name] == value]
            rating = rate(plan, part)
            total = sum((each.quantity for each in part), Decimal(0))
            lines = sum((line.quantity for line in rating.lines), Decimal(0))
            assert lines + sum((each.quantity for each in rating.unrated), Decimal(0)) == total
            assert sum((line.exact for line in rating.lines), Decimal(0)) == lines
