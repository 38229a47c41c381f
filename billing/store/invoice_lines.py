"""What stands behind a line of an invoice: the periods it rated, and what was billed before it."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.period import Period
from billing.store.database import query
from billing.store.invoices import InvoiceRow, ScopeRow


def scopes(connection: sa.Connection, invoice: InvoiceRow) -> list[ScopeRow]:
    """The billing periods that an invoice rated, the oldest first."""
    rows = query(
        connection,
        "SELECT period_start, period_end, watermark FROM invoice_scope "
        "WHERE invoice_id = :id AND tenant_id = :tenant ORDER BY period_start",
        id=invoice.id,
        tenant=invoice.tenant_id,
    )
    return [
        ScopeRow(period=Period(start=row.period_start, end=row.period_end), watermark=row.watermark)
        for row in rows
    ]


def billed_before(
    connection: sa.Connection, invoice: InvoiceRow, *, contract_id: int, period_start: datetime
) -> dict[str, int]:
    """Minor units that invoices issued before this one billed on the lines of a period, by key."""
    rows = query(
        connection,
        "SELECT s.line_key, CAST(sum(s.amount_minor) AS bigint) AS minor "
        "FROM invoice_settlement s JOIN invoice i ON i.id = s.invoice_id "
        "WHERE s.tenant_id = :tenant AND s.contract_id = :contract "
        "AND s.period_start = :start "
        "AND i.id <> :id AND i.state <> 'draft' "
        # By number, which is given under a lock; a draft follows all that have one.
        "AND (CAST(:number AS text) IS NULL "
        "     OR (length(i.number), i.number) < (length(:number), :number)) GROUP BY s.line_key",
        tenant=invoice.tenant_id,
        contract=contract_id,
        start=period_start,
        id=invoice.id,
        number=invoice.number,
    )
    return {row.line_key: row.minor for row in rows}


def billed_ahead(connection: sa.Connection, *, tenant_id: int) -> list[tuple[int, datetime]]:
    """Contracts and periods that were billed in advance, and whose own invoice was not issued."""
    rows = query(
        connection,
        "SELECT s.contract_id, s.period_start FROM invoice_settlement s "
        "JOIN invoice i ON i.id = s.invoice_id AND i.state <> 'draft' "
        "WHERE s.tenant_id = :tenant AND NOT EXISTS (SELECT FROM invoice_scope c "
        "  JOIN invoice j ON j.id = c.invoice_id AND j.state <> 'draft' "
        "  WHERE c.tenant_id = :tenant AND c.period_start = s.period_start) "
        "GROUP BY 1, 2 HAVING sum(s.amount_minor) <> 0 OR sum(s.accrued) <> 0 ORDER BY 2, 1",
        tenant=tenant_id,
    )
    return [(row.contract_id, row.period_start) for row in rows]
