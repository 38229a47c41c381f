"""Finance exports as files; each was checked to add up before a byte of it is sent."""

from __future__ import annotations

from litestar import Controller, Response, get

from api.auth import BOOK_READERS, SECURITY
from api.deployment import DeploymentInUse
from api.fields import FromQuery, MonthQuery, ToQuery, book_period
from billing.operations.exports.export_csv import export_hledger, export_invoices, export_journal

CSV = "text/csv"
PLAIN = "text/plain"


class ExportController(Controller):
    """Files for spreadsheets and ledgers. Without a period: the current calendar month, UTC."""

    path = "/exports"
    tags = ("Finance",)
    guards = (BOOK_READERS,)
    security = SECURITY

    @get(
        "/invoices.csv",
        operation_id="export_invoices",
        summary="Export issued invoices, one row per line",
        media_type=CSV,
        sync_to_thread=True,
    )
    def invoices(
        self,
        deployment: DeploymentInUse,
        period: MonthQuery = None,
        from_: FromQuery = None,
        to_: ToQuery = None,
    ) -> Response[str]:
        asked = book_period(period, from_, to_, now=deployment.now())
        with deployment.as_operator(snapshot=True) as transaction:
            return _file(export_invoices(transaction, period=asked), "invoices.csv", CSV)

    @get(
        "/journal.csv",
        operation_id="export_journal",
        summary="Export the journal, one row per posting at 12 decimals",
        media_type=CSV,
        sync_to_thread=True,
    )
    def journal(
        self,
        deployment: DeploymentInUse,
        period: MonthQuery = None,
        from_: FromQuery = None,
        to_: ToQuery = None,
    ) -> Response[str]:
        asked = book_period(period, from_, to_, now=deployment.now())
        with deployment.as_operator(snapshot=True) as transaction:
            return _file(export_journal(transaction, period=asked), "journal.csv", CSV)

    @get(
        "/journal.hledger",
        operation_id="export_hledger",
        summary="Export the journal as plain text for hledger",
        media_type=PLAIN,
        sync_to_thread=True,
    )
    def hledger(
        self,
        deployment: DeploymentInUse,
        period: MonthQuery = None,
        from_: FromQuery = None,
        to_: ToQuery = None,
    ) -> Response[str]:
        asked = book_period(period, from_, to_, now=deployment.now())
        with deployment.as_operator(snapshot=True) as transaction:
            return _file(export_hledger(transaction, period=asked), "journal.hledger", PLAIN)


def _file(text: str, name: str, media_type: str) -> Response[str]:
    return Response(
        text,
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
