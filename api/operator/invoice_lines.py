"""What stands behind the lines of any invoice: arithmetic, usage, requests."""

from __future__ import annotations

from litestar import Controller, get

from api.auth import BOOK_READERS, SECURITY
from api.deployment import DeploymentInUse
from api.fields import FromQuery, IdPath, TextPath, ToQuery
from api.line_schemas import (
    AfterQuery,
    ExplainedLine,
    PageLimit,
    RequestsBehindLine,
    UsageBehindLine,
    UsageGroupQuery,
    part_of_line,
    show_explained,
    show_line_events,
    show_line_usage,
)
from billing.operations.invoicing.explain_line import (
    events_of_line,
    explain_line,
    usage_of_line,
)


class OperatorInvoiceLineController(Controller):
    """Lines of all invoices."""

    path = "/operator/invoices/{invoice:str}/lines/{line:int}"
    tags = ("Operator: invoices",)
    guards = (BOOK_READERS,)
    security = SECURITY

    @get(
        "/explanation",
        operation_id="operator_explain_line",
        summary="Explain a line: every step of its arithmetic, checked",
        sync_to_thread=True,
    )
    def explanation(
        self, deployment: DeploymentInUse, invoice: TextPath, line: IdPath
    ) -> ExplainedLine:
        with deployment.as_operator() as transaction:
            found = explain_line(transaction, tenant_id=None, invoice=invoice, line=str(line))
        return show_explained(found)

    @get(
        "/usage",
        operation_id="operator_show_line_usage",
        summary="Show the usage behind a line, as of its invoice",
        sync_to_thread=True,
    )
    def usage(
        self,
        deployment: DeploymentInUse,
        invoice: TextPath,
        line: IdPath,
        group: UsageGroupQuery = "day",
    ) -> UsageBehindLine:
        with deployment.as_operator() as transaction:
            found = usage_of_line(
                transaction,
                tenant_id=None,
                invoice=invoice,
                line=str(line),
                group=group,
            )
        return show_line_usage(found, group)

    @get(
        "/events",
        operation_id="operator_list_line_events",
        summary="List the requests behind a line, a page at a time",
        sync_to_thread=True,
    )
    def events(
        self,
        *,
        deployment: DeploymentInUse,
        invoice: TextPath,
        line: IdPath,
        from_: FromQuery = None,
        to_: ToQuery = None,
        after: AfterQuery = None,
        limit: PageLimit = 100,
    ) -> RequestsBehindLine:
        with deployment.as_operator() as transaction:
            found = events_of_line(
                transaction,
                tenant_id=None,
                invoice=invoice,
                line=str(line),
                period=part_of_line(from_, to_),
                after=after,
                limit=limit,
            )
        return show_line_events(found)
