"""Everything that the control plane serves."""

from __future__ import annotations

from litestar import Router
from litestar.types import ControllerRouterHandler

from api.finance.books import BookkeepingController, BooksController
from api.finance.exports import ExportController
from api.finance.margin import MarginController
from api.health import HealthController
from api.hooks.stripe import StripeController
from api.operator.contracts import ContractController
from api.operator.costs import CostController
from api.operator.credit import OperatorCreditController, TopUpController
from api.operator.invoice_lines import OperatorInvoiceLineController
from api.operator.invoices import InvoicingController, OperatorInvoiceController
from api.operator.keys import OperatorKeyController
from api.operator.leakage import LeakageController
from api.operator.limits import LimitController
from api.operator.meters import MeterController
from api.operator.outcomes import OperatorOutcomeController
from api.operator.plans import PlanController
from api.operator.spend import OperatorSpendController
from api.operator.tenants import TenantController
from api.operator.usage import OperatorUsageController
from api.operator.usage_events import UsageEventsController
from api.tenant.account import AccountController
from api.tenant.credit import CreditController
from api.tenant.invoice_lines import InvoiceLineController
from api.tenant.invoices import InvoiceController
from api.tenant.keys import KeyController
from api.tenant.limits import OwnLimitController
from api.tenant.outcomes import OutcomeController
from api.tenant.seal import PublishedSealController, SealController
from api.tenant.spend import SpendController
from api.tenant.usage import UsageController

ROOT = "/api/v1"


def make_routes() -> list[ControllerRouterHandler]:
    """The routes, made afresh: an app takes possession of those that it is given."""
    return [
        HealthController,
        Router(
            ROOT,
            route_handlers=[
                AccountController,
                UsageController,
                InvoiceController,
                InvoiceLineController,
                CreditController,
                OwnLimitController,
                SpendController,
                KeyController,
                OutcomeController,
                PublishedSealController,
                SealController,
                TenantController,
                OperatorKeyController,
                PlanController,
                MeterController,
                ContractController,
                OperatorUsageController,
                UsageEventsController,
                LeakageController,
                InvoicingController,
                OperatorInvoiceController,
                OperatorInvoiceLineController,
                OperatorCreditController,
                LimitController,
                OperatorSpendController,
                TopUpController,
                OperatorOutcomeController,
                CostController,
                MarginController,
                BooksController,
                BookkeepingController,
                ExportController,
                StripeController,
            ],
        ),
    ]
