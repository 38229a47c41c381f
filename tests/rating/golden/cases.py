"""Cases taken as facts from other systems, and how their words map to plans of ours.

A case holds if the exact or the rounded amount equals what is expected. A trap holds if, besides,
the amount of the system with the defect does not come out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from billing.catalog.adjustment import Adjustments
from billing.catalog.charge import Charge
from billing.catalog.price import Graduated, Package, PerUnit, Rounding, Volume
from billing.catalog.price_plan import (
    AllowanceInVolume,
    NegativeUsage,
    Policies,
    PricePlan,
    ProrationDays,
    ZeroUsageFirstFlat,
)
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.money import currency
from billing.rating.line import LineKind, Rating
from billing.rating.pipeline import WHOLE_PERIOD, Slice, rate
from billing.rating.quantity import MeteredQuantity

CASES_FILE = Path(__file__).parents[2] / "golden" / "rating_cases.jsonl"
CASES = [json.loads(line) for line in CASES_FILE.read_text(encoding="utf-8").splitlines()]
SELECTOR = Selector(meter="requests")
LATER = Slice(opens_period=False)
OPENING = Slice(closes_period=False)
ZERO = Decimal(0)

_ALLOWANCE = {"free units become billable once exceeded": AllowanceInVolume.BILLABLE_ONCE_EXCEEDED}
_NEGATIVE = {"clamp at line": NegativeUsage.CLAMP, "mirror": NegativeUsage.MIRROR}
_DAYS = {
    "half-open": ProrationDays.HALF_OPEN,
    "inclusive": ProrationDays.INCLUSIVE,
    "fixed 30": ProrationDays.FIXED_30,
}


def cases_of(categories: Iterable[str]) -> list[dict]:
    wanted = frozenset(categories)
    return [case for case in CASES if case["category"] in wanted]


def name_of(case: dict) -> str:
    return case["id"]


def scale(case: dict) -> Decimal:
    """Amounts of a case may be in minor units; ours are in major units."""
    return Decimal("0.01") if case["unit"] == "minor" else Decimal(1)


def major(case: dict, text: str) -> Decimal:
    return Decimal(text) * scale(case)


def policies_of(case: dict) -> Policies:
    said = case.get("policy", {})
    # Rounding half up, at the line, and inclusive bounds are what every plan does.
    assert said.get("rounding", "half_up") == "half_up"
    assert said.get("rounding_point", "line") == "line"
    assert said.get("upper_bound", "inclusive") == "inclusive"
    return Policies(
        zero_usage_first_flat=ZeroUsageFirstFlat(said.get("zero_usage_first_flat", "skip")),
        allowance_in_volume=_ALLOWANCE.get(
            said.get("allowance_in_volume"), AllowanceInVolume.STAYS_FREE
        ),
        negative_usage=_NEGATIVE[said.get("negative_usage", "clamp at line")],
        proration_days=_DAYS[said.get("proration_days", "half-open")],
    )


def plan_of(case: dict, *charges: Charge, code: str = "USD", **terms) -> PricePlan:
    return PricePlan(
        slug="golden",
        name="Golden",
        currency=currency(code),
        charges=charges,
        policies=policies_of(case),
        **terms,
    )


def tiers_of(case: dict) -> tuple[Tier, ...]:
    """Tiers as a case writes them, bounds in units of the meter."""
    price = case["price"]
    factor = Decimal(price.get("divide_by", "1"))
    if "first_unit_tiers" in price:
        firsts = [Decimal(first) for first, _ in price["first_unit_tiers"]]
        ends = [first - 1 for first in firsts[1:]]
        units = [unit for _, unit in price["first_unit_tiers"]]
        return tuple(
            Tier(up_to=up_to, unit=major(case, unit))
            for up_to, unit in zip([*ends, None], units, strict=True)
        )
    if "tiers_tokens" in price:
        return tuple(
            Tier(up_to=None if up_to is None else Decimal(up_to), unit=Decimal(unit.split()[0]))
            for up_to, unit in price["tiers_tokens"]
        )
    if "block_size" in price["tiers"][0]:
        return _blocks(price["tiers"])
    return tuple(
        Tier(
            up_to=None if tier["up_to"] is None else Decimal(tier["up_to"]) * factor,
            unit=major(case, tier.get("unit") or tier["rate_pct"]),
            flat=major(case, tier.get("flat", "0")),
            cap=None if tier.get("cap") is None else major(case, tier["cap"]),
        )
        for tier in price["tiers"]
    )


def _blocks(tiers: list[dict]) -> tuple[Tier, ...]:
    """Tiers as wide as their blocks, the last one open."""
    found, reached = [], ZERO
    for position, tier in enumerate(tiers):
        size = Decimal(tier["block_size"])
        last = position == len(tiers) - 1
        if not last:
            reached += size * Decimal(tier["max_blocks"])
        found.append(
            Tier(up_to=None if last else reached, unit=Decimal(tier["block_price"]), package=size)
        )
    return tuple(found)


def charge_of(case: dict, **terms) -> Charge:
    """The charge that a case's price describes."""
    price = case["price"]
    if any(name in price for name in ("tiers", "first_unit_tiers", "tiers_tokens")):
        top = price.get("model") == "volume" or price.get("policy") == "TOP_TIER"
        model = (Volume if top else Graduated)(tiers=tiers_of(case))
    elif "size" in price:
        model = Package(
            size=Decimal(price["size"]),
            price=major(case, price.get("amount", "1")),
            rounding=Rounding(price.get("round", "up")),
        )
    elif "block_size" in price:
        model = Package(size=Decimal(price["block_size"]), price=major(case, price["block_price"]))
    else:
        unit = price.get("unit") or price.get("unit_minor") or price.get("multiplier") or "1"
        model = PerUnit(price=major(case, unit))
    per, rounded = _units_of(price)
    most = price.get("maximum") or price.get("cap_minor")
    bent = Adjustments(
        discount_percent=Decimal(price.get("discount_pct", "0")),
        minimum=major(case, price.get("minimum") or "0"),
        maximum=None if most is None else major(case, most),
    )
    said = {"per": per, "round_units": rounded, "adjustments": bent, **terms}
    free = price.get("free_units") or price.get("free_usage")
    if free:
        said["included"] = Decimal(free)
    return Charge(key="golden", description=case["id"], selector=SELECTOR, price=model, **said)


