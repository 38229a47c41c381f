"""Price plans as YAML files and as stored documents.

Decides: how a plan is written down, which meters it may name, how a file of several currencies
becomes one plan of each. What makes a plan valid is decided by the catalog; this module and
`plan_reading` add the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from billing.catalog.price_plan import PricePlan
from billing.errors import InvalidInput, InvalidPlan
from billing.planfiles.plan_document import PlanDocument
from billing.planfiles.plan_reading import KnownMeters, Reading
from billing.planfiles.validation import read_document, validated
from billing.planfiles.yaml_source import YamlSource, YamlValue, read_yaml

EXAMPLES = Path(__file__).with_name("examples")
"""Plans that work as they stand."""

CURRENCIES_MAX = 20
"""Most currencies of one file."""


def read_plan(
    text: str | bytes,
    *,
    meters: KnownMeters | None = None,
) -> PricePlan:
    """Read a plan file; one of several currencies in its first.

    Args:
        text: YAML.
        meters: declared ones by code, besides the built-in ones.

    Raises:
        InvalidPlan: names the line and field of what is wrong, and what to do about it.
    """
    return require_price_books(text, meters=meters)[0]


def require_price_books(
    text: str | bytes, *, meters: KnownMeters | None = None
) -> tuple[PricePlan, ...]:
    """A plan file as one plan for each currency; see `read_price_books`.

    Raises:
        InvalidPlan: the first thing that is wrong with it.
    """
    plans, refusals = read_price_books(text, meters=meters)
    if refusals:
        raise refusals[0]
    return plans


def book_of(plans: Sequence[PricePlan], code: str | None) -> PricePlan:
    """Of a file's plans the one in a currency; the first, if none is named.

    Raises:
        InvalidInput: the file has no prices in this currency.
    """
    if code is None:
        return plans[0]
    for plan in plans:
        if plan.currency.code == code:
            return plan
    codes = " or ".join(plan.currency.code for plan in plans)
    raise InvalidInput("the plan has no such currency", field="currency", remedy=f"use {codes}")


def read_price_books(
    text: str | bytes,
    *,
    meters: KnownMeters | None = None,
) -> tuple[tuple[PricePlan, ...], tuple[InvalidPlan, ...]]:
    """A plan file as one plan for each currency, or everything that is wrong with it.

    The plan of `currency` has the file's slug; the slug of another ends in its code, like
    `inference-eur`. A contract names one of them, and each has versions of its own.

    Returns:
        The plans and no refusals, or no plans and the refusals in the order of the file.
    """
    try:
        source = read_yaml(text)
    except InvalidPlan as refused:
        return (), (refused,)
    plans: list[PricePlan] = []
    codes = _codes(source)
    for position, code in enumerate(codes):
        # In a file that names one twice, that is what is refused, when the first has been read.
        others = [other for other in codes if other != code]
        document = validated(PlanDocument, source, currencies=(code, *others))
        if isinstance(document, tuple):
            return (), document
        if repeated := _repeated(document, source):
            return (), (repeated,)
        slug, at = document.slug, ("currency",)
        if position:
            slug, at = f"{slug}-{code.lower()}", ("currencies", position - 1)
        reading = Reading(
            source=source,
            code=code,
            other_codes=tuple(others),
            code_at=at,
            slug=slug,
            known=meters or {},
        )
        plan = reading.plan(document)
        if plan is None:
            return (), tuple(sorted(reading.refusals, key=lambda refusal: refusal.line or 0))
        plans.append(plan)
    return tuple(plans), ()


def load_document(document: Mapping[str, Any], *, version: int | None = None) -> PricePlan:
    """The plan that `dump` wrote down. Its meters were known when it was stored.

    Raises:
        InvalidPlan: not such a document.
    """
    source = YamlSource(content=cast("YamlValue", dict(document)), lines={})
    written = read_document(PlanDocument, source)
    reading = Reading(source=source, code=written.currency, slug=written.slug, known=None)
    plan = reading.plan(written, version=version)
    if plan is None:
        raise reading.refusals[0]
    return plan


def plan_schema() -> dict[str, Any]:
    """JSON Schema of plan files, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PlanDocument.model_json_schema(),
    }


def _codes(source: YamlSource) -> list[str]:
    """The currencies that the file names, first the plan's own, before anything is validated."""
    content = source.content
    if not isinstance(content, dict):
        return [""]
    others = content.get("currencies")
    named = [content.get("currency"), *(others if isinstance(others, list) else [])]
    return [code if isinstance(code, str) else "" for code in named][: CURRENCIES_MAX + 1]


def _repeated(document: PlanDocument, source: YamlSource) -> InvalidPlan | None:
    for position, code in enumerate(document.currencies):
        if code == document.currency or code in document.currencies[:position]:
            return source.refuse(
                "a currency is named twice",
                path=("currencies", position),
                remedy="name each once; the plan's own is not repeated",
            )
    if len(document.currencies) > CURRENCIES_MAX:
        return source.refuse(
            "too many currencies", path=("currencies",), remedy=f"at most {CURRENCIES_MAX}"
        )
    return None
