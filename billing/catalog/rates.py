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
from billing.catalog.charge import Charge, FlatFee, Graduated, OutcomePrice, PerUnit, selector_of
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import REQUESTS
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter
from billing.money import EXACT

_ZERO = Decimal(0)
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
            selector = selector_of(charge)
            if selector is not None and selector.selects(selector.meter, model):
                price = highest_price(charge)
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


def highest_price(charge: Charge) -> Decimal:
    """The most that one unit of the meter can cost; zero for a fee, which no unit causes."""
    match charge:
        case FlatFee():
            return _ZERO
        case PerUnit():
            return _of_one(charge.price, charge.per)
        case Graduated():
            return _of_one(max(tier.unit for tier in charge.tiers), charge.per)
        case OutcomePrice():
            return charge.price
        case _:
            assert_never(charge)


def _of_one(price: Decimal, per: int) -> Decimal:
    # `per` is a power of ten, so no digit is lost.
    return price.scaleb(1 - len(str(per)), context=EXACT)


def _atto(price: Decimal, parts: int = 1) -> int:
    return ceil(Fraction(price) * ATTO / parts)
