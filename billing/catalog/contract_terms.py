"""Terms of one contract beside its plan: negotiated prices, commitments, coupons, phases.

Decides: what makes terms well formed, which of them a billing period has, and the plan that they
make of the plan that was bound. Rating sees one plan and knows nothing of terms. Terms change no
selector, so they cannot make two charges price one quantity (D16).

Terms are layers: what the plan says, what the terms say of every period, what the phase says that
the period begins in. A later layer replaces what it names and keeps the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import TypeVar

from billing.catalog.adjustment import Coupon, SpendCommitment, require_charges
from billing.catalog.bounds import require_percent, require_price, require_quantity
from billing.catalog.charge import Charge
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Price,
    Reserved,
    Volume,
)
from billing.catalog.price_plan import PricePlan
from billing.catalog.tier import Tier, require_tiling
from billing.errors import InvalidPlan

PHASES_MAX = 120
"""Most phases of a contract: ten years of months."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeOverride:
    """What a contract pays for a charge of its plan in place of what the plan says.

    Attributes:
        charge: key of the charge.
        price: major units for what the plan's price is for (a flat fee's amount, the percentage
            of a share of a value, the committed units of reserved capacity); None: the plan's.
        tiers: of a graduated or volume charge; empty: the plan's.
        included: units of the meter that are free in every billing period; None: the plan's.
        discount_percent: off the exact amount, in place of the plan's discount; None: the plan's.
    """

    charge: str
    price: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    included: Decimal | None = None
    discount_percent: Decimal | None = None

    def __post_init__(self) -> None:
        if self.price is not None:
            require_price(self.price, field="price")
        if self.tiers:
            require_tiling(self.tiers)
        if self.included is not None:
            require_quantity(self.included, field="included")
        if self.discount_percent is not None:
            require_percent(self.discount_percent, field="discount_percent")


