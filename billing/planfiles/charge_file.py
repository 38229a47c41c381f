"""Charges of a plan file, as the catalog knows them.

Decides: which price model and selector each written form stands for. What makes them valid is
decided by the catalog; a refusal names the field below the charge.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, assert_never

from billing.catalog.adjustment import (
    NO_ADJUSTMENT,
    Adjustments,
    Commitment,
    Coupon,
    SpendCommitment,
)
from billing.catalog.bounds import require_percent, require_price
from billing.catalog.charge import Charge
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Price,
    Reserved,
    Rounding,
    Span,
    Volume,
)
from billing.catalog.pricing_unit import PricingUnit
from billing.catalog.selector import OUTCOME_PREFIX, Condition, Selector, require_slug
from billing.catalog.tier import Tier
from billing.catalog.window import Window
from billing.errors import InvalidInput, InvalidPlan
from billing.money import EXACT
from billing.planfiles.plan_document import (
    CostPlusDocument,
    CouponDocument,
    FlatFeeDocument,
    GraduatedDocument,
    GraduatedPercentageDocument,
    HeadDocument,
    OthersDocument,
    OutcomeDocument,
    PackageDocument,
    PercentageDocument,
    PercentTierDocument,
    PerUnitDocument,
    ReservedDocument,
    SelectingDocument,
    ShareOfValueDocument,
    SpendCommitmentDocument,
    TierDocument,
    UsageDocument,
    VolumeDocument,
    Where,
)

_HUNDRED = 100


def read_charge(
    document: SingleCharge, windows: Mapping[str, Window], units: Mapping[str, PricingUnit]
) -> Charge:
    """The charge that a document stands for.

    Args:
        windows, units: of the plan, by name.

    Raises:
        InvalidPlan: `field` is below the charge, like `tiers[1].up_to`.
    """
    head: dict[str, Any] = {
        "key": document.key,
        "description": document.description,
        "adjustments": _adjustments(document),
        "pricing_unit": unit_of(document.unit, units),
    }
    match document:
        case FlatFeeDocument():
            return Charge(
                **head, price=FlatFee(amount=document.amount), in_advance=document.in_advance
            )
        case OutcomeDocument():
            require_slug(document.outcome, field="outcome")
            return Charge(
                **head,
                selector=Selector(meter=f"{OUTCOME_PREFIX}{document.outcome}"),
                price=PerUnit(price=document.price),
            )
        case GraduatedPercentageDocument() | ShareOfValueDocument() | CostPlusDocument():
            price, per = _value_price(document)
            return Charge(
                **head,
                selector=_selector(document, windows),
                price=price,
                per=per,
                included=document.included,
                split_by=tuple(document.split_by),
            )
        case _:
            return Charge(
                **head,
                selector=_selector(document, windows),
                price=_price(document),
                per=document.per,
                round_units=None
                if document.round_units is None
                else Rounding(document.round_units),
                included=document.included,
                split_by=tuple(document.split_by),
                restart=Span(document.restart),
                prorated=document.prorated,
            )


def read_commitment(document: SpendCommitmentDocument) -> SpendCommitment:
    """The commitment over several charges that a document stands for."""
    return SpendCommitment(
        key=document.key,
        description=document.description,
        amount=document.amount,
        charges=None if document.charges is None else frozenset(document.charges),
        overage_factor=document.overage_factor,
    )


def read_coupon(document: CouponDocument) -> Coupon:
    """The coupon that a document stands for."""
    return Coupon(
        key=document.key,
        description=document.description,
        percent_off=document.percent_off,
        amount_off=document.amount_off,
        charges=None if document.charges is None else frozenset(document.charges),
    )


UsageCharge: TypeAlias = (
    PerUnitDocument
    | GraduatedDocument
    | VolumeDocument
    | PackageDocument
    | PercentageDocument
    | ReservedDocument
)
ValueCharge: TypeAlias = GraduatedPercentageDocument | ShareOfValueDocument | CostPlusDocument
SingleCharge: TypeAlias = UsageCharge | ValueCharge | FlatFeeDocument | OutcomeDocument
"""Every written charge that stands for one charge; a matrix stands for several."""


def _value_price(document: ValueCharge) -> tuple[Price, int]:
    """The price of a share of money, and the units that it is for: percents are per hundred."""
    match document:
        case GraduatedPercentageDocument():
            return Graduated(tiers=tuple(_percent_tiers(document.tiers))), _HUNDRED
        case ShareOfValueDocument():
            require_percent(document.percent, field="percent")
            return PerUnit(price=document.percent), _HUNDRED
        case CostPlusDocument():
            require_price(document.markup_percent, field="markup_percent")
            price = EXACT.add(_HUNDRED, document.markup_percent)
            return PerUnit(price=price), _HUNDRED
        case _:
            assert_never(document)


def _percent_tiers(documents: Sequence[PercentTierDocument]) -> Iterator[Tier]:
    for position, tier in enumerate(documents):
        with _below(f"tiers[{position}]"):
            require_percent(tier.percent, field="percent")
            yield Tier(
                up_to=tier.up_to,
                unit=tier.percent,
                flat=tier.flat,
                cap=tier.cap,
                minimum=tier.minimum,
            )


def require_whole_units(document: SingleCharge) -> None:
    """Where units are rounded, what is compared with them is whole ones from the start.

    Rounded themselves, 500 included of a thousand would be a thousand or none, a tier that begins
    and ends within one unit would hold nothing, and a package of less than one would be empty.

    Raises:
        InvalidPlan: `field` is below the charge.
    """
    if not isinstance(document, UsageDocument) or document.round_units is None:
        return
    bounds = {"included": document.included}
    if isinstance(document, PackageDocument):
        bounds["size"] = document.size
    if isinstance(document, ReservedDocument):
        bounds["committed"] = document.committed
    if isinstance(document, GraduatedDocument | VolumeDocument):
        bounds |= {
            f"tiers[{position}].up_to": tier.up_to
            for position, tier in enumerate(document.tiers)
            if tier.up_to is not None
        }
    for field, bound in bounds.items():
        if EXACT.remainder(bound, document.per):
            raise InvalidPlan(
                "not a whole number of the units that `round_units` makes",
                field=field,
                remedy=f"use a multiple of {document.per}",
            )


def _price(document: UsageCharge) -> Price:
    match document:
        case PerUnitDocument():
            return PerUnit(price=document.price)
        case GraduatedDocument():
            return Graduated(tiers=tuple(read_tiers(document.tiers)))
        case VolumeDocument():
            return Volume(tiers=tuple(read_tiers(document.tiers)))
        case PackageDocument():
            return Package(
                size=document.size, price=document.price, rounding=Rounding(document.rounding)
            )
        case PercentageDocument():
            # Written with names of their own, since the charge has a minimum and a maximum, too.
            with _named({"minimum": "transaction_minimum", "maximum": "transaction_maximum"}):
                return Percentage(
                    percent=document.percent,
                    fixed=document.fixed,
                    free_transactions=document.free_transactions,
                    free_value=document.free_value,
                    minimum=document.transaction_minimum,
                    maximum=document.transaction_maximum,
                )
        case ReservedDocument():
            return Reserved(
                committed=document.committed,
                window=Span(document.window),
                price=document.price,
                overage=document.overage,
                shortfall=document.shortfall,
            )
        case _:
            assert_never(document)


def _adjustments(document: HeadDocument) -> Adjustments:
    commitment = None
    if (promised := document.commitment) is not None:
        with _below("commitment"):
            commitment = Commitment(
                amount=promised.amount,
                window=Span(promised.window),
                overage_factor=promised.overage_factor,
                true_up=promised.true_up,
            )
    found = Adjustments(
        discount_percent=document.discount_percent,
        maximum=document.maximum,
        minimum=document.minimum,
        commitment=commitment,
    )
    return NO_ADJUSTMENT if found == NO_ADJUSTMENT else found


def _selector(document: SelectingDocument, windows: Mapping[str, Window]) -> Selector:
    return Selector(
        window=window_of(document.during, windows),
        meter=document.meter,
        models=None if document.models is None else frozenset(document.models),
        where=tuple(_conditions(document.where)),
    )


def _conditions(where: Where) -> Iterator[Condition]:
    for name, meant in sorted(where.items()):
        at = f"where.{name}"
        with _named({"dimension": at, "values": at}):
            yield Condition(
                dimension=name,
                values=frozenset(meant.others if isinstance(meant, OthersDocument) else meant),
                others=isinstance(meant, OthersDocument),
            )


def unit_of(name: str | None, units: Mapping[str, PricingUnit]) -> PricingUnit | None:
    """The pricing unit of a name; None if none is named.

    Raises:
        InvalidPlan: the plan has no such unit.
    """
    if name is None:
        return None
    if name not in units:
        raise InvalidPlan(
            "no such pricing unit",
            field="unit",
            remedy="name one under pricing_units, or add it there",
        )
    return units[name]


def window_of(name: str | None, windows: Mapping[str, Window]) -> Window | None:
    """The window of a name; None if none is named.

    Raises:
        InvalidPlan: the plan has no such window.
    """
    if name is None:
        return None
    if name not in windows:
        raise InvalidPlan(
            "no such window", field="during", remedy="name one under windows, or add it there"
        )
    return windows[name]


def read_tiers(documents: Sequence[TierDocument]) -> Iterator[Tier]:
    """The tiers that documents stand for; a refusal names its place below the charge."""
    for position, tier in enumerate(documents):
        with _below(f"tiers[{position}]"):
            yield Tier(
                up_to=tier.up_to,
                unit=tier.unit,
                flat=tier.flat,
                package=tier.package,
                cap=tier.cap,
                minimum=tier.minimum,
            )


@contextmanager
def _below(place: str) -> Generator[None]:
    """Name the place of what is refused within a charge."""
    try:
        yield
    except InvalidPlan as refused:
        field = f"{place}.{refused.field}"
        raise InvalidPlan(refused.message, field=field, remedy=refused.remedy) from None


@contextmanager
def _named(written: Mapping[str, str]) -> Generator[None]:
    """Name what is refused as the file writes it."""
    try:
        yield
    except InvalidInput as refused:
        field = written.get(refused.field or "", refused.field)
        raise InvalidPlan(refused.message, field=field, remedy=refused.remedy) from None
