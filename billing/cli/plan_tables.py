"""Price plans as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import assert_never, cast

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
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.cli.documents import plan_document
from billing.cli.output import figure, show_members, show_table
from billing.planfiles.plan_dump import dump_charge

_TERMS = (
    "unit",
    "where",
    "during",
    "round_units",
    "split_by",
    "restart",
    "rounding",
    "fixed",
    "free_transactions",
    "free_value",
    "transaction_minimum",
    "transaction_maximum",
    "shortfall",
    "discount_percent",
    "maximum",
    "minimum",
    "commitment",
    "in_advance",
)
"""Members of a stored charge that have no column."""


def show_plan(plan: PricePlan) -> None:
    """Show a plan with every charge, tier, window, commitment, coupon and policy."""
    version = f"@{plan.version}" if plan.version else ""
    terms = f"due {plan.payment_terms_days} days after issue"
    show_table(
        f"{plan.slug}{version}: {plan.name} ({plan.currency.code}, {terms})",
        ("charge", "description", "kind", "meter", "models", "units", "#price", "#per"),
        [row for charge in plan.charges for row in (*_charge_rows(charge), *_term_rows(charge))],
    )
    document = plan_document(plan)
    if units := document.get("pricing_units"):
        show_members("Pricing units", [(name, _said(unit)) for name, unit in units.items()])
    if windows := document.get("windows"):
        show_members("Windows", [(name, _said(window)) for name, window in windows.items()])
    for title in ("commitments", "coupons"):
        for entry in document.get(title, ()):
            members = [(name, _said(value)) for name, value in entry.items() if value is not None]
            show_members(title.capitalize(), members)
    if progressive := document.get("progressive_invoicing"):
        show_members("Progressive invoicing", progressive.items())
    show_members("Policies", document["policies"].items())


def _charge_rows(charge: Charge) -> Iterator[tuple[object, ...]]:
    """One row per charge; one more per tier where there are tiers."""
    head = (charge.key, charge.description)
    per = figure(Decimal(charge.per))
    selected = _selected(charge.selector)
    free = f"{figure(charge.included)} included" if charge.included else None
    match charge.price:
        case FlatFee(amount=amount):
            yield *head, "flat fee", None, None, None, figure(amount), "period"
        case PerUnit(price=price):
            yield *head, "per unit", *selected, free, figure(price), per
        case Graduated(tiers=tiers):
            yield *head, "graduated", *selected, free, "", ""
            yield from _tier_rows(tiers, per)
        case Volume(tiers=tiers):
            yield *head, "volume", *selected, free, "", ""
            yield from _tier_rows(tiers, per)
        case Package(size=size, price=price):
            yield *head, "package", *selected, free, figure(price), figure(size)
        case Percentage(percent=percent):
            yield *head, "percentage", *selected, free, f"{figure(percent)} %", "1"
        case Reserved() as reserved:
            held = f"{figure(reserved.committed)} per {reserved.window.value.replace('_', ' ')}"
            yield *head, "reserved", *selected, held, figure(reserved.price), per
            yield *("", "", "  beyond", "", "", ""), figure(reserved.overage), per
        case _:
            assert_never(charge.price)


def _term_rows(charge: Charge) -> Iterator[tuple[object, ...]]:
    """What narrows a charge or bends its amount, a row each."""
    document = dump_charge(charge)
    for name in _TERMS:
        if (value := document.get(name)) not in (None, [], {}):
            yield "", "", f"  {name.replace('_', ' ')}", _said(value), "", "", "", ""


def _said(value: object) -> str:
    match value:
        case dict():
            members = cast("dict[str, object]", value).items()
            return ", ".join(f"{name} {_said(below)}" for name, below in members)
        case list():
            return ", ".join(_said(each) for each in cast("list[object]", value))
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _tier_rows(tiers: Sequence[Tier], per: str) -> Iterator[tuple[object, ...]]:
    lower = Decimal(0)
    for tier in tiers:
        upper = "" if tier.up_to is None else f" up to {figure(tier.up_to)}"
        flat = f" and {figure(tier.flat)} once" if tier.flat else ""
        flat += f", at least {figure(tier.minimum)}" if tier.minimum else ""
        flat += "" if tier.cap is None else f", at most {figure(tier.cap)}"
        yield (
            *("", "", "  tier", "", ""),
            f"above {figure(lower)}{upper}",
            f"{figure(tier.unit)}{flat}",
            per if tier.package is None else figure(tier.package),
        )
        lower = tier.up_to or lower


def _selected(selector: Selector | None) -> tuple[str | None, str | None]:
    if selector is None:
        return None, None
    models = "any" if selector.models is None else ", ".join(sorted(selector.models))
    return selector.meter, models
