"""Hypothesis strategies for money, plans and usage, shared by all rooms."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from billing.catalog.charge import Charge
from billing.catalog.price_plan import Policies, PricePlan, ZeroUsageFirstFlat
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.money import CURRENCIES
from billing.rating.quantity import MeteredQuantity
from tests.charges import flat_fee, graduated, outcome_price, per_unit

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A slow machine is no failure."""

MODELS = ("sim-small", "sim-large", "org/model-8b")
METERS = ("tokens.input", "tokens.output", "requests", "outcome.solved")

currencies = st.sampled_from(sorted(CURRENCIES.values(), key=str))
per_units = st.sampled_from([1, 10, 1000, 10**6, 10**9, 10**12])


def decimals(*, limit: int, places: int) -> st.SearchStrategy[Decimal]:
    """Exact decimals from zero to `limit`, small ones and long fractions often."""
    scales = st.integers(0, places)
    return scales.flatmap(
        lambda scale: st.one_of(
            st.integers(0, min(limit, 10**4)), st.integers(0, limit * 10**scale)
        ).map(lambda units: Decimal(f"{units}E-{scale}"))
    )


prices = decimals(limit=10**6, places=18)
"""Unit prices with up to 18 decimals."""

tokens = st.one_of(st.integers(0, 10**4), st.integers(0, 10**18)).map(Decimal)
"""Whole quantities up to 10^18."""

quantities = st.one_of(tokens, decimals(limit=10**12, places=6))


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    """One to five tiers that tile and end open."""
    bounds = sorted(
        draw(st.sets(decimals(limit=10**9, places=3).filter(lambda d: d > 0), max_size=4))
    )
    return tuple(
        Tier(up_to=bound, unit=draw(prices), flat=draw(prices)) for bound in [*bounds, None]
    )


@st.composite
def usage_charges(draw: st.DrawFn, selector: Selector, key: str) -> Charge:
    """A charge that prices what `selector` picks."""
    kind = draw(st.sampled_from(["per_unit", "graduated"]))
    if kind == "per_unit":
        return per_unit(
            key=key,
            description="Per unit",
            selector=selector,
            price=draw(prices),
            per=draw(per_units),
            included=draw(st.one_of(st.just(Decimal(0)), decimals(limit=10**6, places=3))),
        )
    return graduated(
        key=key,
        description="Graduated",
        selector=selector,
        tiers=draw(tiers()),
        per=draw(per_units),
    )


@st.composite
def plans(draw: st.DrawFn) -> PricePlan:
    """A valid plan: a fee, charges over some meters and models, perhaps an outcome."""
    charges: list[Charge] = [
        flat_fee(key="platform", description="Platform fee", amount=draw(prices))
    ]
    for meter in ("tokens.input", "tokens.output", "requests"):
        split = draw(st.sampled_from(["none", "any", "some", "each"]))
        groups: list[frozenset[str] | None] = {
            "none": [],
            "any": [None],
            "some": [frozenset(MODELS[:2])],
            "each": [frozenset({model}) for model in MODELS],
        }[split]
        for number, models in enumerate(groups):
            selector = Selector(meter=meter, models=models)
            charges.append(draw(usage_charges(selector, f"{meter}/{number}")))
    if draw(st.booleans()):
        charges.append(
            outcome_price(key="solved", description="Solved", outcome="solved", price=draw(prices))
        )
    return PricePlan(
        slug="drawn",
        name="Drawn",
        currency=draw(currencies),
        charges=tuple(charges),
        policies=Policies(zero_usage_first_flat=draw(st.sampled_from(ZeroUsageFirstFlat))),
    )


usage = st.lists(
    st.builds(
        MeteredQuantity,
        meter=st.sampled_from(METERS),
        model=st.sampled_from([None, *MODELS]),
        quantity=decimals(limit=10**9, places=3),
    ),
    max_size=12,
)
"""A period's quantities small enough that no amount leaves an invoice's range."""
