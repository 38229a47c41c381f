"""Invoices of all tenants: draft, issue, read, post payments."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import sqlalchemy as sa
from litestar import Controller, get, post
from litestar.params import JSONBody

from api.auth import BOOK_READERS, OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import DecimalText, Month, SlugPath, SlugQuery, TextPath, billing_month
from api.schemas import Invoice, InvoiceSummary, show_invoice, show_summary
from billing.ledger.account import AccountCode
from billing.money import currency, exact_decimal, to_minor
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.issue_advance import issue_advance
from billing.operations.invoicing.issue_corrections import issue_corrections
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import list_invoices, require_invoice
from billing.operations.payments.receive_payment import receive_payment
from billing.operations.tenancy.tenants import require_tenant
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant

# Payments found at Stripe are posted under keys with a slash: no caller's key can be one of them.
IdempotencyKey = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


class InvoiceOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The calendar month in which the tenant's billing period begins."""

    period: Month


class NewPayment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money received, in major units of the invoice's currency. The same key posts once."""

    amount: DecimalText
    into: Literal["bank"] = "bank"
    idempotency_key: IdempotencyKey


class InvoicingController(Controller):
    """Draft and issue invoices, and post payments."""

    path = "/operator"
    tags = ("Operator: invoices",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @post(
        "/tenants/{tenant:str}/invoices/draft",
        operation_id="operator_draft_invoice",
        summary="Draft the invoice of a billing period, in place of an earlier draft",
        status_code=200,
        sync_to_thread=True,
    )
    def draft(
        self, deployment: DeploymentInUse, tenant: SlugPath, data: JSONBody[InvoiceOrder]
    ) -> Invoice:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            drafted = draft_invoice(
                transaction,
                tenant=owner,
                period=billing_month(owner, data.period),
                now=deployment.now(),
            )
            return _shown(transaction, drafted, owner)

    @post(
        "/tenants/{tenant:str}/invoices/issue",
        operation_id="operator_issue_invoice",
        summary="Issue the invoice of a billing period; again gives the same invoice",
        status_code=200,
        sync_to_thread=True,
    )
    def issue(
        self, deployment: DeploymentInUse, tenant: SlugPath, data: JSONBody[InvoiceOrder]
    ) -> Invoice:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            issued = issue_invoice(
                transaction,
                tenant=owner,
                period=billing_month(owner, data.period),
                enqueue_mirror=deployment.enqueue_mirror(),
                now=deployment.now(),
            )
            return _shown(transaction, issued, owner)

    @post(
        "/tenants/{tenant:str}/invoices/advance",
        operation_id="operator_issue_advance",
        summary="Bill a running period's fees in advance; empty if none are open",
        status_code=200,
        sync_to_thread=True,
    )
    def advance(
        self, deployment: DeploymentInUse, tenant: SlugPath, data: JSONBody[InvoiceOrder]
    ) -> list[Invoice]:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            issued = issue_advance(
                transaction,
                tenant=owner,
                period=billing_month(owner, data.period),
                enqueue_mirror=deployment.enqueue_mirror(),
                now=deployment.now(),
            )
            return [_shown(transaction, row, owner) for row in issued]

    @post(
        "/tenants/{tenant:str}/invoices/correct",
        operation_id="operator_correct_invoices",
        summary="Issue what changed in invoiced periods: invoices of corrections, credit notes",
        status_code=200,
        sync_to_thread=True,
    )
    def correct(self, deployment: DeploymentInUse, tenant: SlugPath) -> list[Invoice]:
        with deployment.as_operator() as transaction:
            owner = require_tenant(transaction, tenant)
            issued = issue_corrections(
                transaction,
                tenant=owner,
                enqueue_mirror=deployment.enqueue_mirror(),
                now=deployment.now(),
            )
            return [_shown(transaction, row, owner) for row in issued]

    @post(
        "/invoices/{invoice:str}/payments",
        operation_id="operator_post_payment",
        summary="Post a payment that was received outside Stripe",
        status_code=200,
        sync_to_thread=True,
    )
    def pay(
        self, deployment: DeploymentInUse, invoice: TextPath, data: JSONBody[NewPayment]
    ) -> InvoiceSummary:
        with deployment.as_operator() as transaction:
            head = require_invoice(transaction, invoice, tenant_id=None).invoice
            in_currency = currency(head.currency)
            amount = exact_decimal(data.amount, field="amount", decimals_max=in_currency.decimals)
            paid = receive_payment(
                transaction,
                invoice=str(head.id),
                amount_minor=to_minor(amount, in_currency),
                into=AccountCode(data.into),
                idempotency_key=data.idempotency_key,
                now=deployment.now(),
            )
        return show_summary(paid)


def _shown(transaction: sa.Connection, row: InvoiceRow, owner: Tenant) -> Invoice:
    """An invoice that was just made, as it is read."""
    return show_invoice(require_invoice(transaction, str(row.id), tenant_id=owner.id))


class OperatorInvoiceController(Controller):
    """Read invoices of all tenants."""

    path = "/operator/invoices"
    tags = ("Operator: invoices",)
    guards = (BOOK_READERS,)
    security = SECURITY

    @get(operation_id="operator_list_invoices", summary="List invoices", sync_to_thread=True)
    def invoices(
        self, deployment: DeploymentInUse, tenant: SlugQuery = None
    ) -> list[InvoiceSummary]:
        with deployment.as_operator() as transaction:
            owner = None if tenant is None else require_tenant(transaction, tenant)
            rows = list_invoices(transaction, tenant_id=owner and owner.id)
        return [show_summary(row) for row in rows]

    @get(
        "/{invoice:str}",
        operation_id="operator_show_invoice",
        summary="Show any invoice by id or number",
        sync_to_thread=True,
    )
    def invoice(self, deployment: DeploymentInUse, invoice: TextPath) -> Invoice:
        with deployment.as_operator() as transaction:
            return show_invoice(require_invoice(transaction, invoice, tenant_id=None))
