"""Price plans: a named, versioned set of charges in one currency.

Decides: what makes a plan valid as a whole (keys once, no quantity priced twice) and which token
classes of a model it prices. Decides nothing about tenants or dates: that is the contract.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from billing.catalog.adjustment import Coupon, SpendCommitment
from billing.catalog.admission_policy import AdmissionPolicy
from billing.catalog.charge import Charge, find_overlaps
from billing.catalog.pricing_unit import PricingUnit
from billing.catalog.progressive import ProgressiveInvoicing
from billing.catalog.selector import require_slug
from billing.catalog.window import Window
from billing.errors import InvalidPlan
from billing.metering.token_class import TokenClass
from billing.money import Currency

CHARGES_MAX = 1000
"""Most charges of one plan."""

PAYMENT_TERMS_DAYS_MAX = 365

LINE_SUFFIXES = frozenset({"shortfall", "maximum", "minimum", "true_up", "overage"})
"""Behind a colon, what the lines beside a charge's own add to its key."""


class ZeroUsageFirstFlat(StrEnum):
    """Whether a graduated charge's first flat fee is due when nothing was used."""

    SKIP = "skip"
    CHARGE = "charge"


class AllowanceInVolume(StrEnum):
    """What becomes of included usage under volume prices once it is used up."""

    STAYS_FREE = "stays_free"
    BILLABLE_ONCE_EXCEEDED = "billable_once_exceeded"


class NegativeUsage(StrEnum):
    """What a quantity below zero costs, where corrections exceed a period's usage."""

    CLAMP = "clamp"
    """Nothing: a period's quantity is never below zero."""
    MIRROR = "mirror"
    """What the same quantity above zero costs is given back."""


class ProrationDays(StrEnum):
    """Which days of a billing period a contract covers."""

    HALF_OPEN = "half_open"
    """Those whose local midnight lies in its span: adjoining contracts share no day."""
    INCLUSIVE = "inclusive"
    """Those on which it begins and ends too."""
    FIXED_30 = "fixed_30"
    """Every month has 30 days; the 31st is the 30th."""


class CorrectionBy(StrEnum):
    """How a period that was invoiced is corrected where it cost too much."""

    NEXT_INVOICE = "next_invoice"
    """By a line on the next invoice; by a credit note if that would turn negative."""
    CREDIT_NOTE = "credit_note"
    """By a credit note beside the next invoice."""


