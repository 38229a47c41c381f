"""Price plans as they are written down: the fields of a plan file.

Decides: names and shapes of fields, and their defaults. What the values must satisfy is decided by
the catalog.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from billing.planfiles.decimal_text import AmountText, DecimalText
from billing.planfiles.validation import Document
from billing.planfiles.window_file import WindowDocument

_ZERO = Decimal(0)
_ONE = Decimal(1)


Where: TypeAlias = dict[str, "list[str] | OthersDocument"]


class OthersDocument(Document):
    """All values of a dimension but these: the fallback of a price by dimension."""

    others: list[str]


class CommitmentDocument(Document):
    """An amount that the charge was promised to reach in every `window`.

    With `true_up` what is missing is a line of its own, at the end of the billing period.
    """

    amount: AmountText
    window: Literal["period", "day", "hour", "quarter_hour"] = "period"
    overage_factor: DecimalText = _ONE
    true_up: bool = True


class HeadDocument(Document):
    """What every charge says: its name, and what bends its amount.

    `unit` names the pricing unit that the price is in. `maximum` and `minimum` are of a billing
    period, in the currency; the minimum is prorated by days.
    """

    key: str
    description: str
    unit: str | None = None
    discount_percent: DecimalText = _ZERO
    maximum: AmountText | None = None
    minimum: AmountText = _ZERO
    commitment: CommitmentDocument | None = None


class SelectingDocument(HeadDocument):
    """Which usage a charge is for: `meter` counts it, the rest narrows it."""

    meter: str
    models: list[str] | None = None
    where: Where = Field(default_factory=Where)
    during: str | None = None


class ValueDocument(SelectingDocument):
    """What a charge for a share of money says: the meter sums the value.

    `included` is the value of which nothing is due.
    """

    included: DecimalText = _ZERO
    split_by: list[str] = Field(default_factory=list[str])


class UsageDocument(SelectingDocument):
    """What a charge for usage says: what it counts.

    Prices are for `per` units of the meter; `round_units` makes whole ones of them. `included`
    units are free in every billing period. `split_by` counts tiers and included usage by the
    values of dimensions, `restart` by spans of time; `prorated` units of a level (seats) count for
    the days of the billing period that they last. `during` names the window of the plan in
    which the charge applies; left out, it always does.
    """

    per: int = 1
    round_units: Literal["up", "down"] | None = None
    included: DecimalText = _ZERO
    split_by: list[str] = Field(default_factory=list[str])
    restart: Literal["period", "day", "hour", "quarter_hour"] = "period"
    prorated: bool = False


class FlatFeeDocument(HeadDocument):
    """A fixed amount per billing period."""

    type: Literal["flat_fee"]
    amount: AmountText
    in_advance: bool = False


class PerUnitDocument(UsageDocument):
    """One price for every `per` units."""

    type: Literal["per_unit"]
    price: AmountText


class TierDocument(Document):
    """A stretch of quantity: up to and including `up_to`, open where it is left out."""

    up_to: DecimalText | None = None
    unit: AmountText
    flat: AmountText = _ZERO
    package: DecimalText | None = None
    cap: AmountText | None = None
    minimum: AmountText = _ZERO


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
    price: AmountText
    rounding: Literal["up", "down"] = "up"


class PercentageDocument(UsageDocument):
    """A share of the value of each transaction, in percent, and what bounds it."""

    type: Literal["percentage"]
    percent: DecimalText
    fixed: AmountText = _ZERO
    free_transactions: int | None = None
    free_value: DecimalText | None = None
    transaction_minimum: AmountText = _ZERO
    transaction_maximum: AmountText | None = None


class PercentTierDocument(Document):
    """A stretch of value: up to and including `up_to`, open where it is left out."""

    up_to: DecimalText | None = None
    percent: DecimalText
    flat: AmountText = _ZERO
    cap: AmountText | None = None
    minimum: AmountText = _ZERO


class GraduatedPercentageDocument(ValueDocument):
    """A share of a period's value, each part of it by the tier that it falls into."""

    type: Literal["graduated_percentage"]
    tiers: list[PercentTierDocument]


class ShareOfValueDocument(ValueDocument):
    """A share of a period's whole value: of what outcomes were worth, of what was sold."""

    type: Literal["share_of_value"]
    percent: DecimalText


class CostPlusDocument(ValueDocument):
    """A cost that the events carry, passed on with a markup in percent."""

    type: Literal["cost_plus"]
    markup_percent: DecimalText = _ZERO


