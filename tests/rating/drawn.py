"""Plans of every model, adjustment and policy as Hypothesis draws them, with usage for them.

Two sizes: small figures, which meet at bounds often, and large ones: quantities to 10^18, prices
with 12 decimals, such that every amount still fits an invoice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from os import environ
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st

from billing.catalog.adjustment import Adjustments, Commitment, Coupon, SpendCommitment
from billing.catalog.charge import Charge
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Rounding,
    Span,
    Volume,
)
from billing.catalog.price_plan import (
    AllowanceInVolume,
    NegativeUsage,
    Policies,
    PricePlan,
    ZeroUsageFirstFlat,
)
from billing.catalog.selector import Condition, Selector
from billing.catalog.tier import Tier
from billing.catalog.window import Window
from billing.metering.aggregation import Point
from billing.money import currency
from billing.period import Period
from billing.rating.pipeline import Slice
from billing.rating.proration import DayShare
from billing.rating.quantity import MeteredQuantity
from tests.rating.oracle_of_models import SUNDAY, Time, Use
from tests.strategies import PATIENT, decimals

FULL = environ.get("STEELYARD_ROUNDS") == "full"
ROUNDS = settings(PATIENT, max_examples=2_000 if FULL else 60)

HOURS = 4
START = datetime(2026, 11, 1, tzinfo=UTC)
COVERED = Period(start=START, end=START + timedelta(hours=HOURS))
WHOLE = Slice(covered=COVERED)
ZERO = Decimal(0)

_EARLY = Window(name="early", quarters=frozenset(range(SUNDAY, SUNDAY + 8)))
_EU = Condition(dimension="region", values=frozenset({"eu"}))
_ELSEWHERE = Condition(dimension="region", values=frozenset({"eu"}), others=True)
SELECTORS = {
    "one charge": (Selector(meter="requests"),),
    "by region": (
        Selector(meter="requests", where=(_EU,)),
        Selector(meter="requests", where=(_ELSEWHERE,)),
    ),
    "by the clock": (
        Selector(meter="requests", window=_EARLY),
        Selector(meter="requests", window=_EARLY.rest("late")),
    ),
    "by meter": (Selector(meter="requests"), Selector(meter="searches")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bounds of what is drawn: quantities, units in a package, amounts per unit, amounts."""

    quantities: st.SearchStrategy[Decimal]
    packages: st.SearchStrategy[Decimal]
    units: st.SearchStrategy[Decimal]
    amounts: st.SearchStrategy[Decimal]

    @property
    def above_zero(self) -> st.SearchStrategy[Decimal]:
        """A quantity that is not zero."""
        return self.quantities.filter(lambda number: number > 0)


SMALL = Size(
    quantities=decimals(limit=1000, places=3),
    packages=decimals(limit=1000, places=3).filter(lambda number: number > 0),
    units=decimals(limit=100, places=12),
    amounts=decimals(limit=100, places=12),
)
LARGE = Size(
    packages=decimals(limit=10**9, places=18).map(lambda number: number + 1),
    quantities=st.integers(0, 10**17).map(Decimal) | decimals(limit=10**16, places=18),
    units=st.integers(0, 10**9).map(lambda number: Decimal(number).scaleb(-12)),
    amounts=decimals(limit=10**12, places=12),
)
sizes = st.sampled_from([SMALL, LARGE])
factors = decimals(limit=1, places=2).map(lambda more: more + 1)


@st.composite
def tiers(draw: st.DrawFn, size: Size) -> tuple[Tier, ...]:
    """Tiers with packages, caps, minimums and flat fees."""
    bounds = sorted(draw(st.sets(size.above_zero, max_size=3)))
    found: list[Tier] = []
    for bound in [*bounds, None]:
        least = draw(st.just(ZERO) | size.amounts)
        found.append(
            Tier(
                up_to=bound,
                unit=draw(size.units),
                flat=draw(size.amounts),
                package=draw(st.none() | size.packages),
                cap=draw(st.none() | size.amounts.map(lambda more, least=least: least + more)),
                minimum=least,
            )
        )
    return tuple(found)


