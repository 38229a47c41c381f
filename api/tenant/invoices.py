"""A tenant's invoices, with the arithmetic of every line."""

from __future__ import annotations

from litestar import Controller, get

from api.auth import SECURITY, TENANT_ONLY, CallingTenant
from api.deployment import DeploymentInUse
from api.fields import TextPath
from api.schemas import Invoice, InvoiceSummary, show_invoice, show_summary
from billing.operations.invoicing.read_invoices import list_invoices, require_invoice


class InvoiceController(Controller):
    """Invoices of the caller."""

    path = "/invoices"
    tags = ("Invoices",)
    guards = (TENANT_ONLY,)
    security = SECURITY

    @get(operation_id="list_invoices", summary="List invoices, newest first", sync_to_thread=True)
    def invoices(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant
    ) -> list[InvoiceSummary]:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return [show_summary(row) for row in list_invoices(transaction, tenant_id=tenant.id)]

    @get(
        "/{invoice:str}",
        operation_id="show_invoice",
        summary="Show an invoice by id or number, with its lines",
        sync_to_thread=True,
    )
    def invoice(
        self, deployment: DeploymentInUse, tenant_caller: CallingTenant, invoice: TextPath
    ) -> Invoice:
        tenant = tenant_caller.tenant
        with deployment.as_tenant(tenant) as transaction:
            return show_invoice(require_invoice(transaction, invoice, tenant_id=tenant.id))
