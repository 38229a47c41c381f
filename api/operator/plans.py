"""Price plans: apply a YAML file as a version, read versions back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Controller, get, post

from api.auth import OPERATOR_ONLY, SECURITY, CallingKey
from api.bodies import YamlFile, YamlOperation
from api.deployment import DeploymentInUse
from api.fields import IdPath, SlugPath
from billing.catalog.price_plan import PricePlan
from billing.operations.catalog.approve_plan import approve_plan, record_application
from billing.operations.catalog.plans import apply_price_books, list_plans, require_plan
from billing.planfiles.plan_dump import dump


class PlanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A plan version without its charges."""

    slug: str
    version: int | None
    name: str
    currency: str


class PlanVersion(PlanSummary, frozen=True, kw_only=True):
    """A plan version; its parts have the members of a plan file, and may be empty."""

    payment_terms_days: int
    policies: dict[str, str | int | bool]
    charges: list[dict[str, Any]]
    commitments: list[dict[str, Any]] = []
    coupons: list[dict[str, Any]] = []
    windows: dict[str, dict[str, Any]] = {}
    pricing_units: dict[str, dict[str, Any]] = {}
    progressive_invoicing: dict[str, Any] | None = None


class AppliedPlan(PlanVersion, frozen=True, kw_only=True):
    """What became of a plan file; `created` is false if it equals the newest version.

    `books` are the plans of a file's other currencies, each with versions of its own.
    """

    created: bool
    books: list[PlanSummary]


class ApprovedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan version that contracts may bind where approval is required."""

    slug: str
    version: int
    approved_at: datetime


class PlanController(Controller):
    """Price plans of this deployment."""

    path = "/operator/plans"
    tags = ("Operator: catalog",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY

    @get(operation_id="operator_list_plans", summary="List plan versions", sync_to_thread=True)
    def plans(self, deployment: DeploymentInUse) -> list[PlanSummary]:
        with deployment.as_operator() as transaction:
            return [PlanSummary(**_head(plan)) for plan in list_plans(transaction)]

    @post(
        operation_id="operator_apply_plan",
        summary="Apply a plan file (YAML) as the next version of its plan",
        status_code=200,
        operation_class=YamlOperation,
        sync_to_thread=True,
    )
    def apply(
        self, deployment: DeploymentInUse, caller: CallingKey, yaml_file: YamlFile
    ) -> AppliedPlan:
        now = deployment.now()
        with deployment.as_operator() as transaction:
            applied, *books = apply_price_books(transaction, yaml_file, now=now)
            for each in (applied, *books):
                if each.created:
                    record_application(
                        transaction,
                        slug=each.plan.slug,
                        version=each.plan.version,
                        caller=caller,
                        now=now,
                    )
        return AppliedPlan(
            **_members(applied.plan),
            created=applied.created,
            books=[PlanSummary(**_head(book.plan)) for book in books],
        )

    @get(
        "/{plan:str}",
        operation_id="operator_show_plan",
        summary="Show the newest version of a plan",
        sync_to_thread=True,
    )
    def plan(self, deployment: DeploymentInUse, plan: SlugPath) -> PlanVersion:
        with deployment.as_operator() as transaction:
            return PlanVersion(**_members(require_plan(transaction, plan)))

    @get(
        "/{plan:str}/{version:int}",
        operation_id="operator_show_plan_version",
        summary="Show one version of a plan",
        sync_to_thread=True,
    )
    def version(self, deployment: DeploymentInUse, plan: SlugPath, version: IdPath) -> PlanVersion:
        with deployment.as_operator() as transaction:
            return PlanVersion(**_members(require_plan(transaction, plan, version)))

    @post(
        "/{plan:str}/{version:int}/approve",
        operation_id="operator_approve_plan",
        summary="Approve a plan version that another key applied",
        status_code=200,
        sync_to_thread=True,
    )
    def approve(
        self, deployment: DeploymentInUse, caller: CallingKey, plan: SlugPath, version: IdPath
    ) -> ApprovedPlan:
        with deployment.as_operator() as transaction:
            done = approve_plan(
                transaction, slug=plan, version=version, caller=caller, now=deployment.now()
            )
        return ApprovedPlan(slug=done.slug, version=done.version, approved_at=done.approved_at)


def _head(plan: PricePlan) -> dict[str, Any]:
    return {
        "slug": plan.slug,
        "version": plan.version,
        "name": plan.name,
        "currency": plan.currency.code,
    }


def _members(plan: PricePlan) -> dict[str, Any]:
    return {**dump(plan), **_head(plan)}
