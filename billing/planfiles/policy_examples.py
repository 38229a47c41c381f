"""The policies on which billing engines differ, each with an example: `rating/POLICIES.md`.

Decides: what that page shows. `make examples` writes it, and a test compares it, so that what it
says of a policy is what the program does. Which policies there are is decided by the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from billing.catalog.price_plan import ProrationDays
from billing.errors import InvalidPlan
from billing.period import Period, zone
from billing.planfiles.credit_examples import section
from billing.planfiles.plan_file import read_plan
from billing.rating.line import Rating
from billing.rating.pipeline import WHOLE_PERIOD, Slice, rate
from billing.rating.proration import day_share
from billing.rating.quantity import MeteredQuantity

PAGE = Path(__file__).parents[1].joinpath("rating", "POLICIES.md")

_HEAD = """\
# Policies

Made by `make examples`; a test compares it with what the program says.

Engines disagree on these points, so that each is an attribute with a default, or fixed and said.
The attributes stand under `policies` in a plan file, those of a charge in the charge. How requests
are admitted (`payment`, `hold`, `on_database_loss`, `max_exposure`, `on_client_left`, `unpriced`)
changes no amount; what it does is in `billing/README.md`. In which order credit is drawn, and what
a request sets aside, is below.

| Policy | Attribute | Value | Example | Comes to |
|---|---|---|---|---|
"""
_JANUARY = Period(start=datetime(2027, 1, 1, tzinfo=UTC), end=datetime(2027, 2, 1, tzinfo=UTC))
_UTC = zone("UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Usage of the example's month."""

    quantity: str
    meter: str = "requests"
    before: str = "0"
    region: str = "eu"
    hour: int = 0

    def metered(self) -> MeteredQuantity:
        """The same as rating is handed it."""
        return MeteredQuantity(
            meter=self.meter,
            quantity=Decimal(self.quantity),
            before=Decimal(self.before),
            dimensions=(("region", self.region),),
            at=_JANUARY.start.replace(hour=self.hour),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyExample:
    """One value of a policy.

    Attributes:
        policy, attribute, value: as the page has them; the default is marked.
        story: what is rated, in words.
        policies, charge: what the plan file says, as YAML in one line.
        usage: of the month.
        covered: days of the month that the contract covers, first and last; None: all.
        opens: whether the usage is the period's first slice.
    """

    policy: str
    attribute: str
    value: str
    story: str
    policies: str = "{}"
    charge: str
    usage: Sequence[Usage] = ()
    covered: tuple[int, int] | None = None
    opens: bool = True


_TIERS = "tiers: [{up_to: 10, unit: 1, flat: 5}, {unit: 3}]"
_TEN = "tiers: [{up_to: 10, unit: 1}, {unit: 3}]"
_UNITS = "type: per_unit, meter: requests, price:"
_FEE = 'type: flat_fee, amount: "100.00"'
_TWICE = (Usage(quantity="8"), Usage(quantity="8", region="us", hour=1))
_BACK = (Usage(quantity="-4"),)


def examples() -> Iterator[PolicyExample]:
    """The policies in the order of the page."""
    for value in ("skip", "charge"):
        yield PolicyExample(
            policy="flat fee of the first tier without usage",
            attribute="zero_usage_first_flat",
            value=value,
            story="nothing used; the first tier has a flat fee of 5",
            policies=f"{{zero_usage_first_flat: {value}}}",
            charge=f"type: graduated, meter: requests, {_TIERS}",
        )
    for value in ("stays_free", "billable_once_exceeded"):
        yield PolicyExample(
            policy="allowance in volume prices",
            attribute="allowance_in_volume",
            value=value,
            story="51 used, 50 included, 0.10 each",
            policies=f"{{allowance_in_volume: {value}}}",
            charge='type: volume, meter: requests, included: 50, tiers: [{unit: "0.10"}]',
            usage=(Usage(quantity="51"),),
        )
    for value in ("clamp", "mirror"):
        yield PolicyExample(
            policy="quantity below zero",
            attribute="negative_usage",
            value=value,
            story="corrections of 4 beyond what was used, 2 each",
            policies=f"{{negative_usage: {value}}}",
            charge=f"{_UNITS} 2",
            usage=_BACK,
        )
    for value in ("half_open", "inclusive", "fixed_30"):
        yield PolicyExample(
            policy="days of a part of a billing period",
            attribute="proration_days",
            value=value,
            story="a fee of 100 from noon of the 15th to noon of the 31st of January",
            policies=f"{{proration_days: {value}}}",
            charge=_FEE,
            covered=(15, 31),
        )
    for value in ("next_invoice", "credit_note"):
        yield PolicyExample(
            policy="document of a correction below zero",
            attribute="correction",
            value=value,
            story="4 of the 10 that were billed at 1 are taken back",
            policies=f"{{correction: {value}}}",
            charge=f"{_UNITS} 1",
            usage=(Usage(quantity="-4", before="10"),),
            opens=False,
        )
    yield from _of_classes()
    yield from _of_charges()
    yield from _of_commitments()


def _of_classes() -> Iterator[PolicyExample]:
    for value in ("alone", "together"):
        yield PolicyExample(
            policy="what a class of token is priced by",
            attribute="coverage",
            value=value,
            story="3 output tokens at 5; input is left to another contract",
            policies=f"{{coverage: {value}}}",
            charge="type: matrix, by: [class], prices: {output: 5}",
            usage=(Usage(quantity="3", meter="tokens.output"),),
        )


def _of_charges() -> Iterator[PolicyExample]:
    tiers = f"type: graduated, meter: requests, {_TEN}"
    for value, more in (
        (_PERIOD, ""),
        ("restart: hour", ", restart: hour"),
    ):
        yield PolicyExample(
            policy="tier scope and restart",
            attribute="restart, split_by of a charge",
            value=value,
            story="8 in Europe and 8 elsewhere in the next hour; 10 at 1, then 3",
            charge=tiers + more,
            usage=_TWICE,
        )
    for quantity in ("1", "-1"):
        yield PolicyExample(
            policy="rounding",
            attribute="fixed",
            value="once per line, half up, away from zero",
            story=f"{quantity} at 1.005",
            policies="{negative_usage: mirror}",
            charge=f'{_UNITS} "1.005"',
            usage=(Usage(quantity=quantity),),
        )
    yield PolicyExample(
        policy="last tier with an end",
        attribute="fixed",
        value="refused",
        story="tiers up to 10 and up to 20",
        charge="type: graduated, meter: requests, tiers: [{up_to: 10, unit: 1},"
        " {up_to: 20, unit: 2}]",
    )
    yield PolicyExample(
        policy="bound of a tier",
        attribute="fixed",
        value="inclusive",
        story="10 used; 10 at 1, then 3",
        charge=tiers,
        usage=(Usage(quantity="10"),),
    )
    yield PolicyExample(
        policy="late usage",
        attribute="fixed",
        value="its own period, at its prices",
        story="2 more of a period in which 10 were billed; 10 at 1, then 3",
        charge=tiers,
        usage=(Usage(quantity="2", before="10"),),
        opens=False,
    )


def _of_commitments() -> Iterator[PolicyExample]:
    for factor in ("1", "1.5"):
        yield PolicyExample(
            policy="beyond a commitment",
            attribute="overage_factor of a commitment",
            value=f"{factor}",
            story="140 used at 1, 100 committed",
            charge=f'{_UNITS} 1, commitment: {{amount: 100, overage_factor: "{factor}"}}',
            usage=(Usage(quantity="140"),),
        )
    for up in ("true", "false"):
        yield PolicyExample(
            policy="short of a commitment",
            attribute="true_up of a commitment",
            value=up,
            story="60 used at 1, 100 committed",
            charge=f"{_UNITS} 1, commitment: {{amount: 100, true_up: {up}}}",
            usage=(Usage(quantity="60"),),
        )


_PERIOD = "the whole charge, every billing period"
DEFAULTS = frozenset(
    {"skip", "stays_free", "clamp", "half_open", "next_invoice", "alone", _PERIOD, "1", "true"}
)
"""Values that hold where a plan says nothing."""


def page() -> str:
    """The page."""
    return _HEAD + "".join(f"{_row(each)}\n" for each in examples()) + section()


def _row(example: PolicyExample) -> str:
    plain = example.attribute == "fixed" or " " in example.attribute
    named = example.attribute if plain else f"`{example.attribute}`"
    value = f"**{example.value}** (default)" if example.value in DEFAULTS else example.value
    return f"| {example.policy} | {named} | {value} | {example.story} | {comes_to(example)} |"


def comes_to(example: PolicyExample) -> str:
    """What an example costs, or why its plan is refused."""
    text = (
        "slug: example\nname: Example\ncurrency: USD\n"
        f"policies: {example.policies}\n"
        f"charges:\n  - {{key: k, description: K, {example.charge}}}\n"
    )
    try:
        plan = read_plan(text)
    except InvalidPlan as refused:
        return f"refused: {refused.message}"
    usage = [used.metered() for used in example.usage]
    rating = rate(plan, usage, of=_slice(example, plan.policies.proration_days))
    return f"{_total(rating)} USD"


def _slice(example: PolicyExample, days: ProrationDays) -> Slice:
    if not example.opens:
        return Slice(opens_period=False)
    if example.covered is None:
        return WHOLE_PERIOD
    first, last = example.covered
    covered = Period(
        start=_JANUARY.start.replace(day=first, hour=12),
        end=_JANUARY.start.replace(day=last, hour=12),
    )
    return Slice(share=day_share(covered, _JANUARY, _UTC, days=days), covered=covered)


def _total(rating: Rating) -> Decimal:
    minor = sum(line.amount.minor for line in rating.lines)
    return Decimal(minor).scaleb(-2)
