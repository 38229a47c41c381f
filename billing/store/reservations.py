"""Table credit_reservation, and what paid credit redeemed on invoices.

A reservation is the part of a grant that usage has taken and no invoice has billed yet. It is a
projection: each run that applies credit states it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeemedRow:
    """What one grant paid of an invoice, as a positive amount in major units.

    Attributes:
        source: what it was granted for.
    """

    grant_id: UUID
    source: str
    amount: Decimal


def state_reservations(
    connection: sa.Connection,
    *,
    tenant_id: int,
    currency: str,
    period_start: datetime,
    amounts: Mapping[UUID, Decimal],
) -> None:
    """Reserve of each grant what is named, and nothing of others, for a billing period.

    The caller holds the lock of the tenant's credit in this currency.
    """
    run(
        connection,
        "DELETE FROM credit_reservation r USING credit_grant g WHERE g.id = r.grant_id "
        "AND r.tenant_id = :tenant AND r.period_start = :start AND g.currency = :currency",
        tenant=tenant_id,
        start=period_start,
        currency=currency,
    )
    for grant_id, amount in sorted(amounts.items()):
        run(
            connection,
            "INSERT INTO credit_reservation (grant_id, period_start, tenant_id, amount) "
            "VALUES (:grant, :start, :tenant, :amount)",
            grant=grant_id,
            start=period_start,
            tenant=tenant_id,
            amount=amount,
        )


def reserved(
    connection: sa.Connection, *, tenant_id: int, except_for: Sequence[datetime] = ()
) -> dict[UUID, Decimal]:
    """What is reserved of a tenant's grants, over all billing periods but those that begin then."""
    rows = query(
        connection,
        "SELECT grant_id, sum(amount) AS amount FROM credit_reservation "
        "WHERE tenant_id = :tenant "
        "AND NOT (period_start = ANY (CAST(:starts AS timestamptz[]))) GROUP BY 1",
        tenant=tenant_id,
        starts=list(except_for),
    )
    return {row.grant_id: row.amount for row in rows}


def redeemed(connection: sa.Connection, invoice_id: UUID) -> list[RedeemedRow]:
    """What credit paid of an issued invoice, by grant, oldest first."""
    rows = query(
        connection,
        "SELECT e.grant_id, g.source, e.amount FROM credit_event e "
        "JOIN credit_grant g ON g.id = e.grant_id "
        "WHERE e.kind = 'redeemed' AND e.invoice_id = :invoice ORDER BY g.granted_at, g.id",
        invoice=invoice_id,
    )
    return [RedeemedRow(**members(row)) for row in rows]
