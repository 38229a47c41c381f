"""From a plan's document to the catalog's plan, with everything that is wrong on the way.

Decides: where each refused value stands, and what a written plan must have beyond what makes any
plan valid: meters and dimensions that exist, windows that are used, input with its output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, cast

from billing.admission.terms import HoldSize, OnClientLeft, OnLoss, Payment, Unpriced
from billing.catalog.adjustment import require_charges
from billing.catalog.admission_policy import AdmissionPolicy
from billing.catalog.charge import Charge
from billing.catalog.price_list import token_charge
from billing.catalog.price_plan import (
    AllowanceInVolume,
    CorrectionBy,
    Coverage,
    NegativeUsage,
    Policies,
    PricePlan,
    ProrationDays,
    ZeroUsageFirstFlat,
    prices_model,
)
from billing.catalog.pricing_unit import PricingUnit
from billing.catalog.progressive import ProgressiveInvoicing
from billing.catalog.selector import BUILT_IN_METERS
from billing.catalog.window import Window
from billing.errors import InvalidInput, InvalidPlan
from billing.metering.token_class import TokenClass
from billing.money import currency
from billing.planfiles.charge_file import (
    read_charge,
    read_commitment,
    read_coupon,
    require_whole_units,
    unit_of,
    window_of,
)
from billing.planfiles.matrix_file import Place, expand_matrix
from billing.planfiles.plan_document import (
    MatrixDocument,
    PlanDocument,
    PoliciesDocument,
    PriceListDocument,
    SelectingDocument,
)
from billing.planfiles.window_file import read_windows
from billing.planfiles.yaml_source import YamlPath, YamlSource, field_name, field_path
from billing.rating.meter_fit import DeclaredMeter, built_in, misfit
from billing.rating.unpriced_values import unpriced_values

_Document = TypeVar("_Document")
_Value = TypeVar("_Value")


KnownMeters: TypeAlias = Mapping[str, DeclaredMeter]
"""Meters that a plan may refer to besides the built-in ones, by code."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """A plan being read.

    Attributes:
        source: the file.
        code, code_at: currency in which it is read, and where the file names it.
        other_codes: currencies in which the file is read besides.
        slug: of the plan in that currency.
        known: what it may refer to; None for a stored plan, which was checked when it was written.
        refusals: what is wrong so far.
    """

    source: YamlSource
    code: str
    code_at: YamlPath = ("currency",)
    other_codes: tuple[str, ...] = ()
    slug: str
    known: KnownMeters | None
    refusals: list[InvalidPlan] = field(default_factory=list[InvalidPlan])
    charges: list[Charge] = field(default_factory=list[Charge])
    origins: list[YamlPath] = field(default_factory=list[YamlPath])

    def plan(self, document: PlanDocument, *, version: int | None = None) -> PricePlan | None:
        """The plan; None where something is refused."""
        money = self._attempt(self.code_at, lambda: currency(self.code, field=""))
        policies = self._attempt(("policies",), lambda: _policies(document.policies))
        windows = self._attempt(("windows",), lambda: read_windows(document.windows))
        units = dict(self._units(document))
        self._read_charges(document, windows or {}, units)
        commitments = tuple(self._written("commitments", document.commitments, read_commitment))
        coupons = tuple(self._written("coupons", document.coupons, read_coupon))
        if self.refusals or money is None or policies is None:
            return None
        progressive = document.progressive_invoicing
        plan = self._attempt(
            (),
            lambda: PricePlan(
                slug=self.slug,
                version=version,
                name=document.name,
                currency=money,
                charges=tuple(self.charges),
                policies=policies,
                payment_terms_days=document.payment_terms_days,
                commitments=commitments,
                coupons=coupons,
                progressive=progressive and ProgressiveInvoicing(threshold=progressive.threshold),
            ),
            whole=True,
        )
        if plan is not None and self.known is not None:
            self._require_use(document, plan)
        return None if self.refusals else plan

    def _units(self, document: PlanDocument) -> Iterator[tuple[str, PricingUnit]]:
        for name, written in document.pricing_units.items():
            with self._located(("pricing_units", name)):
                yield name, PricingUnit(name=name, rate=written.rate)

    def _read_charges(
        self,
        document: PlanDocument,
        windows: Mapping[str, Window],
        units: Mapping[str, PricingUnit],
    ) -> None:
        for position, written in enumerate(document.charges):
            path: YamlPath = ("charges", position)
            during = None
            if isinstance(written, SelectingDocument | MatrixDocument):
                during = written.during
            if _is_refused(during, document.windows, windows) or _is_refused(
                written.unit, document.pricing_units, units
            ):
                continue  # that it is not there would be told beside why it is not
            with self._located(path):
                if isinstance(written, MatrixDocument):
                    unit, window = unit_of(written.unit, units), window_of(written.during, windows)
                    alone = document.policies.coverage == Coverage.ALONE
                    place = Place(
                        source=self.source,
                        path=path,
                        currencies=(self.code, *self.other_codes),
                        alone=alone,
                    )
                    for origin, cell in expand_matrix(written, window, unit, place):
                        self._add(cell, origin, meter_at=origin, where_at=(*path, "by"))
                else:
                    charge = read_charge(written, windows, units)
                    if self.known is not None:
                        # A stored plan is rated as it was sold.
                        require_whole_units(written)
                    where_at = (*path, "where")
                    self._add(charge, path, meter_at=(*path, "meter"), where_at=where_at)
        if document.price_list is not None:
            self._read_price_list(document.price_list)

    def _add(
        self, charge: Charge, origin: YamlPath, *, meter_at: YamlPath, where_at: YamlPath
    ) -> None:
        self.charges.append(charge)
        self.origins.append(origin)
        if self.known is None or (selector := charge.selector) is None:
            return
        declared = self.known.get(selector.meter) or built_in(selector.meter)
        if declared is None:
            raise self.source.refuse(
                "unknown meter",
                path=meter_at,
                remedy=f"use outcome.<slug>, {', '.join(sorted(BUILT_IN_METERS))}, or declare it",
            )
        if (found := misfit(charge, declared)) is not None:
            at = {"where": where_at, "meter": meter_at}
            path = at.get(found.member, (*origin, *field_path(found.member)))
            raise self.source.refuse(found.message, path=path, remedy=found.remedy)

    def _read_price_list(self, document: PriceListDocument) -> None:
        for model, prices in document.models.items():
            path: YamlPath = ("price_list", "models", model)
            sold = {
                token_class: price
                for token_class in TokenClass
                if (price := getattr(prices, token_class.value)) is not None
            }
            if not sold:
                self.refusals.append(
                    self.source.refuse(
                        "a model without prices", path=path, remedy="price input or output"
                    )
                )
            for token_class, price in sold.items():
                origin = (*path, token_class.value)
                try:
                    charge = token_charge(model, token_class, price, per=document.per)
                except InvalidPlan as refused:
                    at = {"per": ("price_list", "per"), "price": origin}
                    self._refuse(refused, at.get(refused.field or "", path))
                    break
                self.charges.append(charge)
                self.origins.append(origin)

    def _require_use(self, document: PlanDocument, plan: PricePlan) -> None:
        """Refuse what a plan says without effect, or sells so that it cannot be billed whole."""
        used = {
            charge.selector.window.name
            for charge in plan.charges
            if charge.selector is not None and charge.selector.window is not None
        }
        priced_in = {charge.pricing_unit.name for charge in plan.charges if charge.pricing_unit}
        for name in document.pricing_units:
            if name not in priced_in:
                self.refusals.append(
                    self.source.refuse(
                        "no charge is priced in this unit",
                        path=("pricing_units", name),
                        remedy="name it in a charge with unit, or remove it",
                    )
                )
        referred = {each.rest_of for each in document.windows.values()}
        for name in document.windows:
            if name not in used | referred:
                self.refusals.append(
                    self.source.refuse(
                        "no charge is for this window",
                        path=("windows", name),
                        remedy="name it in a charge with during, or remove it",
                    )
                )
        for member, entries in {"commitments": plan.commitments, "coupons": plan.coupons}.items():
            for position, entry in enumerate(entries):
                with self._located((member, position)):
                    require_charges(entry)
        if plan.policies.coverage is Coverage.ALONE:
            self._require_whole_classes(document, plan)

    def _require_whole_classes(self, document: PlanDocument, plan: PricePlan) -> None:
        """Refuse what leaves bands, tiers or the input of what it sells to other contracts."""
        for found in unpriced_values(plan.charges, self.known or {}):
            path = self.origins[found.positions[0]]
            remedy = f"{found.remedy}; or leave it to other contracts with coverage: together"
            self.refusals.append(self.source.refuse(found.message, path=path, remedy=remedy))
        models = {} if document.price_list is None else document.price_list.models
        for model, prices in models.items():
            if prices.output is not None and TokenClass.INPUT not in prices_model(plan, model):
                self.refusals.append(
                    self.source.refuse(
                        "output is sold here and input is not",
                        path=("price_list", "models", model, "output"),
                        remedy="give input a price too",
                    )
                )

    def _written(
        self, member: str, documents: Sequence[_Document], read: Callable[[_Document], _Value]
    ) -> Iterator[_Value]:
        for position, document in enumerate(documents):
            with self._located((member, position)):
                yield read(document)

    def _attempt(
        self, path: YamlPath, make: Callable[[], _Value], *, whole: bool = False
    ) -> _Value | None:
        with self._located(path, whole=whole):
            return make()
        return None

    @contextmanager
    def _located(self, path: YamlPath, *, whole: bool = False) -> Generator[None]:
        """Note errors with the line and the full path of what they are about.

        Args:
            path: where the value being made stands; the catalog's field is below it.
            whole: the value is the plan, whose charges stand where they were written.
        """
        try:
            yield
        except InvalidInput as refused:
            if isinstance(refused, InvalidPlan) and refused.line is not None:
                self.refusals.append(refused)
                return
            full = (*path, *field_path(refused.field or ""))
            if whole and len(full) > 1 and full[0] == "charges":
                full = (*self.origins[cast("int", full[1])], *full[2:])
            self._refuse(refused, full)

    def _refuse(self, refused: InvalidInput, path: YamlPath) -> None:
        self.refusals.append(
            self.source.refuse(
                refused.message, path=path, field=field_name(path), remedy=refused.remedy
            )
        )


def _is_refused(name: str | None, written: Collection[str], made: Collection[str]) -> bool:
    return name is not None and name in written and name not in made


def _policies(document: PoliciesDocument) -> Policies:
    loss = document.on_database_loss
    return Policies(
        zero_usage_first_flat=ZeroUsageFirstFlat(document.zero_usage_first_flat),
        allowance_in_volume=AllowanceInVolume(document.allowance_in_volume),
        negative_usage=NegativeUsage(document.negative_usage),
        proration_days=ProrationDays(document.proration_days),
        correction=CorrectionBy(document.correction),
        coverage=Coverage(document.coverage),
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
