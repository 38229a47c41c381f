"""The seal as its readers see it: signed heads and keys for all, proofs and bundles per tenant.

A tenant's proof leads through the operator's tree, whose other leaves are hashes to it: it shows
nothing of anybody else's usage.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.params import QueryParameter

from api.auth import SECURITY, TENANT_ONLY, Allowed, CallingTenant
from api.deployment import DeploymentInUse
from api.fields import MonthQuery, TextPath, billing_month
from billing.operations.metering.read_usage import request_of
from billing.operations.retention.archive_month import configured_place
from billing.operations.seal.bundle import make_bundle
from billing.operations.seal.prove import (
    prove_consistency,
    prove_event,
    published_keys,
    signed_head,
    tenant_head,
)
from billing.tenancy.api_key import Role

LEAVES_MAX = 2**53
SizeQuery = Annotated[
    int | None,
    QueryParameter(ge=0, le=LEAVES_MAX, description="Size of a head that you kept."),
]
FirstQuery = Annotated[
    int, QueryParameter(name="from", ge=0, le=LEAVES_MAX, description="Size of the older head.")
]


class SealKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key (Ed25519, hexadecimal) that heads were signed with."""

    id: str
    public_key: str
    valid_from: datetime


class SignedHead(msgspec.Struct, frozen=True, kw_only=True):
    """The head of the operator's tree; `signature` is of the bytes of `text`."""

    size: int
    root: str
    folded_at: datetime
    key_id: str
    public_key: str
    text: str
    signature: str


class TenantHead(msgspec.Struct, frozen=True, kw_only=True):
    """The head of the caller's usage, and the proof that the signed head includes it."""

    record: str
    size: int
    root: str
    operator_leaf: int
    proof: list[str]
    signed: SignedHead


class EventProof(msgspec.Struct, frozen=True, kw_only=True):
    """An event's canonical record, its leaf, and the proof that the head includes it."""

    record: str
    leaf: int
    proof: list[str]
    head: TenantHead


class ConsistencyProof(msgspec.Struct, frozen=True, kw_only=True):
    """The proof that the head only appended to the one of `first` leaves."""

    first: int
    proof: list[str]
    head: TenantHead


class KeptProof(msgspec.Struct, frozen=True, kw_only=True):
    """Consistency with a head that the tenant kept."""

    size: int
    proof: list[str]


class SealedEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sealed event: its record, or only its leaf where the record is gone or changed."""

    record: str | msgspec.UnsetType = msgspec.UNSET
    leaf: str | msgspec.UnsetType = msgspec.UNSET


class SealBundle(msgspec.Struct, frozen=True, kw_only=True):
    """What `steelyard verify-bundle` needs to verify a month offline."""

    format: str
    tenant: str
    tree: str
    start_us: int
    end_us: int
    first: int
    left: list[str]
    entries: list[SealedEntry]
    totals: dict[str, str]
    head: TenantHead
    consistency: KeptProof | None


class PublishedSealController(Controller):
    """What the operator publishes: its newest signed head and its keys."""

    path = "/seal"
    tags = ("Seal",)
    guards = (Allowed(Role.TENANT, Role.OPERATOR, Role.FINANCE),)
    security = SECURITY

    @get(
        "/signed-head",
        operation_id="show_signed_head",
        summary="Show the newest signed head",
        sync_to_thread=True,
    )
    def signed(self, deployment: DeploymentInUse) -> SignedHead:
        with deployment.as_operator(snapshot=True) as transaction:
            return msgspec.convert(signed_head(transaction), SignedHead)

    @get(
        "/keys",
        operation_id="list_seal_keys",
        summary="List the keys that heads were signed with",
        sync_to_thread=True,
    )
    def keys(self, deployment: DeploymentInUse) -> list[SealKey]:
        with deployment.as_operator() as transaction:
            return msgspec.convert(published_keys(transaction), list[SealKey])


class SealController(Controller):
    """Proofs about the caller's own usage."""

    path = "/seal"
    tags = ("Seal",)
    guards = (TENANT_ONLY,)
    security = SECURITY

    @get(
        "/head",
        operation_id="show_seal_head",
        summary="Show the newest head of your usage, to keep",
        sync_to_thread=True,
    )
    def head(self, deployment: DeploymentInUse, tenant_caller: CallingTenant) -> TenantHead:
        with deployment.as_operator(snapshot=True) as transaction:
            return msgspec.convert(tenant_head(transaction, tenant_caller.tenant), TenantHead)

    @get(
        "/proof/{request_id:str}",
        operation_id="prove_request",
        summary="Prove that a request is sealed",
        sync_to_thread=True,
    )
    def proof(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, request_id: TextPath
    ) -> EventProof:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            event = request_of(transaction, tenant=tenant, request_id=request_id)
        with deployment.as_operator(snapshot=True) as transaction:
            return msgspec.convert(prove_event(transaction, tenant, event.id), EventProof)

    @get(
        "/consistency",
        operation_id="prove_consistency",
        summary="Prove that nothing was taken out since a head that you kept",
        sync_to_thread=True,
    )
    def consistency(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, from_: FirstQuery
    ) -> ConsistencyProof:
        with deployment.as_operator(snapshot=True) as transaction:
            document = prove_consistency(transaction, tenant_caller.tenant, from_)
        return msgspec.convert(document, ConsistencyProof)

    @get(
        "/bundle",
        operation_id="show_seal_bundle",
        summary="Everything to verify a month of your usage offline",
        sync_to_thread=True,
    )
    def bundle(
        self,
        deployment: DeploymentInUse,
        tenant_caller: CallingTenant,
        month: MonthQuery = None,
        kept_size: SizeQuery = None,
    ) -> SealBundle:
        tenant = tenant_caller.tenant
        current = tenant.billing_period(deployment.now())
        period = current if month is None else billing_month(tenant, month)
        with deployment.as_operator(snapshot=True) as transaction:
            place = configured_place(deployment.settings)
            document = make_bundle(transaction, place, tenant, period, kept_size=kept_size)
        return msgspec.convert(document, SealBundle)
