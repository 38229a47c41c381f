"""Terms of a contract as YAML files and as stored documents.

Decides: how terms are written down, and which line of the file an error names. What makes them
valid, and what they do to a plan, is decided by the catalog.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field

from billing.catalog.contract_terms import (
    NO_TERMS,
    ChargeOverride,
    ContractTerms,
    Phase,
    TermLayer,
)
from billing.errors import InvalidPlan
from billing.planfiles.charge_file import read_commitment, read_coupon, read_tiers
from billing.planfiles.decimal_text import AmountText, DecimalText
from billing.planfiles.plan_document import CouponDocument, SpendCommitmentDocument, TierDocument
from billing.planfiles.validation import Document, read_document
from billing.planfiles.yaml_source import (
    YamlPath,
    YamlSource,
    YamlValue,
    field_name,
    field_path,
    read_yaml,
)

_Document = TypeVar("_Document")
_Value = TypeVar("_Value")


class OverrideDocument(Document):
    """What the contract pays for a charge of its plan; what is left out is as in the plan."""

    charge: str
    price: AmountText | None = None
    tiers: list[TierDocument] = Field(default_factory=list[TierDocument])
    included: DecimalText | None = None
    discount_percent: DecimalText | None = None


class LayerDocument(Document):
    """What is agreed: prices of charges, commitments and coupons, the latter two by key."""

    overrides: list[OverrideDocument] = Field(default_factory=list[OverrideDocument])
    commitments: list[SpendCommitmentDocument] = Field(
        default_factory=list[SpendCommitmentDocument]
    )
    coupons: list[CouponDocument] = Field(default_factory=list[CouponDocument])


class PhaseDocument(LayerDocument):
    """What is agreed from a local day on, which begins a billing period, until the next phase."""

    from_: Annotated[str, Field(alias="from")]


class TermsDocument(LayerDocument):
    """What a contract agreed beside its plan."""

    phases: list[PhaseDocument] = Field(default_factory=list[PhaseDocument])


def read_terms(text: str | bytes) -> ContractTerms:
    """Read a file of terms.

    Raises:
        InvalidPlan: names the line and field of what is wrong, and what to do about it.
    """
    return _terms(read_yaml(text))


def load_terms(document: Mapping[str, Any]) -> ContractTerms:
    """The terms that `dump_terms` wrote down."""
    return _terms(YamlSource(content=cast("YamlValue", dict(document)), lines={}))


def dump_terms(terms: ContractTerms) -> dict[str, Any]:
    """Terms as a JSON-safe document, amounts as text; empty where nothing was agreed."""
    said = _dump_layer(terms.always)
    if terms.phases:
        said["phases"] = [
            {"from": phase.begins.isoformat(), **_dump_layer(phase.layer)} for phase in terms.phases
        ]
    return said


def terms_digest(terms: ContractTerms) -> str | None:
    """SHA-256 of the terms' document, in hexadecimal; None where nothing was agreed."""
    if terms == NO_TERMS:
        return None
    canonical = json.dumps(
        dump_terms(terms), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _terms(source: YamlSource) -> ContractTerms:
    document = read_document(TermsDocument, source)
    always = _layer(document, source, ())
    phases = tuple(
        Phase(
            begins=_day(phase.from_, source, ("phases", position, "from")),
            layer=_layer(phase, source, ("phases", position)),
        )
        for position, phase in enumerate(document.phases)
    )
    with _located(source, ()):
        return ContractTerms(always=always, phases=phases)


def _layer(document: LayerDocument, source: YamlSource, path: YamlPath) -> TermLayer:
    def read(
        member: str, documents: Sequence[_Document], made: Callable[[_Document], _Value]
    ) -> Iterator[_Value]:
        for position, entry in enumerate(documents):
            with _located(source, (*path, member, position)):
                yield made(entry)

    overrides = tuple(read("overrides", document.overrides, _override))
    commitments = tuple(read("commitments", document.commitments, read_commitment))
    coupons = tuple(read("coupons", document.coupons, read_coupon))
    with _located(source, path):
        return TermLayer(overrides=overrides, commitments=commitments, coupons=coupons)


def _override(document: OverrideDocument) -> ChargeOverride:
    return ChargeOverride(
        charge=document.charge,
        price=document.price,
        tiers=tuple(read_tiers(document.tiers)),
        included=document.included,
        discount_percent=document.discount_percent,
    )


def _day(text: str, source: YamlSource, path: YamlPath) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise source.refuse("not a day", path=path, remedy="write it like 2027-01-01") from None


def _dump_layer(layer: TermLayer) -> dict[str, Any]:
    document = LayerDocument.model_validate(
        {
            "overrides": [
                {
                    "charge": override.charge,
                    "price": override.price,
                    "tiers": [_members(tier) for tier in override.tiers],
                    "included": override.included,
                    "discount_percent": override.discount_percent,
                }
                for override in layer.overrides
            ],
            "commitments": [_members(entry) for entry in layer.commitments],
            "coupons": [_members(entry) for entry in layer.coupons],
        }
    )
    return document.model_dump(mode="json", exclude_defaults=True)


def _members(value: Any) -> dict[str, Any]:
    """A value's members as a document takes them: sets in order, so that digests are stable."""
    return {
        name: sorted(cast("frozenset[str]", member)) if isinstance(member, frozenset) else member
        for name in value.__dataclass_fields__
        if (member := getattr(value, name)) is not None
    }


@contextmanager
def _located(source: YamlSource, path: YamlPath) -> Generator[None]:
    """Give errors of the catalog the line and the full path of what they are about."""
    try:
        yield
    except InvalidPlan as refused:
        full = (*path, *field_path(refused.field or ""))
        raise source.refuse(
            refused.message, path=full, field=field_name(full), remedy=refused.remedy
        ) from None
