"""Charges and meters as tests write them: one call for the head and the price together."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from billing.catalog.charge import Charge
from billing.catalog.price import FlatFee, Graduated, PerUnit
from billing.catalog.selector import OUTCOME_PREFIX, Selector
from billing.catalog.tier import Tier
from billing.metering.meter import Aggregation, Meter
from billing.rating.meter_fit import DeclaredMeter


def flat_fee(*, key: str, description: str, amount: Decimal, **terms) -> Charge:
    return Charge(key=key, description=description, price=FlatFee(amount=amount), **terms)


def per_unit(*, key: str, description: str, selector: Selector, price: Decimal, **terms) -> Charge:
    return Charge(
        key=key, description=description, selector=selector, price=PerUnit(price=price), **terms
    )


def graduated(
    *, key: str, description: str, selector: Selector, tiers: tuple[Tier, ...], **terms
) -> Charge:
    return Charge(
        key=key, description=description, selector=selector, price=Graduated(tiers=tiers), **terms
    )


def outcome_price(*, key: str, description: str, outcome: str, price: Decimal) -> Charge:
    selector = Selector(meter=f"{OUTCOME_PREFIX}{outcome}")
    return per_unit(key=key, description=description, selector=selector, price=price)


def declared(
    *codes: str,
    dimensions: Iterable[str] = (),
    aggregation: Aggregation = Aggregation.SUM,
    unit: str = "units",
) -> dict[str, DeclaredMeter]:
    """Meters that a plan may name."""
    percentile = Decimal(95) if aggregation is Aggregation.PERCENTILE else None
    return {
        code: DeclaredMeter(
            meter=Meter(code=code, unit=unit, aggregation=aggregation, percentile=percentile),
            dimensions=frozenset(dimensions),
        )
        for code in codes
    }
