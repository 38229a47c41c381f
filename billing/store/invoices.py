"""Tables invoice, invoice_line, invoice_quantity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.metering.aggregation import Point
from billing.period import Period
from billing.rating.quantity import LevelChange
from billing.store.database import first, members, only, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceRow:
    """An invoice without its lines. Amounts ending in `_minor` are minor units."""

    id: UUID
    tenant_id: int
    tenant: str
    legal_entity_id: int
    legal_entity: str
    currency: str
    period_start: datetime
    period_end: datetime
    kind: str
    ordinal: int
    state: str
    number: str | None
    watermark: int
    inputs: dict[str, Any]
    subtotal_minor: int
    tax_minor: int
    total_minor: int
    amount_due_minor: int
    residual_before: Decimal
    residual_after: Decimal
    drafted_at: datetime
    issued_at: datetime | None
    due_at: datetime | None
    paid_at: datetime | None

    @property
    def period(self) -> Period:
        """The billing period."""
        return Period(start=self.period_start, end=self.period_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLineRow:
    """One line of an invoice, with the arithmetic behind it.

    Attributes:
        amount_minor: what the line bills; 0 for a key that accrued and billed nothing.
        explanation: steps as text, in order.
        by_model: weights that split the line's revenue over models.
    """

    ordinal: int
    kind: str
    key: str
    contract_id: int | None
    description: str
    meter: str | None
    unit: str | None
    quantity: Decimal
    exact: Decimal
    amount_minor: int
    explanation: list[dict[str, str | None]]
    by_model: list[tuple[str | None, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceQuantityRow:
    """A quantity as it was read for the draft.

    Attributes:
        period_start: of the billing period that it was used in.
        dimensions: values that its price asked for, by name, ascending.
        at: the quarter hour in which it was used, where its price asked for it.
        transactions: single events in their order, where its price asked for them.
        changes: of a level, by time, where its price goes by units and days.
    """

    period_start: datetime
    contract_id: int | None
    meter: str
    model: str | None
    quantity: Decimal
    dimensions: tuple[tuple[str, str], ...] = ()
    at: datetime | None = None
    transactions: tuple[Point, ...] = ()
    changes: tuple[LevelChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRow:
    """A billing period that an invoice rated, and the newest epoch that it saw of it."""

    period: Period
    watermark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementRow:
    """What an invoice settled on one line of one billing period.

    Attributes:
        accrued: newly accrued revenue, at 12 decimals.
        amount_minor: what it billed, in minor units.
    """

    contract_id: int
    period_start: datetime
    line_key: str
    accrued: Decimal
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDraft:
    """A draft to store; see `InvoiceRow` for the members. It takes the next ordinal of its kind."""

    id: UUID
    kind: str
    tenant_id: int
    legal_entity_id: int
    currency: str
    period: Period
    watermark: int
    inputs: dict[str, Any]
    subtotal_minor: int
    tax_minor: int
    total_minor: int
    amount_due_minor: int
    residual_before: Decimal
    residual_after: Decimal
    lines: tuple[InvoiceLineRow, ...]
    quantities: tuple[InvoiceQuantityRow, ...]
    scopes: tuple[ScopeRow, ...]
    settlements: tuple[SettlementRow, ...]


_INVOICE = """
SELECT i.id, i.tenant_id, t.slug AS tenant, i.legal_entity_id, e.slug AS legal_entity, i.currency,
       i.period_start, i.period_end, i.kind, i.ordinal, i.state, i.number, i.watermark, i.inputs,
       i.subtotal_minor, i.tax_minor, i.total_minor, i.amount_due_minor, i.residual_before,
       i.residual_after, i.drafted_at, i.issued_at, i.due_at, i.paid_at
  FROM invoice i JOIN tenant t ON t.id = i.tenant_id JOIN legal_entity e ON e.id = i.legal_entity_id
