"""Price plans as stored documents: what `plan_file` reads, written down again.

Decides: how a stored version is serialised and identified. Members that say nothing are left out,
so that a plan stored before a word existed keeps the digest that it has.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any, assert_never

from billing.catalog.adjustment import Adjustments
from billing.catalog.charge import Charge
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Span,
    Volume,
)
from billing.catalog.price_plan import Policies, PricePlan
from billing.catalog.selector import OUTCOME_PREFIX, Selector
from billing.catalog.tier import Tier
from billing.money import plain
from billing.planfiles.plan_document import PoliciesDocument
from billing.planfiles.window_file import dump_windows


def dump(plan: PricePlan) -> dict[str, Any]:
    """A plan as a JSON-safe document, amounts as text: what is stored as a version.

    The version number is not part of it; it belongs to the row.
    """
    return {
        "slug": plan.slug,
        "name": plan.name,
        "currency": plan.currency.code,
        "payment_terms_days": plan.payment_terms_days,
        "policies": _dump_policies(plan.policies),
        **_dump_units(plan),
        **({"windows": windows} if (windows := dump_windows(plan)) else {}),
        "charges": [dump_charge(charge) for charge in plan.charges],
        **_dump_together(plan),
    }


def digest(plan: PricePlan) -> str:
    """SHA-256 of the plan's document, in hexadecimal: equal plans have equal digests."""
    canonical = json.dumps(dump(plan), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _dump_units(plan: PricePlan) -> dict[str, Any]:
    units = {
        unit.name: {"rate": plain(unit.rate)}
        for charge in plan.charges
        if (unit := charge.pricing_unit) is not None
    }
    return {"pricing_units": dict(sorted(units.items()))} if units else {}


def _dump_policies(policies: Policies) -> dict[str, Any]:
    admission = policies.admission
    document = PoliciesDocument.model_validate(
        {
            "allowance_in_volume": policies.allowance_in_volume.value,
            "negative_usage": policies.negative_usage.value,
            "proration_days": policies.proration_days.value,
            "correction": policies.correction.value,
            "coverage": policies.coverage.value,
            "payment": admission.payment.value,
            "hold": admission.hold.value,
            "on_database_loss": admission.on_database_loss and admission.on_database_loss.value,
            "max_exposure": admission.max_exposure,
            "on_client_left": admission.on_client_left.value,
            "drain_ms": admission.drain_ms,
            "unpriced": admission.unpriced.value,
            "shadow": admission.shadow,
        }
    )
    # Defaults are left out: plans stored before these words existed keep the digest they have.
    said = document.model_dump(mode="json", exclude_defaults=True)
    return {"zero_usage_first_flat": policies.zero_usage_first_flat.value, **said}


def dump_charge(charge: Charge) -> dict[str, Any]:
    """A charge as it stands in a plan's document."""
    head: dict[str, Any] = {"key": charge.key, "description": charge.description}
    if charge.pricing_unit is not None:
        head["unit"] = charge.pricing_unit.name
    bent = _dump_adjustments(charge.adjustments)
    selector = charge.selector
    if selector is None:
        assert isinstance(charge.price, FlatFee)
        in_advance = {"in_advance": True} if charge.in_advance else {}
        amount = plain(charge.price.amount)
        return {"type": "flat_fee", **head, "amount": amount, **in_advance, **bent}
    if selector.meter.startswith(OUTCOME_PREFIX) and _is_plain(charge):
        assert isinstance(charge.price, PerUnit)
        outcome = selector.meter.removeprefix(OUTCOME_PREFIX)
        price = plain(charge.price.price)
        return {"type": "outcome", **head, "outcome": outcome, "price": price, **bent}
    return {
        **head,
        **_dump_selector(selector),
        **_dump_counting(charge),
        **_dump_price(charge),
        **bent,
    }


def _is_plain(charge: Charge) -> bool:
    """Whether the short form of outcomes says all there is."""
    return charge == Charge(
        key=charge.key,
        description=charge.description,
        selector=charge.selector and Selector(meter=charge.selector.meter),
        price=charge.price,
        adjustments=charge.adjustments,
        pricing_unit=charge.pricing_unit,
    ) and isinstance(charge.price, PerUnit)


def _dump_price(charge: Charge) -> dict[str, Any]:
    match charge.price:
        case PerUnit(price=price):
            return {"type": "per_unit", "price": plain(price), "included": plain(charge.included)}
        case Graduated(tiers=tiers):
            return {"type": "graduated", "tiers": [_dump_tier(tier) for tier in tiers]}
        case Volume(tiers=tiers):
            return {"type": "volume", "tiers": [_dump_tier(tier) for tier in tiers]}
        case Package() as package:
            return {
                "type": "package",
                "size": plain(package.size),
                "price": plain(package.price),
                "rounding": package.rounding.value,
            }
        case Percentage() as share:
            return {
                "type": "percentage",
                "percent": plain(share.percent),
                "fixed": plain(share.fixed),
                "free_transactions": share.free_transactions,
                "free_value": _plain_or_none(share.free_value),
                "transaction_minimum": plain(share.minimum),
                "transaction_maximum": _plain_or_none(share.maximum),
            }
        case Reserved() as reserved:
            return {
                "type": "reserved",
                "committed": plain(reserved.committed),
                "window": reserved.window.value,
                "price": plain(reserved.price),
                "overage": plain(reserved.overage),
                "shortfall": plain(reserved.shortfall),
            }
        case FlatFee():
            raise AssertionError("a flat fee has no selector")
        case _:
            assert_never(charge.price)


def _dump_counting(charge: Charge) -> dict[str, Any]:
    said: dict[str, Any] = {"per": charge.per}
    if charge.round_units is not None:
        said["round_units"] = charge.round_units.value
    if charge.included:
        said["included"] = plain(charge.included)
    if charge.split_by:
        said["split_by"] = list(charge.split_by)
    if charge.restart is not Span.PERIOD:
        said["restart"] = charge.restart.value
    if charge.prorated:
        said["prorated"] = True
    return said


def _dump_adjustments(adjustments: Adjustments) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if adjustments.discount_percent:
        said["discount_percent"] = plain(adjustments.discount_percent)
    if adjustments.maximum is not None:
        said["maximum"] = plain(adjustments.maximum)
    if adjustments.minimum:
        said["minimum"] = plain(adjustments.minimum)
    if (promised := adjustments.commitment) is not None:
        said["commitment"] = {
            "amount": plain(promised.amount),
            "window": promised.window.value,
            "overage_factor": plain(promised.overage_factor),
            "true_up": promised.true_up,
        }
    return said


def _dump_selector(selector: Selector) -> dict[str, Any]:
    models = None if selector.models is None else sorted(selector.models)
    said: dict[str, Any] = {"meter": selector.meter, "models": models}
    if selector.where:
        said["where"] = {
            condition.dimension: {"others": sorted(condition.values)}
            if condition.others
            else sorted(condition.values)
            for condition in selector.where
        }
    if selector.window is not None:
        said["during"] = selector.window.name
    return said


def _dump_tier(tier: Tier) -> dict[str, str | None]:
    said = {
        "up_to": _plain_or_none(tier.up_to),
        "unit": plain(tier.unit),
        "flat": plain(tier.flat),
    }
    if tier.package is not None:
        said["package"] = plain(tier.package)
    if tier.cap is not None:
        said["cap"] = plain(tier.cap)
    if tier.minimum:
        said["minimum"] = plain(tier.minimum)
    return said


def _dump_together(plan: PricePlan) -> dict[str, Any]:
    """Commitments, coupons, invoices on the way; nothing where there are none."""
    said: dict[str, Any] = {}
    if plan.commitments:
        said["commitments"] = [
            {
                "key": promised.key,
                "description": promised.description,
                "amount": plain(promised.amount),
                "charges": _names(promised.charges),
                "overage_factor": plain(promised.overage_factor),
            }
            for promised in plan.commitments
        ]
    if plan.coupons:
        said["coupons"] = [
            {
                "key": coupon.key,
                "description": coupon.description,
                "percent_off": plain(coupon.percent_off),
                "amount_off": plain(coupon.amount_off),
                "charges": _names(coupon.charges),
            }
            for coupon in plan.coupons
        ]
    if plan.progressive is not None:
        said["progressive_invoicing"] = {"threshold": plain(plan.progressive.threshold)}
    return said


def _names(charges: frozenset[str] | None) -> list[str] | None:
    return None if charges is None else sorted(charges)


def _plain_or_none(number: Decimal | None) -> str | None:
    return None if number is None else plain(number)