def _units_of(price: dict) -> tuple[int, Rounding | None]:
    if price.get("model") == "graduated_percentage":
        return 100, None
    if "divide_by" in price:
        return int(price["divide_by"]), {"ceil": Rounding.UP}[price["round"]]
    if "billing_unit" in price:
        assert price["round"] == "up before tier choice"
        return int(price["billing_unit"]), Rounding.UP
    return 1, None


def used(quantity: str | int | Decimal, before: str | int | Decimal = 0, **at) -> MeteredQuantity:
    return MeteredQuantity(
        meter="requests", quantity=Decimal(quantity), before=Decimal(before), **at
    )


def rated(plan: PricePlan, *usage: MeteredQuantity, of: Slice = WHOLE_PERIOD) -> Rating:
    rating = rate(plan, usage, of=of)
    assert rating.unrated == ()
    return rating


def exact_of(rating: Rating, *kinds: LineKind) -> Decimal:
    """Sum of exact amounts, of the kinds or of all lines."""
    return sum((line.exact for line in rating.lines if not kinds or line.kind in kinds), ZERO)


def rounded_of(rating: Rating, *kinds: LineKind) -> Decimal:
    """Sum of rounded amounts in major units, of the kinds or of all lines."""
    return sum(
        (line.amount.major() for line in rating.lines if not kinds or line.kind in kinds), ZERO
    )


def holds(case: dict, rating: Rating, member: str = "amount") -> None:
    """The exact or the rounded amount is the expected one, and no trap was stepped into."""
    came = {exact_of(rating), rounded_of(rating)}
    assert major(case, case["expected"][member]) in came
    trap = case.get("must_not_equal", {}).get(member)
    assert trap is None or major(case, trap) not in came