class Coverage(StrEnum):
    """Over what is judged whether every class of token that is sold can be priced whole."""

    ALONE = "alone"
    """This plan: it prices all bands, service tiers and inputs of what it sells."""
    TOGETHER = "together"
    """All contracts in force beside one on this plan: others price what it leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Choices on which billing engines differ, so that a plan states its own (D13).

    Attributes:
        zero_usage_first_flat: whether unused tiers cost their first flat fee.
        allowance_in_volume: whether included usage stays free once more than it is used.
        negative_usage: what a period costs whose quantity is below zero.
        proration_days: how the days of a part of a billing period are counted.
        correction: on which document a correction below zero is.
        coverage: whether other contracts may price what this plan leaves out of a class.
        admission: how requests are admitted; it changes no amount.
    """

    zero_usage_first_flat: ZeroUsageFirstFlat = ZeroUsageFirstFlat.SKIP
    allowance_in_volume: AllowanceInVolume = AllowanceInVolume.STAYS_FREE
    negative_usage: NegativeUsage = NegativeUsage.CLAMP
    proration_days: ProrationDays = ProrationDays.HALF_OPEN
    correction: CorrectionBy = CorrectionBy.NEXT_INVOICE
    coverage: Coverage = Coverage.ALONE
    admission: AdmissionPolicy = field(default_factory=AdmissionPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class PricePlan:
    """One version of a price plan.

    Attributes:
        slug: stable name of the plan.
        version: number of the stored version; None while the plan is only a file.
        name: what tenants read.
        currency: of every price in it.
        charges: in the order in which an invoice shows them.
        policies: choices of the plan.
        payment_terms_days: days from issue to due.
        commitments: what several charges were promised to reach together; a charge counts
            towards one of them at most.
        coupons: money off, after commitments, in this order.
        progressive: when a running billing period is invoiced so far; None: at its end only.

    Raises:
        InvalidPlan: `field` is a path like `charges[2].key`.
    """

    slug: str
    version: int | None = None
    name: str
    currency: Currency
    charges: tuple[Charge, ...]
    policies: Policies = Policies()
    payment_terms_days: int = 30
    commitments: tuple[SpendCommitment, ...] = ()
    coupons: tuple[Coupon, ...] = ()
    progressive: ProgressiveInvoicing | None = None

    def __post_init__(self) -> None:
        require_slug(self.slug, field="slug")
        if not self.name.strip() or len(self.name) > 200 or not self.name.isprintable():
            raise InvalidPlan(
                "empty, overlong or unprintable text",
                field="name",
                remedy="use 1 to 200 printable characters",
            )
        if not 0 <= self.payment_terms_days <= PAYMENT_TERMS_DAYS_MAX:
            raise InvalidPlan(
                "payment terms out of range",
                field="payment_terms_days",
                remedy=f"0 to {PAYMENT_TERMS_DAYS_MAX} days",
            )
        self._require_charges()

    def _require_charges(self) -> None:
        if not self.charges:
            raise InvalidPlan("a plan without charges", field="charges", remedy="add a charge")
        if len(self.charges) > CHARGES_MAX:
            raise InvalidPlan("too many charges", field="charges", remedy=f"at most {CHARGES_MAX}")
        self._require_keys()
        self._require_one_promise()
        self._require_windows()
        self._require_units()
        for overlap in find_overlaps(self.charges):
            raise InvalidPlan(
                "two charges price the same usage",
                field=f"charges[{overlap.second}]",
                remedy=f"narrow this charge or {self.charges[overlap.first].key}",
            )

    def _require_one_promise(self) -> None:
        """Usage that counted towards two promises would keep both of them with one payment."""
        counting: set[str] = set()
        every = frozenset(charge.key for charge in self.charges)
        for position, promised in enumerate(self.commitments):
            of = every if promised.charges is None else promised.charges
            if twice := counting & of:
                raise InvalidPlan(
                    f"{min(twice)} counts towards two commitments",
                    field=f"commitments[{position}].charges",
                    remedy="name each charge in one of them",
                )
            counting |= of

    def _require_windows(self) -> None:
        """A window is known by its name, so one name is one window."""
        windows: dict[str, Window] = {}
        for position, charge in enumerate(self.charges):
            window = None if charge.selector is None else charge.selector.window
            if window is not None and windows.setdefault(window.name, window) != window:
                raise InvalidPlan(
                    "two windows have the same name",
                    field=f"charges[{position}].during",
                    remedy="give each window a name of its own",
                )

    def _require_units(self) -> None:
        units: dict[str, PricingUnit] = {}
        for position, charge in enumerate(self.charges):
            unit = charge.pricing_unit
            if unit is not None and units.setdefault(unit.name, unit) != unit:
                raise InvalidPlan(
                    "two pricing units have the same name",
                    field=f"charges[{position}].unit",
                    remedy="give each a name of its own",
                )

    def _require_keys(self) -> None:
        """Every line of an invoice has a key of its own, so everything that makes one does."""
        seen: set[str] = set()
        together = {"commitments": self.commitments, "coupons": self.coupons}
        for member, entries in {"charges": self.charges, **together}.items():
            for position, entry in enumerate(entries):
                _, colon, suffix = entry.key.rpartition(":")
                if entry.key in seen or (colon and suffix in LINE_SUFFIXES):
                    raise InvalidPlan(
                        "two lines would have the same key",
                        field=f"{member}[{position}].key",
                        remedy="give every charge, commitment and coupon its own key",
                    )
                seen.add(entry.key)
        known = {charge.key for charge in self.charges}
        for member, entries in together.items():
            for position, entry in enumerate(entries):
                if unknown := (entry.charges or frozenset()) - known:
                    raise InvalidPlan(
                        "no such charge",
                        field=f"{member}[{position}].charges",
                        remedy=f"name charges of this plan, not {min(unknown)}",
                    )


def prices_model(plan: PricePlan, model: str) -> frozenset[TokenClass]:
    """The token classes of a model that the plan prices."""
    selectors = [charge.selector for charge in plan.charges if charge.selector is not None]
    return frozenset(
        token_class
        for token_class in TokenClass
        if any(selector.selects(token_class.meter, model) for selector in selectors)
    )
