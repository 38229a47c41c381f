"""Price plans as they are written down: the fields of a plan file.

Decides: names and shapes of fields, and their defaults. What the values must satisfy is decided by
the catalog.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from billing.planfiles.decimal_text import DecimalText
from billing.planfiles.validation import Document

_ZERO = Decimal(0)
_ONE = Decimal(1)


Where: TypeAlias = dict[str, "list[str] | OthersDocument"]


class OthersDocument(Document):
    """All values of a dimension but these: the fallback of a price by dimension."""

    others: list[str]


class CommitmentDocument(Document):
    """An amount that the charge was promised to reach in every `window`."""

    amount: DecimalText
    window: Literal["period", "day", "hour", "quarter_hour"] = "period"
    overage_factor: DecimalText = _ONE
    true_up: bool = True


class HeadDocument(Document):
    """What every charge says: its name, and what bends its amount.

    `maximum` and `minimum` are of a billing period; the minimum is prorated by days.
    """

    key: str
    description: str
    discount_percent: DecimalText = _ZERO
    maximum: DecimalText | None = None
    minimum: DecimalText = _ZERO
    commitment: CommitmentDocument | None = None


class UsageDocument(HeadDocument):
    """What a charge for usage says: what it counts.

    Prices are for `per` units of the meter; `round_units` makes whole ones of them. `included`
    units are free in every billing period. `split_by` counts tiers and included usage by the
    values of dimensions, `restart` by spans of time.
    """

    meter: str
    models: list[str] | None = None
    where: Where = Field(default_factory=Where)
    per: int = 1
    round_units: Literal["up", "down"] | None = None
    included: DecimalText = _ZERO
    split_by: list[str] = Field(default_factory=list[str])
    restart: Literal["period", "day", "hour", "quarter_hour"] = "period"


class FlatFeeDocument(HeadDocument):
    """A fixed amount per billing period."""

    type: Literal["flat_fee"]
    amount: DecimalText
    in_advance: bool = False


class PerUnitDocument(UsageDocument):
    """One price for every `per` units."""

    type: Literal["per_unit"]
    price: DecimalText


class TierDocument(Document):
    """A stretch of quantity: up to and including `up_to`, open where it is left out."""

    up_to: DecimalText | None = None
    unit: DecimalText
    flat: DecimalText = _ZERO
    package: DecimalText | None = None
    cap: DecimalText | None = None
    minimum: DecimalText = _ZERO


class GraduatedDocument(UsageDocument):
    """Each unit is priced by the tier that it falls into."""

    type: Literal["graduated"]
    tiers: list[TierDocument]


class VolumeDocument(UsageDocument):
    """All units are priced by the tier that the whole quantity falls into."""

    type: Literal["volume"]
    tiers: list[TierDocument]


class PackageDocument(UsageDocument):
    """Units are sold in packages of `size`; one that is begun is paid whole, or not at all."""

    type: Literal["package"]
    size: DecimalText
    price: DecimalText
    rounding: Literal["up", "down"] = "up"


class PercentageDocument(UsageDocument):
    """A share of the value of each transaction, in percent, and what bounds it."""

    type: Literal["percentage"]
    percent: DecimalText
    fixed: DecimalText = _ZERO
    free_transactions: int | None = None
    free_value: DecimalText | None = None
    transaction_minimum: DecimalText = _ZERO
    transaction_maximum: DecimalText | None = None


class ReservedDocument(UsageDocument):
    """Capacity paid whether it is used or not: `committed` units of the meter in every `window`.

    `price` and `overage` are for `per` units, within what is committed and beyond it; `shortfall`
    is given back for those that were not used.
    """

    type: Literal["reserved"]
    committed: DecimalText
    window: Literal["period", "day", "hour", "quarter_hour"]
    price: DecimalText
    overage: DecimalText
    shortfall: DecimalText = _ZERO


class OutcomeDocument(HeadDocument):
    """A price for every confirmed outcome."""

    type: Literal["outcome"]
    outcome: str
    price: DecimalText


ChargeDocument: TypeAlias = Annotated[
    FlatFeeDocument
    | PerUnitDocument
    | GraduatedDocument
    | VolumeDocument
    | PackageDocument
    | PercentageDocument
    | ReservedDocument
    | OutcomeDocument,
    Field(discriminator="type"),
]


class SpendCommitmentDocument(Document):
    """An amount that several charges were promised to reach together, prorated by days."""

    key: str
    description: str
    amount: DecimalText
    charges: list[str] | None = None
    overage_factor: DecimalText = _ONE


class CouponDocument(Document):
    """Money off the sum of charges: `percent_off` or `amount_off`."""

    key: str
    description: str
    percent_off: DecimalText = _ZERO
    amount_off: DecimalText = _ZERO
    charges: list[str] | None = None


class ClassPricesDocument(Document):
    """Prices of one model, per token class; a class left out is not sold."""

    input: DecimalText | None = None
    cached_input: DecimalText | None = None
    cache_write: DecimalText | None = None
    output: DecimalText | None = None


class PriceListDocument(Document):
    """Short form of one per-unit charge per model and token class, keyed tokens/<model>/<class>."""

    per: int = 1_000_000
    models: dict[str, ClassPricesDocument]


class PoliciesDocument(Document):
    """Choices on which billing engines differ, and how requests are admitted.

    `max_exposure` is in major units of the plan's currency. `on_database_loss` left out is closed
    for prepaid plans and open for others.
    """

    zero_usage_first_flat: Literal["skip", "charge"] = "skip"
    allowance_in_volume: Literal["stays_free", "billable_once_exceeded"] = "stays_free"
    payment: Literal["postpaid", "prepaid"] = "postpaid"
    hold: Literal["worst_case", "likely"] = "worst_case"
    on_database_loss: Literal["open", "closed"] | None = None
    max_exposure: DecimalText = Decimal(100)
    on_client_left: Literal["close", "drain"] = "close"
    drain_ms: int = 30_000
    unpriced: Literal["refuse", "free"] = "refuse"
    shadow: bool = False


class PlanDocument(Document):
    """A price plan."""

    slug: str
    name: str
    currency: str
    payment_terms_days: int = 30
    policies: PoliciesDocument = PoliciesDocument()
    charges: list[ChargeDocument] = Field(default_factory=list[ChargeDocument])
    price_list: PriceListDocument | None = None
    commitments: list[SpendCommitmentDocument] = Field(
        default_factory=list[SpendCommitmentDocument]
    )
    coupons: list[CouponDocument] = Field(default_factory=list[CouponDocument])
