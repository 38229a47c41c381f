"""Price plans as YAML files and as stored documents.

Decides: how a plan is written down, which meters it may name, how a stored version is serialised
and identified. What makes a plan valid is decided by the catalog; this module adds the line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_never, cast

from billing.admission.terms import HoldSize, OnClientLeft, OnLoss, Payment, Unpriced
from billing.catalog.admission_policy import AdmissionPolicy
from billing.catalog.charge import Charge, FlatFee, Graduated, OutcomePrice, PerUnit, Tier
from billing.catalog.price_list import token_charge
from billing.catalog.price_plan import Policies, PricePlan, ZeroUsageFirstFlat
from billing.catalog.selector import BUILT_IN_METERS, Selector, is_built_in
from billing.errors import InvalidInput, InvalidPlan
from billing.metering.token_class import TokenClass
from billing.money import currency, plain
from billing.planfiles.plan_document import (
    ChargeDocument,
    FlatFeeDocument,
    GraduatedDocument,
    OutcomeDocument,
    PerUnitDocument,
    PlanDocument,
    PoliciesDocument,
    PriceListDocument,
    TierDocument,
)
from billing.planfiles.validation import read_document
from billing.planfiles.yaml_source import (
    YamlPath,
    YamlSource,
    YamlValue,
    field_name,
    field_path,
    read_yaml,
)

EXAMPLES = Path(__file__).with_name("examples")
"""Plans that work as they stand."""


def read_plan(text: str | bytes, *, known_meters: Collection[str] = ()) -> PricePlan:
    """Read a plan file.

    Args:
        text: YAML.
        known_meters: codes of declared meters, besides the built-in ones.

    Raises:
        InvalidPlan: names the line and field of what is wrong, and what to do about it.
    """
    source = read_yaml(text)
    document = read_document(PlanDocument, source)
    for position, charge in enumerate(document.charges):
        if isinstance(charge, PerUnitDocument | GraduatedDocument) and not (
            is_built_in(charge.meter) or charge.meter in known_meters
        ):
            raise source.refuse(
                "unknown meter",
                path=("charges", position, "meter"),
                remedy=f"use outcome.<slug>, {', '.join(sorted(BUILT_IN_METERS))}, or declare it",
            )
    return _plan(document, source, version=None)


def load_document(document: Mapping[str, Any], *, version: int | None = None) -> PricePlan:
    """The plan that `dump` wrote down. Its meters were known when it was stored.

    Raises:
        InvalidPlan: not such a document.
    """
    source = YamlSource(content=cast("YamlValue", dict(document)), lines={})
    return _plan(read_document(PlanDocument, source), source, version=version)


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
        "charges": [_dump_charge(charge) for charge in plan.charges],
    }


def digest(plan: PricePlan) -> str:
    """SHA-256 of the plan's document, in hexadecimal: equal plans have equal digests."""
    canonical = json.dumps(dump(plan), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def plan_schema() -> dict[str, Any]:
    """JSON Schema of plan files, for editors."""
    return PlanDocument.model_json_schema()


def _plan(document: PlanDocument, source: YamlSource, *, version: int | None) -> PricePlan:
    charges: list[Charge] = []
    origins: list[YamlPath] = []
    for position, charge in enumerate(document.charges):
        with _located(source, path := ("charges", position)):
            charges.append(_charge(charge))
        origins.append(path)
    for path, listed in _price_list(document.price_list, source):
        charges.append(listed)
        origins.append(path)
    with _located(source, ("currency",)):
        plan_currency = currency(document.currency, field="")
    with _located(source, ("policies",)):
        policies = _policies(document.policies)
    with _located(source, (), origins):
        return PricePlan(
            slug=document.slug,
            version=version,
            name=document.name,
            currency=plan_currency,
            charges=tuple(charges),
            policies=policies,
            payment_terms_days=document.payment_terms_days,
        )


def _policies(document: PoliciesDocument) -> Policies:
    loss = document.on_database_loss
    return Policies(
        zero_usage_first_flat=ZeroUsageFirstFlat(document.zero_usage_first_flat),
        admission=AdmissionPolicy(
            payment=Payment(document.payment),
            hold=HoldSize(document.hold),
            on_database_loss=None if loss is None else OnLoss(loss),
            max_exposure=document.max_exposure,
            on_client_left=OnClientLeft(document.on_client_left),
            drain_ms=document.drain_ms,
            unpriced=Unpriced(document.unpriced),
            shadow=document.shadow,
        ),
    )


def _charge(document: ChargeDocument) -> Charge:
    head = {"key": document.key, "description": document.description}
    match document:
        case FlatFeeDocument():
            return FlatFee(**head, amount=document.amount)
        case PerUnitDocument():
            return PerUnit(
                **head,
                selector=_selector(document),
                price=document.price,
                per=document.per,
                included=document.included,
            )
        case GraduatedDocument():
            return Graduated(
                **head,
                selector=_selector(document),
                tiers=tuple(_tiers(document.tiers)),
                per=document.per,
            )
        case OutcomeDocument():
            return OutcomePrice(**head, outcome=document.outcome, price=document.price)
        case _:
            assert_never(document)


def _selector(document: PerUnitDocument | GraduatedDocument) -> Selector:
    models = None if document.models is None else frozenset(document.models)
    return Selector(meter=document.meter, models=models)


def _tiers(documents: list[TierDocument]) -> Iterator[Tier]:
    for position, tier in enumerate(documents):
        try:
            yield Tier(up_to=tier.up_to, unit=tier.unit, flat=tier.flat)
        except InvalidPlan as refused:
            field = f"tiers[{position}].{refused.field}"
            raise InvalidPlan(refused.message, field=field, remedy=refused.remedy) from None


def _price_list(
    document: PriceListDocument | None, source: YamlSource
) -> Iterator[tuple[YamlPath, PerUnit]]:
    if document is None:
        return
    for model, prices in document.models.items():
        path: YamlPath = ("price_list", "models", model)
        sold = [
            (token_class, price)
            for token_class in TokenClass
            if (price := cast("Decimal | None", getattr(prices, token_class.value))) is not None
        ]
        if not sold:
            raise source.refuse("a model without prices", path=path, remedy="price input or output")
        for token_class, price in sold:
            try:
                yield (
                    (*path, token_class.value),
                    token_charge(model, token_class, price, per=document.per),
                )
            except InvalidPlan as refused:
                at = {"per": ("price_list", "per"), "price": (*path, token_class.value)}
                raise source.refuse(
                    refused.message, path=at.get(refused.field or "", path), remedy=refused.remedy
                ) from None


@contextmanager
def _located(
    source: YamlSource, path: YamlPath, origins: list[YamlPath] | None = None
) -> Generator[None]:
    """Give errors of the catalog the line and the full path of what they are about.

    Args:
        source: the file.
        path: where the value being built stands; the catalog's field is below it.
        origins: for the plan as a whole, where each of its charges was written.
    """
    try:
        yield
    except InvalidInput as refused:
        below = field_path(refused.field or "")
        full = (*path, *below)
        if origins and len(full) > 1 and full[0] == "charges":
            full = (*origins[cast("int", full[1])], *full[2:])
        raise source.refuse(
            refused.message, path=full, field=field_name(full), remedy=refused.remedy
        ) from None


def _dump_policies(policies: Policies) -> dict[str, Any]:
    admission = policies.admission
    document = PoliciesDocument.model_validate(
        {
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


def _dump_charge(charge: Charge) -> dict[str, Any]:
    head: dict[str, Any] = {"key": charge.key, "description": charge.description}
    match charge:
        case FlatFee():
            return {"type": "flat_fee", **head, "amount": plain(charge.amount)}
        case PerUnit():
            return {
                "type": "per_unit",
                **head,
                **_dump_selector(charge.selector),
                "price": plain(charge.price),
                "per": charge.per,
                "included": plain(charge.included),
            }
        case Graduated():
            return {
                "type": "graduated",
                **head,
                **_dump_selector(charge.selector),
                "per": charge.per,
                "tiers": [_dump_tier(tier) for tier in charge.tiers],
            }
        case OutcomePrice():
            return {
                "type": "outcome",
                **head,
                "outcome": charge.outcome,
                "price": plain(charge.price),
            }
        case _:
            assert_never(charge)


def _dump_selector(selector: Selector) -> dict[str, Any]:
    models = None if selector.models is None else sorted(selector.models)
    return {"meter": selector.meter, "models": models}


def _dump_tier(tier: Tier) -> dict[str, str | None]:
    up_to = None if tier.up_to is None else plain(tier.up_to)
    return {"up_to": up_to, "unit": plain(tier.unit), "flat": plain(tier.flat)}