@dataclass(frozen=True, slots=True, kw_only=True)
class TermLayer:
    """What is agreed on top of the layer below.

    Attributes:
        overrides: of charges, each named once.
        commitments: one with the key of a commitment below replaces it; others are added.
        coupons: likewise.
    """

    overrides: tuple[ChargeOverride, ...] = ()
    commitments: tuple[SpendCommitment, ...] = ()
    coupons: tuple[Coupon, ...] = ()

    def __post_init__(self) -> None:
        _require_distinct("overrides", "charge", [each.charge for each in self.overrides])
        _require_distinct("commitments", "key", [each.key for each in self.commitments])
        _require_distinct("coupons", "key", [each.key for each in self.coupons])


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What is agreed from a day on, until the next phase.

    Attributes:
        begins: local day on which a billing period begins.
        layer: on top of the terms of every period; phases do not add up.
    """

    begins: date
    layer: TermLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTerms:
    """What one contract agreed beside its plan; immutable, like the plan version.

    Attributes:
        always: of every billing period.
        phases: by rising day.
    """

    always: TermLayer = field(default_factory=TermLayer)
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        if len(self.phases) > PHASES_MAX:
            raise InvalidPlan("too many phases", field="phases", remedy=f"at most {PHASES_MAX}")
        for position, (earlier, later) in enumerate(pairwise(self.phases), start=1):
            if later.begins <= earlier.begins:
                raise InvalidPlan(
                    "a phase does not begin after the one before it",
                    field=f"phases[{position}].from",
                    remedy="write phases in the order of their days",
                )


def apply_terms(plan: PricePlan, terms: ContractTerms, *, begins: date) -> PricePlan:
    """The plan that a contract has in one billing period.

    Args:
        plan: the plan version that the contract is bound to.
        terms: of the contract.
        begins: local day on which the billing period begins.

    Raises:
        InvalidPlan: terms that do not fit the plan; `field` is a path like
            `phases[1].overrides[0].charge`.
    """
    found = _on(plan, terms.always, where="")
    current = [position for position, phase in enumerate(terms.phases) if phase.begins <= begins]
    if not current:
        return found
    position = current[-1]
    return _on(found, terms.phases[position].layer, where=f"phases[{position}].")


def require_fit(plan: PricePlan, terms: ContractTerms) -> None:
    """Refuse terms that do not fit a plan in some phase; see `apply_terms`."""
    apply_terms(plan, terms, begins=date.min)
    for phase in terms.phases:
        apply_terms(plan, terms, begins=phase.begins)


def require_new_terms(plan: PricePlan, terms: ContractTerms) -> None:
    """Refuse terms that cannot be agreed: for no charge at all, or as `require_fit`.

    Raises:
        InvalidPlan: `field` is a path like `phases[1].coupons[0].charges`.
    """
    _require_charges(terms.always, where="")
    for position, phase in enumerate(terms.phases):
        _require_charges(phase.layer, where=f"phases[{position}].")
    require_fit(plan, terms)


def _require_charges(layer: TermLayer, *, where: str) -> None:
    for member, entries in {"commitments": layer.commitments, "coupons": layer.coupons}.items():
        for position, entry in enumerate(entries):
            try:
                require_charges(entry)
            except InvalidPlan as refused:
                path = f"{where}{member}[{position}].{refused.field}"
                raise InvalidPlan(refused.message, field=path, remedy=refused.remedy) from None


def _on(plan: PricePlan, layer: TermLayer, *, where: str) -> PricePlan:
    charges = {charge.key: charge for charge in plan.charges}
    for position, override in enumerate(layer.overrides):
        path = f"{where}overrides[{position}]"
        if override.charge not in charges:
            raise InvalidPlan(
                f"the plan {plan.slug} has no such charge",
                field=f"{path}.charge",
                remedy=f"name one of its charges, like {plan.charges[0].key}",
            )
        try:
            charges[override.charge] = _overridden(charges[override.charge], override)
        except InvalidPlan as refused:
            raise InvalidPlan(
                refused.message, field=f"{path}.{refused.field}", remedy=refused.remedy
            ) from None
    try:
        return replace(
            plan,
            charges=tuple(charges.values()),
            commitments=_merged(plan.commitments, layer.commitments),
            coupons=_merged(plan.coupons, layer.coupons),
        )
    except InvalidPlan as refused:
        raise InvalidPlan(
            f"with the plan {plan.slug}: {refused.message}",
            field=f"{where}{refused.field}",
            remedy=refused.remedy,
        ) from None


def _overridden(charge: Charge, override: ChargeOverride) -> Charge:
    price = charge.price
    if override.price is not None:
        price = _repriced(price, override.price)
    if override.tiers:
        price = _retiered(price, override.tiers)
    discount = override.discount_percent
    return replace(
        charge,
        price=price,
        included=charge.included if override.included is None else override.included,
        adjustments=charge.adjustments
        if discount is None
        else replace(charge.adjustments, discount_percent=discount),
    )


def _repriced(price: Price, amount: Decimal) -> Price:
    match price:
        case FlatFee():
            return FlatFee(amount=amount)
        case PerUnit() | Package() | Reserved():
            return replace(price, price=amount)
        case Percentage():
            return replace(price, percent=amount)
        case _:
            raise InvalidPlan(
                "the charge has no single price", field="price", remedy="give it other tiers"
            )


def _retiered(price: Price, tiers: tuple[Tier, ...]) -> Price:
    match price:
        case Graduated() | Volume():
            return replace(price, tiers=tiers)
        case _:
            raise InvalidPlan("the charge has no tiers", field="tiers", remedy="give it a price")


_Keyed = TypeVar("_Keyed", SpendCommitment, Coupon)


def _merged(below: Sequence[_Keyed], above: Iterable[_Keyed]) -> tuple[_Keyed, ...]:
    kept = {entry.key: entry for entry in below}
    kept.update({entry.key: entry for entry in above})
    return tuple(kept.values())


def _require_distinct(member: str, name: str, keys: Sequence[str]) -> None:
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise InvalidPlan(
                "named twice", field=f"{member}[{position}].{name}", remedy="name it once"
            )


NO_TERMS = ContractTerms()
"""Of a contract that agreed to its plan as it is."""
