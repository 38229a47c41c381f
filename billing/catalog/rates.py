"""The highest price that each unit of usage of a model can have.

Decides: which of the prices of all charges and tiers bounds a request that is not rated yet, so
that what is held or shown live is never less than what will be billed. Included usage is ignored
for the same reason. Flat fees belong to the billing period, not to any request, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import assert_never

from billing.admission.amounts import ATTO, Rates
from billing.catalog.charge import Charge
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Volume,
)
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import REQUESTS
from billing.catalog.tier import Tier
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter
from billing.money import EXACT, PRICE_DECIMALS_MAX

_ZERO = Decimal(0)
_ONE = Fraction(1)
_MILLISECONDS = 1000


def rates_of(plans: Iterable[PricePlan], model: str) -> Mapping[str, Decimal]:
    """By code of the meter, the highest price of one unit; meters without a price are absent.

    Args:
        plans: of all contracts that are in force, in one currency.
        model: name of the model.
    """
    highest: dict[str, Decimal] = {}
    for plan in plans:
        for charge in plan.charges:
            selector = charge.selector
            if selector is not None and selector.selects(selector.meter, model):
                price = highest_price(charge, overage_factor=_factor(plan, charge))
                highest[selector.meter] = max(highest.get(selector.meter, _ZERO), price)
    return highest


def proxy_rates(prices: Mapping[str, Decimal]) -> Rates:
    """Prices as whole numbers of the request path, rounded up: never below the price."""
    return Rates(
        request=_atto(prices.get(REQUESTS, _ZERO)),
        input=_atto(prices.get(TokenClass.INPUT.meter, _ZERO)),
        cached_input=_atto(prices.get(TokenClass.CACHED_INPUT.meter, _ZERO)),
        cache_write=_atto(prices.get(TokenClass.CACHE_WRITE.meter, _ZERO)),
        output=_atto(prices.get(TokenClass.OUTPUT.meter, _ZERO)),
        units={
            unit: _atto(prices[unit.value], _MILLISECONDS if unit is UnitMeter.AUDIO_MS else 1)
            for unit in UnitMeter
            if unit.value in prices
        },
    )


def highest_price(charge: Charge, *, overage_factor: Fraction = _ONE) -> Decimal:
    """The most that one unit of the meter can cost; zero for a fee, which no unit causes.

    Of packages it is the price of a whole one spread over its units: the one that is begun last
    costs more, once in a billing period. Of volume tiers it bounds the average: a quantity that
    reaches a dearer tier re-prices all units before it. Of transactions it holds for values of a
    unit or more.

    Args:
        overage_factor: of the plan's commitment that the charge counts towards.
    """
    match charge.price:
        case FlatFee():
            return _ZERO
        case PerUnit(price=price):
            unit = Fraction(price)
        case Graduated(tiers=tiers) | Volume(tiers=tiers):
            unit = max(_of_tier(tier, charge.per) for tier in tiers)
        case Package(size=size, price=price):
            unit = Fraction(price) / Fraction(size) * charge.per
        case Percentage(percent=percent, fixed=fixed, minimum=minimum):
            unit = max(Fraction(percent) / 100 + Fraction(fixed), Fraction(minimum))
        case Reserved(price=price, overage=overage):
            # What is reserved earns its price as it is used, and the rest once the period is over.
            unit = max(Fraction(overage), Fraction(price))
        case _:
            assert_never(charge.price)
    commitment = charge.adjustments.commitment
    factor = Fraction(1) if commitment is None else Fraction(commitment.overage_factor)
    return _up(unit * factor * overage_factor * Fraction(1, charge.per))


def _factor(plan: PricePlan, charge: Charge) -> Fraction:
    """What usage beyond the plan's commitment costs, in multiples of its price."""
    return max(
        (
            Fraction(promised.overage_factor)
            for promised in plan.commitments
            if promised.charges is None or charge.key in promised.charges
        ),
        default=_ONE,
    )


def _of_tier(tier: Tier, per: int) -> Fraction:
    unit = Fraction(tier.unit)
    return unit if tier.package is None else unit / Fraction(tier.package) * per


def _up(price: Fraction) -> Decimal:
    """A price at 18 decimals, never below the exact one."""
    return Decimal(ceil(price * 10**PRICE_DECIMALS_MAX)).scaleb(-PRICE_DECIMALS_MAX, context=EXACT)


def _atto(price: Decimal, parts: int = 1) -> int:
    return ceil(Fraction(price) * ATTO / parts)