def percentages(size: Size) -> st.SearchStrategy[Percentage]:
    """Percentages of single transactions; small ones of values of which nothing is known."""
    return st.builds(
        Percentage,
        percent=decimals(limit=100 if size is SMALL else 1, places=6).map(
            lambda percent: percent if size is SMALL else percent.scaleb(-2)
        ),
        fixed=size.amounts,
        free_transactions=st.none() | st.integers(0, 5),
        free_value=st.none() | size.quantities,
        minimum=decimals(limit=5, places=2),
        maximum=st.none() | size.amounts.map(lambda more: more + 5),
    )


def models(size: Size):
    """Every price of usage."""
    return st.one_of(
        st.builds(PerUnit, price=size.units),
        st.builds(Graduated, tiers=tiers(size)),
        st.builds(Volume, tiers=tiers(size)),
        st.builds(
            Package, size=size.packages, price=size.units, rounding=st.sampled_from(Rounding)
        ),
        st.builds(
            Reserved,
            committed=size.above_zero,
            window=st.just(Span.HOUR),
            price=size.units.map(lambda price: price + Decimal("0.001")),
            overage=size.units,
            shortfall=st.sampled_from([ZERO, Decimal("0.0005"), Decimal("0.001")]),
        ),
        percentages(size),
    )


@st.composite
def adjustments(draw: st.DrawFn, size: Size, *, hourly: bool) -> Adjustments:
    """Bounds of a charge, with a promise per hour or per billing period."""
    promised = st.builds(
        Commitment,
        amount=size.amounts,
        window=st.just(Span.HOUR if hourly else Span.PERIOD),
        overage_factor=factors,
        true_up=st.booleans(),
    )
    least = draw(st.just(ZERO) | size.amounts)
    return Adjustments(
        discount_percent=draw(st.just(ZERO) | decimals(limit=100, places=3)),
        maximum=draw(st.none() | size.amounts.map(lambda more: least + more)),
        minimum=least,
        commitment=draw(st.none() | promised),
    )


@st.composite
def charges(draw: st.DrawFn, size: Size, selector: Selector, key: str) -> Charge:
    """A charge of any model for what a selector picks."""
    price = draw(models(size))
    hourly = draw(st.booleans()) and not isinstance(price, Reserved)
    bent = draw(adjustments(size, hourly=hourly))
    windowed = isinstance(price, Reserved) or (bent.commitment is not None and hourly)
    plain = isinstance(price, Percentage)
    rounds = draw(st.none() | st.sampled_from(Rounding)) if isinstance(price, PerUnit) else None
    return Charge(
        key=key,
        description="Drawn",
        selector=selector,
        price=price,
        per=1 if plain else draw(st.sampled_from([1, 10, 1000])),
        round_units=rounds,
        included=ZERO
        if plain or isinstance(price, Reserved) or rounds
        else draw(st.just(ZERO) | size.quantities),
        split_by=() if windowed else draw(st.sampled_from([(), ("region",)])),
        restart=Span.PERIOD if windowed else draw(st.sampled_from([Span.PERIOD, Span.HOUR])),
        adjustments=bent,
    )


@st.composite
def plans(draw: st.DrawFn, size: Size = SMALL) -> PricePlan:
    """One or two charges that part a meter or count two, a fee, commitments and coupons."""
    scheme = draw(st.sampled_from(sorted(SELECTORS)))
    found = [
        draw(charges(size, selector, f"charge-{number}"))
        for number, selector in enumerate(SELECTORS[scheme])
    ]
    if draw(st.booleans()):
        fee = FlatFee(amount=draw(size.amounts))
        found.append(Charge(key="fee", description="Fee", price=fee))
    some = st.none() | st.just(frozenset({found[-1].key}))
    promised = st.builds(
        SpendCommitment,
        key=st.just("promised"),
        description=st.just("Promised"),
        amount=size.amounts,
        charges=some,
        overage_factor=factors,
    )
    coupons = [
        st.builds(
            Coupon,
            key=st.just("coupon"),
            description=st.just("Coupon"),
            charges=some,
            **{member: decimals(limit=50, places=2).filter(lambda number: number > 0)},
        )
        for member in ("percent_off", "amount_off")
    ]
    windowed = any(
        charge.adjustments.commitment is not None
        and charge.adjustments.commitment.window is Span.HOUR
        for charge in found
    )
    return PricePlan(
        slug="drawn",
        name="Drawn",
        currency=currency("USD"),
        charges=tuple(found),
        commitments=tuple(draw(st.lists(promised, max_size=1))),
        coupons=tuple(draw(st.lists(st.one_of(*coupons), max_size=1))),
        policies=Policies(
            # A flat fee without usage keeps no promise of an hour: it is none of the hour's.
            zero_usage_first_flat=ZeroUsageFirstFlat.SKIP
            if windowed
            else draw(st.sampled_from(ZeroUsageFirstFlat)),
            allowance_in_volume=draw(st.sampled_from(AllowanceInVolume)),
            negative_usage=draw(st.sampled_from(NegativeUsage)),
        ),
    )


