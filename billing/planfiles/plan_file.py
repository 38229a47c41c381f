"""Price plans as YAML files and as stored documents.

Decides: how a plan is written down, which meters it may name, how a stored version is serialised
and identified. What makes a plan valid is decided by the catalog; this module adds the line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, cast

from billing.admission.terms import HoldSize, OnClientLeft, OnLoss, Payment, Unpriced
from billing.catalog.admission_policy import AdmissionPolicy
from billing.catalog.charge import Charge
from billing.catalog.price_list import token_charge
from billing.catalog.price_plan import (
    AllowanceInVolume,
    Policies,
    PricePlan,
    ZeroUsageFirstFlat,
)
from billing.catalog.selector import BUILT_IN_METERS, is_built_in
from billing.errors import InvalidInput, InvalidPlan
from billing.metering.token_class import TokenClass
from billing.money import currency
from billing.planfiles.charge_file import read_charge, read_commitment, read_coupon
from billing.planfiles.plan_document import (
    PlanDocument,
    PoliciesDocument,
    PriceListDocument,
    UsageDocument,
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

_Document = TypeVar("_Document")
_Value = TypeVar("_Value")


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
        if isinstance(charge, UsageDocument) and not (
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


def plan_schema() -> dict[str, Any]:
    """JSON Schema of plan files, for editors."""
    return PlanDocument.model_json_schema()


def _plan(document: PlanDocument, source: YamlSource, *, version: int | None) -> PricePlan:
    charges: list[Charge] = []
    origins: list[YamlPath] = []
    for position, charge in enumerate(document.charges):
        with _located(source, path := ("charges", position)):
            charges.append(read_charge(charge))
        origins.append(path)
    for path, listed in _price_list(document.price_list, source):
        charges.append(listed)
        origins.append(path)
    with _located(source, ("currency",)):
        plan_currency = currency(document.currency, field="")
    with _located(source, ("policies",)):
        policies = _policies(document.policies)
    commitments = tuple(_written(source, "commitments", document.commitments, read_commitment))
    coupons = tuple(_written(source, "coupons", document.coupons, read_coupon))
    with _located(source, (), origins):
        return PricePlan(
            slug=document.slug,
            version=version,
            name=document.name,
            currency=plan_currency,
            charges=tuple(charges),
            policies=policies,
            payment_terms_days=document.payment_terms_days,
            commitments=commitments,
            coupons=coupons,
        )


def _written(
    source: YamlSource,
    member: str,
    documents: Sequence[_Document],
    read: Callable[[_Document], _Value],
) -> Iterator[_Value]:
    for position, document in enumerate(documents):
        with _located(source, (member, position)):
            yield read(document)


def _policies(document: PoliciesDocument) -> Policies:
    loss = document.on_database_loss
    return Policies(
        zero_usage_first_flat=ZeroUsageFirstFlat(document.zero_usage_first_flat),
        allowance_in_volume=AllowanceInVolume(document.allowance_in_volume),
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


def _price_list(
    document: PriceListDocument | None, source: YamlSource
) -> Iterator[tuple[YamlPath, Charge]]:
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