class ReservedDocument(UsageDocument):
    """Capacity paid whether it is used or not: `committed` units of the meter in every `window`.

    `price` and `overage` are for `per` units, within what is committed and beyond it; `shortfall`
    is given back for those that were not used. These are a line of their own, at the end of the
    billing period.
    """

    type: Literal["reserved"]
    committed: DecimalText
    window: Literal["period", "day", "hour", "quarter_hour"]
    price: AmountText
    overage: AmountText
    shortfall: AmountText = _ZERO


class MatrixDocument(Document):
    """Prices by model, token class and dimensions: short form of one per-unit charge per cell.

    `by` names the axes, outermost first: `model`, `class` (of the token meters, or of those in
    `meters`) and dimensions. `prices` nests by them; a name may be several values, separated by
    commas, and `others` stands for all values of a dimension that are not listed beside it.
    """

    type: Literal["matrix"]
    key: str
    description: str
    by: list[str]
    prices: dict[str, Any]
    per: int = 1
    unit: str | None = None
    meter: str | None = None
    meters: dict[str, str] | None = None
    during: str | None = None


class OutcomeDocument(HeadDocument):
    """A price for every confirmed outcome."""

    type: Literal["outcome"]
    outcome: str
    price: AmountText


ChargeDocument: TypeAlias = Annotated[
    FlatFeeDocument
    | PerUnitDocument
    | GraduatedDocument
    | VolumeDocument
    | PackageDocument
    | PercentageDocument
    | ReservedDocument
    | GraduatedPercentageDocument
    | ShareOfValueDocument
    | CostPlusDocument
    | MatrixDocument
    | OutcomeDocument,
    Field(discriminator="type"),
]


class SpendCommitmentDocument(Document):
    """An amount that several charges were promised to reach together, prorated by days."""

    key: str
    description: str
    amount: AmountText
    charges: list[str] | None = None
    overage_factor: DecimalText = _ONE


class CouponDocument(Document):
    """Money off the sum of charges: `percent_off` or `amount_off`."""

    key: str
    description: str
    percent_off: DecimalText = _ZERO
    amount_off: AmountText = _ZERO
    charges: list[str] | None = None


class ClassPricesDocument(Document):
    """Prices of one model, per token class; a class left out is not sold."""

    input: AmountText | None = None
    cached_input: AmountText | None = None
    cache_write: AmountText | None = None
    output: AmountText | None = None


class PriceListDocument(Document):
    """Short form of one per-unit charge per model and token class, keyed tokens/<model>/<class>."""

    per: int = 1_000_000
    models: dict[str, ClassPricesDocument]


class PoliciesDocument(Document):
    """Choices on which billing engines differ, and how requests are admitted.

    `max_exposure` is in major units of the plan's currency. `on_database_loss` left out is closed
    for prepaid plans and open for others. With `coverage: together` the plans of other contracts
    may price what this one leaves out of a class of tokens.
    """

    zero_usage_first_flat: Literal["skip", "charge"] = "skip"
    allowance_in_volume: Literal["stays_free", "billable_once_exceeded"] = "stays_free"
    negative_usage: Literal["clamp", "mirror"] = "clamp"
    proration_days: Literal["half_open", "inclusive", "fixed_30"] = "half_open"
    correction: Literal["next_invoice", "credit_note"] = "next_invoice"
    coverage: Literal["alone", "together"] = "alone"
    payment: Literal["postpaid", "prepaid"] = "postpaid"
    hold: Literal["worst_case", "likely"] = "worst_case"
    on_database_loss: Literal["open", "closed"] | None = None
    max_exposure: AmountText = Decimal(100)
    on_client_left: Literal["close", "drain"] = "close"
    drain_ms: int = 30_000
    unpriced: Literal["refuse", "free"] = "refuse"
    shadow: bool = False


class PricingUnitDocument(Document):
    """What one unit, such as a credit, is worth in the plan's currency."""

    rate: AmountText


class ProgressiveDocument(Document):
    """From which amount on a running billing period is invoiced so far."""

    threshold: AmountText


class PlanDocument(Document):
    """A price plan.

    Amounts are in `currency`, or written once for it and for each of `currencies`.
    """

    slug: str
    name: str
    currency: str
    currencies: list[str] = Field(default_factory=list[str])
    payment_terms_days: int = 30
    policies: PoliciesDocument = PoliciesDocument()
    pricing_units: dict[str, PricingUnitDocument] = Field(
        default_factory=dict[str, PricingUnitDocument]
    )
    windows: dict[str, WindowDocument] = Field(default_factory=dict[str, WindowDocument])
    charges: list[ChargeDocument] = Field(default_factory=list[ChargeDocument])
    price_list: PriceListDocument | None = None
    commitments: list[SpendCommitmentDocument] = Field(
        default_factory=list[SpendCommitmentDocument]
    )
    coupons: list[CouponDocument] = Field(default_factory=list[CouponDocument])
    progressive_invoicing: ProgressiveDocument | None = None