def uses(size: Size = SMALL, *, signed: bool = False) -> st.SearchStrategy[list[Use]]:
    """Usage; below zero where corrections may exceed what was used."""
    quantities = size.quantities
    if signed:
        quantities |= quantities.map(lambda number: -number)
    return st.lists(
        st.builds(
            Use,
            meter=st.sampled_from(["requests", "searches"]),
            hour=st.integers(0, HOURS - 1),
            region=st.sampled_from(["eu", "us"]),
            quantity=quantities.map(Fraction),
        ),
        max_size=8,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plan with usage of two slices, and the days that a contract covers."""

    plan: PricePlan
    first: list[Use]
    second: list[Use]
    share: DayShare

    @property
    def all_uses(self) -> list[Use]:
        """The usage that the plan prices."""
        meters = {charge.selector.meter for charge in self.plan.charges if charge.selector}
        return [use for use in (*self.first, *self.second) if use.meter in meters]

    @property
    def time(self) -> Time:
        """The same for the oracle."""
        share = self.share
        return Time(
            hours=HOURS, days_before=share.days_before, days=share.days, of_days=share.of_days
        )


@st.composite
def cases(draw: st.DrawFn, *, signed: bool = True) -> Case:
    """Anything of either size."""
    size = draw(sizes)
    plan = draw(plans(size))
    takes_back = signed and not has_transactions(plan)
    whole = DayShare(days_before=0, days=30, of_days=30)
    part = st.builds(
        DayShare, days_before=st.integers(0, 10), days=st.integers(0, 19), of_days=st.just(30)
    )
    return Case(
        plan=plan,
        first=draw(uses(size, signed=takes_back)),
        second=draw(uses(size, signed=takes_back)),
        share=draw(st.just(whole) | part),
    )


def has_transactions(plan: PricePlan) -> bool:
    """Whether single events matter; they are never below zero."""
    return any(isinstance(charge.price, Percentage) for charge in plan.charges)


def metered(
    done: Sequence[Use], now: Sequence[Use], *, single: bool = True
) -> list[MeteredQuantity]:
    """Usage as it is handed in: by quarter hour and dimension, with what came before.

    Args:
        single: whether single events are known.
    """
    places: dict[tuple[str, int, str], tuple[list[Point], list[Point]]] = defaultdict(
        lambda: ([], [])
    )
    for number, use in enumerate([*done, *now]):
        at = START + timedelta(hours=use.hour)
        value = decimal(use.quantity)
        point = Point(occurred_at=at, epoch=1, event_id=UUID(int=number), value=value)
        places[use.meter, use.hour, use.region][number >= len(done)].append(point)
    return [
        MeteredQuantity(
            meter=meter,
            dimensions=(("region", region),),
            at=START + timedelta(hours=hour),
            quantity=total(later),
            before=total(earlier),
            transactions=tuple(later) if single else (),
            transactions_before=tuple(earlier) if single else (),
        )
        for (meter, hour, region), (earlier, later) in places.items()
    ]


def total(points: Sequence[Point]) -> Decimal:
    """The sum of values, whatever the context."""
    return decimal(sum((Fraction(point.value) for point in points), Fraction(0)))


def decimal(number: Fraction) -> Decimal:
    """A quantity with 18 decimals at most, exactly."""
    units = number * 10**18
    assert units.denominator == 1, number
    return Decimal(f"{units.numerator}E-18")
