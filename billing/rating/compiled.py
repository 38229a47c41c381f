"""Plans made ready for rating: which charge prices a quantity, and what plain charges cost.

Decides: what of a plan version is worked out once and not for every line. A charge is plain if it
is a fee, a price per unit or tiers, and nothing bends it; what it costs is then worked out here,
without the words that a person reads. The steps give the same amounts, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, localcontext
from functools import lru_cache
from zoneinfo import ZoneInfo

from billing.catalog.adjustment import NO_ADJUSTMENT
from billing.catalog.charge import Charge
from billing.catalog.price import FlatFee, Graduated, PerUnit, Span
from billing.catalog.price_plan import Policies, PricePlan, ZeroUsageFirstFlat
from billing.catalog.selector import Selector, is_built_in, unit_of
from billing.errors import InvalidInput, OverlappingCharges
from billing.money import EXACT, Currency
from billing.rating.proration import DayShare
from billing.rating.quantity import MeteredQuantity
from billing.rating.unit_conversion import to_priced_units

_ZERO = Decimal(0)

PLANS_KEPT = 512
"""Plans that are kept ready; contracts with terms of their own make a plan each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTier:
    """A tier in priced units: above `lower`, up to and including `upper` (None: open).

    Attributes:
        always: whether its flat fee is due without usage.
    """

    lower: Decimal
    upper: Decimal | None
    unit: Decimal
    flat: Decimal
    always: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainCharge:
    """A charge whose amount is a fee, or a sum over tiers of quantity times price.

    Attributes:
        shift: decimal places from units of the meter to priced units.
        included: priced units that are free.
        fee: of a flat fee; None of a charge that counts something.
    """

    shift: int
    included: Decimal
    tiers: tuple[PlainTier, ...]
    fee: Decimal | None

    def costs(self, quantity: Decimal, share: DayShare) -> Decimal:
        """Major units, exact, for a quantity of the whole period, which is not below zero."""
        if self.fee is not None:
            return share.of(self.fee)
        priced = quantity.scaleb(self.shift) - self.included
        amount = _ZERO
        for tier in self.tiers:
            lower, upper = tier.lower, tier.upper
            if priced > lower:
                amount += ((priced if upper is None or priced < upper else upper) - lower) * (
                    tier.unit
                ) + tier.flat
            else:
                return amount + tier.flat if tier.always else amount
        return amount


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterPrices:
    """The charges of one meter.

    Attributes:
        charges: all of them, with their selectors.
        by_model: the charge of each model that is named, where models alone decide it.
        of_others: the charge of all other models.
        by_models_alone: whether no condition and no window has a say.
    """

    charges: tuple[tuple[Charge, Selector], ...]
    by_model: Mapping[str | None, Charge]
    of_others: Charge | None
    by_models_alone: bool

    def charge_of(
        self,
        model: str | None,
        dimensions: tuple[tuple[str, str], ...],
        at: datetime | None,
        zone: ZoneInfo,
    ) -> Charge | None:
        """The charge that prices usage of the meter; None if none does.

        Raises:
            InvalidInput: a charge is for a part of the week, and the usage names no time.
            OverlappingCharges: two do (D16).
        """
        if self.by_models_alone:
            return self.by_model.get(model, self.of_others)
        values = dict(dimensions)
        found: list[Charge] = []
        for charge, selector in self.charges:
            if selector.window is not None and at is None:
                raise InvalidInput(
                    "a charge is for a part of the week, and the usage names no time",
                    field="at",
                    remedy="hand in usage by quarter hour",
                )
            if selector.selects(selector.meter, model, values, at, zone):
                found.append(charge)
        if len(found) > 1:
            raise OverlappingCharges(
                "two charges price the same usage",
                field=found[1].key,
                remedy="narrow one of the charges",
            )
        return found[0] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledCharge:
    """A charge with what does not change from line to line.

    Attributes:
        meter: code of the meter, or None for a fee.
        unit: what is counted, in the plural.
        plain: how to weigh it without steps; None where it takes them.
    """

    charge: Charge
    meter: str | None
    unit: str
    currency: Currency
    plain: PlainCharge | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPlan:
    """A plan version made ready.

    Attributes:
        charges: in the plan's order.
        meters: by code; a meter that is missing has no price.
        counts_declared: whether a charge counts by a meter that is not built in, whose unit is
            known to who declared it.
        all_plain: whether every charge is plain and chosen by meter and model, and nothing bends
            what they come to.
    """

    plan: PricePlan
    charges: tuple[CompiledCharge, ...]
    meters: Mapping[str, MeterPrices]
    counts_declared: bool
    all_plain: bool

    def in_units(self, units: Mapping[str, str]) -> CompiledPlan:
        """The same with the units of declared meters, by code of the meter."""
        if not self.counts_declared or not units:
            return self
        return replace(
            self,
            charges=tuple(
                replace(charge, unit=units[charge.meter])
                if charge.meter is not None and charge.meter in units
                else charge
                for charge in self.charges
            ),
        )

    def charge_of(self, used: MeteredQuantity, zone: ZoneInfo) -> Charge | None:
        """The charge that prices a quantity; see `MeterPrices.charge_of`."""
        prices = self.meters.get(used.meter)
        if prices is None:
            return None
        return prices.charge_of(used.model, used.dimensions, used.at, zone)


