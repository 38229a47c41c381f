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


class FlatFeeDocument(Document):
    """A fixed amount per billing period."""

    type: Literal["flat_fee"]
    key: str
    description: str
    amount: DecimalText


class PerUnitDocument(Document):
    """One price for every unit. `price` is for `per` units; `included` units are free."""

    type: Literal["per_unit"]
    key: str
    description: str
    meter: str
    models: list[str] | None = None
    price: DecimalText
    per: int = 1
    included: DecimalText = _ZERO


class TierDocument(Document):
    """A stretch of quantity: up to and including `up_to`, open where it is left out."""

    up_to: DecimalText | None = None
    unit: DecimalText
    flat: DecimalText = _ZERO


class GraduatedDocument(Document):
    """Each unit is priced by the tier that it falls into. `unit` prices are for `per` units."""

    type: Literal["graduated"]
    key: str
    description: str
    meter: str
    models: list[str] | None = None
    per: int = 1
    tiers: list[TierDocument]


class OutcomeDocument(Document):
    """A price for every confirmed outcome."""

    type: Literal["outcome"]
    key: str
    description: str
    outcome: str
    price: DecimalText


ChargeDocument: TypeAlias = Annotated[
    FlatFeeDocument | PerUnitDocument | GraduatedDocument | OutcomeDocument,
    Field(discriminator="type"),
]


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