"""


def lock_invoicing(connection: sa.Connection, tenant_id: int) -> None:
    """Let nobody else draft or issue an invoice of this tenant until commit (I2)."""
    run(connection, "SELECT pg_advisory_xact_lock(hashtext('invoice'), :t)", t=tenant_id)


def lock_invoicing_of(connection: sa.Connection, tenant_ids: Iterable[int]) -> None:
    """`lock_invoicing` of many tenants, in the order of their ids: opposite ones would deadlock."""
    run(
        connection,
        "SELECT pg_advisory_xact_lock(hashtext('invoice'), t.id) "
        "FROM unnest(CAST(:tenants AS integer[])) AS t (id)",
        tenants=sorted(set(tenant_ids)),
    )


def invoice(
    connection: sa.Connection, invoice_id: UUID, *, tenant_id: int | None = None
) -> InvoiceRow | None:
    """An invoice by id, of one tenant or of anybody if None."""
    row = first(
        connection,
        f"{_INVOICE} WHERE i.id = :id "
        "AND (CAST(:tenant AS integer) IS NULL OR i.tenant_id = :tenant)",
        id=invoice_id,
        tenant=tenant_id,
    )
    return None if row is None else InvoiceRow(**members(row))


def invoices_by_number(
    connection: sa.Connection, number: str, *, tenant_id: int | None
) -> list[InvoiceRow]:
    """Invoices with a number, of one tenant or of anybody: two legal entities may use one."""
    rows = query(
        connection,
        f"{_INVOICE} WHERE i.number = :number "
        "AND (CAST(:tenant AS integer) IS NULL OR i.tenant_id = :tenant) ORDER BY i.id",
        number=number,
        tenant=tenant_id,
    )
    return [InvoiceRow(**members(row)) for row in rows]


def period_invoice(
    connection: sa.Connection,
    *,
    tenant_id: int,
    legal_entity_id: int,
    currency: str,
    period_start: datetime,
) -> InvoiceRow | None:
    """The invoice of a billing period, draft or not."""
    row = first(
        connection,
        f"{_INVOICE} WHERE i.tenant_id = :tenant AND i.legal_entity_id = :entity "
        "AND i.currency = :currency AND i.period_start = :start AND i.kind = 'period' "
        "ORDER BY i.ordinal DESC",
        tenant=tenant_id,
        entity=legal_entity_id,
        currency=currency,
        start=period_start,
    )
    return None if row is None else InvoiceRow(**members(row))


def invoices(
    connection: sa.Connection, *, tenant_id: int | None, period: Period | None = None
) -> list[InvoiceRow]:
    """Invoices of one tenant, or of everybody if None, newest first."""
    rows = query(
        connection,
        f"{_INVOICE} WHERE (CAST(:tenant AS integer) IS NULL OR i.tenant_id = :tenant) "
        "AND (CAST(:start AS timestamptz) IS NULL "
        "     OR (i.period_start < :end AND i.period_end > :start)) "
        "ORDER BY i.period_start DESC, i.drafted_at DESC, i.id",
        tenant=tenant_id,
        start=period.start if period else None,
        end=period.end if period else None,
    )
    return [InvoiceRow(**members(row)) for row in rows]


def last_residual(
    connection: sa.Connection, *, tenant_id: int, legal_entity_id: int, currency: str
) -> Decimal:
    """What the newest issued invoice left in Unbilled; 0 if there is none."""
    row = first(
        connection,
        "SELECT residual_after FROM invoice WHERE tenant_id = :tenant "
        "AND legal_entity_id = :entity AND currency = :currency AND state <> 'draft' "
        # By number: numbers are given under a lock, in order; clocks are read before it.
        "ORDER BY length(number) DESC, number DESC LIMIT 1",
        tenant=tenant_id,
        entity=legal_entity_id,
        currency=currency,
    )
    return Decimal(0) if row is None else row.residual_after


def last_invoiced_end(connection: sa.Connection, *, tenant_id: int) -> datetime | None:
    """The end of a tenant's newest billing period that was invoiced as a whole, or None."""
    return only(
        connection,
        "SELECT max(period_end) AS ended FROM invoice WHERE tenant_id = :tenant "
        "AND state <> 'draft' AND kind NOT IN ('progressive', 'advance')",
        tenant=tenant_id,
    ).ended