class _Same:
    """A plan as the key of a cache: by identity, since comparing whole plans costs more."""

    __slots__ = ("plan",)

    def __init__(self, plan: PricePlan) -> None:
        self.plan = plan

    def __hash__(self) -> int:
        return id(self.plan)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.plan is self.plan


def compiled(plan: PricePlan) -> CompiledPlan:
    """A plan made ready for rating; the same answer for the same plan."""
    return _compiled(_Same(plan))


@lru_cache(maxsize=PLANS_KEPT)
def _compiled(same: _Same) -> CompiledPlan:
    plan = same.plan
    by_meter: dict[str, list[tuple[Charge, Selector]]] = {}
    for charge in plan.charges:
        if charge.selector is not None:
            by_meter.setdefault(charge.selector.meter, []).append((charge, charge.selector))
    with localcontext(EXACT):
        charges = tuple(_charge(charge, plan) for charge in plan.charges)
    meters = {meter: _prices(entries) for meter, entries in by_meter.items()}
    return CompiledPlan(
        plan=plan,
        charges=charges,
        meters=meters,
        counts_declared=not all(map(is_built_in, by_meter)),
        all_plain=not (plan.commitments or plan.coupons)
        and all(charge.plain is not None for charge in charges)
        and all(prices.by_models_alone for prices in meters.values()),
    )


def _charge(charge: Charge, plan: PricePlan) -> CompiledCharge:
    meter = None if charge.selector is None else charge.selector.meter
    return CompiledCharge(
        charge=charge,
        meter=meter,
        unit="billing periods" if meter is None else unit_of(meter),
        currency=plan.currency,
        plain=_plain(charge, plan.policies),
    )


def _prices(entries: Sequence[tuple[Charge, Selector]]) -> MeterPrices:
    others = [charge for charge, selector in entries if selector.models is None]
    return MeterPrices(
        charges=tuple(entries),
        # The charges of a plan do not overlap, so no model is named twice.
        by_model={
            model: charge
            for charge, selector in entries
            if selector.models is not None
            for model in selector.models
        },
        of_others=others[0] if others else None,
        by_models_alone=not any(s.where or s.window is not None for _, s in entries),
    )


def _plain(charge: Charge, policies: Policies) -> PlainCharge | None:
    if (
        charge.adjustments != NO_ADJUSTMENT
        or charge.pricing_unit is not None
        or charge.round_units is not None
        or charge.split_by
        or charge.restart is not Span.PERIOD
        or charge.prorated
    ):
        return None
    match charge.price:
        case FlatFee(amount=amount):
            return PlainCharge(shift=0, included=_ZERO, tiers=(), fee=amount)
        case PerUnit(price=price):
            alone = PlainTier(lower=_ZERO, upper=None, unit=price, flat=_ZERO, always=False)
            return _tiered(charge, (alone,))
        case Graduated() as graduated:
            tiers = _tiers(charge, graduated, policies)
            return None if tiers is None else _tiered(charge, tiers)
        case _:
            return None


def _tiered(charge: Charge, tiers: tuple[PlainTier, ...]) -> PlainCharge:
    return PlainCharge(
        shift=1 - len(str(charge.per)),
        included=to_priced_units(charge.included, charge),
        tiers=tiers,
        fee=None,
    )


def _tiers(
    charge: Charge, graduated: Graduated, policies: Policies
) -> tuple[PlainTier, ...] | None:
    always = policies.zero_usage_first_flat is ZeroUsageFirstFlat.CHARGE
    found: list[PlainTier] = []
    lower = _ZERO
    for number, tier in enumerate(graduated.tiers):
        if tier.package is not None or tier.cap is not None or tier.minimum:
            return None
        upper = None if tier.up_to is None else to_priced_units(tier.up_to, charge)
        found.append(
            PlainTier(
                lower=lower,
                upper=upper,
                unit=tier.unit,
                flat=tier.flat,
                always=always and number == 0,
            )
        )
        lower = lower if upper is None else upper
    return tuple(found)
