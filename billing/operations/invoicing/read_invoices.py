"""Read invoices with their lines, and verify one against the usage ledger."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.period import Period
from billing.store import invoices as store
from billing.store import reservations
from billing.store.invoices import InvoiceLineRow, InvoiceRow
from billing.store.reservations import RedeemedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceView:
    """An invoice with its lines, and the paid credit that was redeemed on it."""

    invoice: InvoiceRow
    lines: tuple[InvoiceLineRow, ...]
    redeemed: tuple[RedeemedRow, ...]


def require_invoice(
    connection: sa.Connection, id_or_number: str, *, tenant_id: int | None
) -> InvoiceView:
    """An invoice by id or number, of one tenant or of anybody if None.

    Raises:
        NotFound: absent, or another tenant's: the two look the same (T1).
        Conflict: a number that two legal entities use.
    """
    try:
        found = store.invoice(connection, UUID(id_or_number), tenant_id=tenant_id)
    except ValueError:
        numbered = store.invoices_by_number(connection, id_or_number, tenant_id=tenant_id)
        if len(numbered) > 1:
            raise Conflict(
                "invoices of two legal entities have this number",
                field="invoice",
                remedy="name it by its id: lists as JSON have it",
            ) from None
        found = numbered[0] if numbered else None
    if found is None:
        raise NotFound("no such invoice", field="invoice", remedy="list invoices to see them")
    return InvoiceView(
        invoice=found,
        lines=tuple(store.lines(connection, found.id)),
        redeemed=tuple(reservations.redeemed(connection, found.id)),
    )


def list_invoices(
    connection: sa.Connection, *, tenant_id: int | None, period: Period | None = None
) -> list[InvoiceRow]:
    """Invoices of one tenant, or of everybody if None, newest first."""
    return store.invoices(connection, tenant_id=tenant_id, period=period)