def settled(
    connection: sa.Connection, *, contract_id: int, period_start: datetime
) -> dict[str, tuple[Decimal, int]]:
    """What issued invoices settled per line key: (accrued, minor units billed)."""
    rows = query(
        connection,
        "SELECT s.line_key, sum(s.accrued) AS accrued, "
        "CAST(sum(s.amount_minor) AS bigint) AS amount FROM invoice_settlement s "
        "JOIN invoice i ON i.id = s.invoice_id WHERE s.contract_id = :contract "
        "AND s.period_start = :start AND i.state <> 'draft' GROUP BY s.line_key",
        contract=contract_id,
        start=period_start,
    )
    return {row.line_key: (row.accrued, row.amount) for row in rows}


def lines(connection: sa.Connection, invoice_id: UUID) -> list[InvoiceLineRow]:
    """Lines of an invoice in order."""
    rows = query(
        connection,
        "SELECT ordinal, kind, key, contract_id, description, meter, unit, quantity, exact, "
        "amount_minor, explanation, by_model FROM invoice_line WHERE invoice_id = :id "
        "ORDER BY ordinal",
        id=invoice_id,
    )
    return [
        InvoiceLineRow(**members(row, by_model=[(model, weight) for model, weight in row.by_model]))
        for row in rows
    ]


def quantities(connection: sa.Connection, invoice_id: UUID) -> list[InvoiceQuantityRow]:
    """What an invoice's periods were rated from, in the order in which it was read."""
    rows = query(
        connection,
        "SELECT coalesce(q.period_start, i.period_start) AS period_start, q.contract_id, q.meter, "
        "q.model, q.quantity, q.dimensions, q.at, q.transactions, q.changes "
        "FROM invoice_quantity q JOIN invoice i ON i.id = q.invoice_id "
        "WHERE q.invoice_id = :id ORDER BY q.ordinal",
        id=invoice_id,
    )
    return [
        InvoiceQuantityRow(
            **members(
                row,
                dimensions=tuple(sorted(row.dimensions.items())),
                transactions=tuple(_point(*each) for each in row.transactions),
                changes=tuple(_change(*each) for each in row.changes),
            )
        )
        for row in rows
    ]


def _change(at: str, units: str, prorated: str) -> LevelChange:
    return LevelChange(
        at=datetime.fromisoformat(at), units=Decimal(units), prorated=Decimal(prorated)
    )


def _point(at: str, epoch: int, event_id: str, value: str) -> Point:
    return Point(
        occurred_at=datetime.fromisoformat(at),
        epoch=epoch,
        event_id=UUID(event_id),
        value=Decimal(value),
    )


def mark_issued(
    connection: sa.Connection,
    invoice_id: UUID,
    *,
    number: str,
    due_at: datetime,
    amount_due_minor: int,
    now: datetime,
) -> None:
    """Turn a draft into an issued invoice; what is due is its total less paid credit redeemed."""
    run(
        connection,
        "UPDATE invoice SET state = 'issued', number = :number, issued_at = :now, due_at = :due, "
        "amount_due_minor = :amount_due WHERE id = :id AND state = 'draft'",
        id=invoice_id,
        amount_due=amount_due_minor,
        number=number,
        now=now,
        due=due_at,
    )


def mark_paid(connection: sa.Connection, invoice_id: UUID, *, now: datetime) -> None:
    """Turn an issued invoice into a paid one."""
    run(
        connection,
        "UPDATE invoice SET state = 'paid', paid_at = :now WHERE id = :id AND state = 'issued'",
        id=invoice_id,
        now=now,
    )
