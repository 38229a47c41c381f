"""Bind tenants to plan versions, and end contracts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, get, post
from litestar.params import JSONBody

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import IdPath, Instant, Slug, SlugQuery, in_utc
from api.schemas import BoundContract, show_contract
from billing.operations.catalog.contracts import (
    bind_contract,
    end_contract,
    list_contracts,
    require_contract,
)
from billing.operations.catalog.migrate_contracts import (
    MoveOutcome,
    MoveTime,
    PlanVersion,
    migrate_contract,
)
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.planfiles.contract_file import dump_terms, load_terms


class NewContract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant to bind to a plan; to its newest version unless one is named.

    `terms` has the members of a file of terms: what is agreed beside the plan. `others_follow` says
    that what a plan of `coverage: together` leaves to other contracts is bound next.
    """

    tenant: Slug
    plan: Slug
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    valid_from: Instant
    valid_until: Instant | None = None
    terms: dict[str, Any] | None = None
    others_follow: bool = False


class ContractEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first instant at which a contract is no longer in force."""

    valid_until: Instant


class ContractMigration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The plan version to which a contract moves, and when.

    `now` is the next quarter of an hour, `period-end` the end of the tenant's billing period. A dry
    run refuses what the migration would, and changes nothing.
    """

    plan: Slug
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    at: MoveTime
    dry_run: bool = False


class MigratedContract(msgspec.Struct, frozen=True, kw_only=True):
    """A contract that was left, and the one that follows it; none after a dry run."""

    tenant: str
    contract: int
    outcome: Literal["moved", "moved before"]
    at: datetime
    follower: int | None


class AgreedContract(BoundContract, frozen=True, kw_only=True):
    """A contract with the terms that were agreed beside its plan, as a file of terms has them."""

    terms: dict[str, Any]


class ContractController(Controller):
    """Contracts of this deployment."""

    path = "/operator/contracts"
    tags = ("Operator: catalog",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(operation_id="operator_list_contracts", summary="List contracts", sync_to_thread=True)
    def contracts(
        self, deployment: DeploymentInUse, tenant: SlugQuery = None
    ) -> list[BoundContract]:
        with deployment.as_operator() as transaction:
            owner = None if tenant is None else require_tenant(transaction, tenant)
            slugs = {found.id: found.slug for found in list_tenants(transaction)}
            listed = list_contracts(transaction, tenant_id=owner and owner.id)
        return [show_contract(contract, slugs) for contract in listed]

    @post(operation_id="operator_bind_contract", summary="Bind a contract", sync_to_thread=True)
    def bind(self, deployment: DeploymentInUse, data: JSONBody[NewContract]) -> BoundContract:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, data.tenant)
            bound = bind_contract(
                transaction,
                tenant=owner.slug,
                plan=data.plan,
                version=data.version,
                valid_from=in_utc(data.valid_from, field="valid_from"),
                valid_until=data.valid_until and in_utc(data.valid_until, field="valid_until"),
                terms=load_terms(data.terms or {}),
                approval_required=deployment.settings.plan_approval == "required",
                others_follow=data.others_follow,
                now=deployment.now(),
            )
        return show_contract(bound.contract, {owner.id: owner.slug})

    @get(
        "/{contract:int}",
        operation_id="operator_show_contract",
        summary="Show a contract with its terms",
        sync_to_thread=True,
    )
    def contract(self, deployment: DeploymentInUse, contract: IdPath) -> AgreedContract:
        with deployment.as_operator() as transaction:
            bound = require_contract(transaction, contract)
            slugs = {found.id: found.slug for found in list_tenants(transaction)}
        head = show_contract(bound.contract, slugs)
        return AgreedContract(**msgspec.structs.asdict(head), terms=dump_terms(bound.terms))

    @post(
        "/{contract:int}/end",
        operation_id="operator_end_contract",
        summary="End a contract that has no end",
        status_code=200,
        sync_to_thread=True,
    )
    def end(
        self, deployment: DeploymentInUse, contract: IdPath, data: JSONBody[ContractEnd]
    ) -> BoundContract:
        with deployment.as_operator() as transaction:
            ended = end_contract(
                transaction,
                contract,
                valid_until=in_utc(data.valid_until, field="valid_until"),
            )
            slugs = {found.id: found.slug for found in list_tenants(transaction)}
        return show_contract(ended, slugs)

    @post(
        "/{contract:int}/migrate",
        operation_id="operator_migrate_contract",
        summary="Move a contract to another plan version; again is the same answer",
        status_code=200,
        sync_to_thread=True,
    )
    def migrate(
        self, deployment: DeploymentInUse, contract: IdPath, data: JSONBody[ContractMigration]
    ) -> MigratedContract:
        with deployment.as_operator() as transaction:
            move = migrate_contract(
                transaction,
                contract,
                target=PlanVersion(slug=data.plan, version=data.version),
                when=data.at,
                dry_run=data.dry_run,
                approval_required=deployment.settings.plan_approval == "required",
                now=deployment.now(),
            )
        return MigratedContract(
            tenant=move.tenant,
            contract=move.contract_id,
            outcome="moved" if move.outcome is MoveOutcome.MOVED else "moved before",
            at=move.at,
            follower=move.new_contract_id,
        )
