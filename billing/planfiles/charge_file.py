"""Charges of a plan file, as the catalog knows them.

Decides: which price model and selector each written form stands for. What makes them valid is
decided by the catalog; a refusal names the field below the charge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

from billing.catalog.adjustment import (
    NO_ADJUSTMENT,
    Adjustments,
    Commitment,
    Coupon,
    SpendCommitment,
)
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
from billing.catalog.selector import OUTCOME_PREFIX, Condition, Selector, require_slug
from billing.catalog.tier import Tier
from billing.errors import InvalidPlan
from billing.planfiles.plan_document import (
    ChargeDocument,
    CouponDocument,
    FlatFeeDocument,
    GraduatedDocument,
    HeadDocument,
    OthersDocument,
    OutcomeDocument,
    PackageDocument,
    PercentageDocument,
    PerUnitDocument,
    ReservedDocument,
    SpendCommitmentDocument,
    TierDocument,
    UsageDocument,
    VolumeDocument,
)


def read_charge(document: ChargeDocument) -> Charge:
    """The charge that a document stands for.

    Raises:
        InvalidPlan: `field` is below the charge, like `tiers[1].up_to`.
    """
    head: dict[str, Any] = {
        "key": document.key,
        "description": document.description,
        "adjustments": _adjustments(document),
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
        case _:
            return Charge(
                **head,
                selector=_selector(document),
                price=_price(document),
                per=document.per,
                round_units=None
                if document.round_units is None
                else Rounding(document.round_units),
                included=document.included,
                split_by=tuple(document.split_by),
                restart=Span(document.restart),
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


UsageCharge = (
    PerUnitDocument
    | GraduatedDocument
    | VolumeDocument
    | PackageDocument
    | PercentageDocument
    | ReservedDocument
)


def _price(document: UsageCharge) -> Price:
    match document:
        case PerUnitDocument():
            return PerUnit(price=document.price)
        case GraduatedDocument():
            return Graduated(tiers=tuple(_tiers(document.tiers)))
        case VolumeDocument():
            return Volume(tiers=tuple(_tiers(document.tiers)))
        case PackageDocument():
            return Package(
                size=document.size, price=document.price, rounding=Rounding(document.rounding)
            )
        case PercentageDocument():
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
    promised = document.commitment
    found = Adjustments(
        discount_percent=document.discount_percent,
        maximum=document.maximum,
        minimum=document.minimum,
        commitment=None
        if promised is None
        else Commitment(
            amount=promised.amount,
            window=Span(promised.window),
            overage_factor=promised.overage_factor,
            true_up=promised.true_up,
        ),
    )
    return NO_ADJUSTMENT if found == NO_ADJUSTMENT else found


def _selector(document: UsageDocument) -> Selector:
    return Selector(
        meter=document.meter,
        models=None if document.models is None else frozenset(document.models),
        where=tuple(
            Condition(
                dimension=name,
                values=frozenset(meant.others if isinstance(meant, OthersDocument) else meant),
                others=isinstance(meant, OthersDocument),
            )
            for name, meant in sorted(document.where.items())
        ),
    )


def _tiers(documents: Sequence[TierDocument]) -> Iterator[Tier]:
    for position, tier in enumerate(documents):
        try:
            yield Tier(
                up_to=tier.up_to,
                unit=tier.unit,
                flat=tier.flat,
                package=tier.package,
                cap=tier.cap,
                minimum=tier.minimum,
            )
        except InvalidPlan as refused:
            field = f"tiers[{position}].{refused.field}"
            raise InvalidPlan(refused.message, field=field, remedy=refused.remedy) from None
