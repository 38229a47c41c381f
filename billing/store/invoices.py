"""Tables invoice, invoice_line, invoice_quantity."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.period import Period
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
    """A quantity as it was read for the draft."""

    contract_id: int | None
    meter: str
    model: str | None
    quantity: Decimal


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
    """A draft to store; see `InvoiceRow` for the members."""

    id: UUID
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


def invoice_by_number(connection: sa.Connection, number: str) -> InvoiceRow | None:
    """An invoice by its number; numbers of two legal entities may be equal: the oldest wins."""
    row = first(connection, f"{_INVOICE} WHERE i.number = :number ORDER BY i.id", number=number)
    return None if row is None else InvoiceRow(**members(row))


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
        "ORDER BY issued_at DESC, number DESC LIMIT 1",
        tenant=tenant_id,
        entity=legal_entity_id,
        currency=currency,
    )
    return Decimal(0) if row is None else row.residual_after


def changed_periods(connection: sa.Connection, *, tenant_id: int, before: datetime) -> list[Period]:
    """Invoiced billing periods that begin before an instant and got usage since they were rated."""
    rows = query(
        connection,
        "SELECT s.period_start, s.period_end, max(s.watermark) AS watermark FROM invoice_scope s "
        "JOIN invoice i ON i.id = s.invoice_id WHERE s.tenant_id = :tenant "
        "AND i.state <> 'draft' AND s.period_start < :before GROUP BY 1, 2 "
        "HAVING EXISTS (SELECT FROM usage_rollup r WHERE r.tenant_id = :tenant "
        "  AND r.bucket >= s.period_start AND r.bucket < s.period_end "
        "  AND r.epoch > max(s.watermark)) ORDER BY 1",
        tenant=tenant_id,
        before=before,
    )
    return [Period(start=row.period_start, end=row.period_end) for row in rows]


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


def replace_draft(connection: sa.Connection, draft: NewDraft, *, now: datetime) -> None:
    """Store a draft in place of an earlier draft of the same period."""
    run(
        connection,
        "DELETE FROM invoice WHERE tenant_id = :tenant AND legal_entity_id = :entity "
        "AND currency = :currency AND period_start = :start AND state = 'draft'",
        tenant=draft.tenant_id,
        entity=draft.legal_entity_id,
        currency=draft.currency,
        start=draft.period.start,
    )
    run(
        connection,
        "INSERT INTO invoice (id, tenant_id, legal_entity_id, currency, period_start, period_end, "
        "kind, ordinal, state, watermark, inputs, subtotal_minor, tax_minor, total_minor, "
        "amount_due_minor, residual_before, residual_after, drafted_at) VALUES (:id, :tenant, "
        ":entity, :currency, :start, :end, 'period', 1, 'draft', :watermark, "
        "CAST(:inputs AS jsonb), :subtotal, :tax, :total, :due, :before, :after, :now)",
        id=draft.id,
        tenant=draft.tenant_id,
        entity=draft.legal_entity_id,
        currency=draft.currency,
        start=draft.period.start,
        end=draft.period.end,
        watermark=draft.watermark,
        inputs=json.dumps(draft.inputs),
        subtotal=draft.subtotal_minor,
        tax=draft.tax_minor,
        total=draft.total_minor,
        due=draft.amount_due_minor,
        before=draft.residual_before,
        after=draft.residual_after,
        now=now,
    )
    _insert_lines(connection, draft)
    _insert_quantities(connection, draft)
    _insert_scopes(connection, draft)
    _insert_settlements(connection, draft)


def mark_issued(
    connection: sa.Connection, invoice_id: UUID, *, number: str, due_at: datetime, now: datetime
) -> None:
    """Turn a draft into an issued invoice."""
    run(
        connection,
        "UPDATE invoice SET state = 'issued', number = :number, issued_at = :now, due_at = :due "
        "WHERE id = :id AND state = 'draft'",
        id=invoice_id,
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


def total_of_issued(connection: sa.Connection, *, currency: str) -> int:
    """Sum of the totals of all issued invoices of a currency, in minor units."""
    return only(
        connection,
        "SELECT CAST(coalesce(sum(total_minor), 0) AS bigint) AS total FROM invoice "
        "WHERE state <> 'draft' AND currency = :currency",
        currency=currency,
    ).total


def _insert_lines(connection: sa.Connection, draft: NewDraft) -> None:
    if not draft.lines:
        return
    connection.execute(
        sa.text(
            "INSERT INTO invoice_line (invoice_id, ordinal, tenant_id, kind, key, contract_id, "
            "description, meter, unit, quantity, exact, amount_minor, explanation, by_model) "
            "VALUES (:invoice, :ordinal, :tenant, :kind, :key, :contract, :description, :meter, "
            ":unit, :quantity, :exact, :amount, CAST(:explanation AS jsonb), "
            "CAST(:by_model AS jsonb))"
        ),
        [
            {
                "invoice": draft.id,
                "ordinal": line.ordinal,
                "tenant": draft.tenant_id,
                "kind": line.kind,
                "key": line.key,
                "contract": line.contract_id,
                "description": line.description,
                "meter": line.meter,
                "unit": line.unit,
                "quantity": line.quantity,
                "exact": line.exact,
                "amount": line.amount_minor,
                "explanation": json.dumps(line.explanation),
                "by_model": json.dumps(line.by_model),
            }
            for line in draft.lines
        ],
    )


def _insert_quantities(connection: sa.Connection, draft: NewDraft) -> None:
    if not draft.quantities:
        return
    connection.execute(
        sa.text(
            "INSERT INTO invoice_quantity (invoice_id, ordinal, tenant_id, contract_id, meter, "
            "model, quantity) VALUES (:invoice, :ordinal, :tenant, :contract, :meter, :model, "
            ":quantity)"
        ),
        [
            {
                "invoice": draft.id,
                "ordinal": ordinal,
                "tenant": draft.tenant_id,
                "contract": row.contract_id,
                "meter": row.meter,
                "model": row.model,
                "quantity": row.quantity,
            }
            for ordinal, row in enumerate(draft.quantities)
        ],
    )


def _insert_scopes(connection: sa.Connection, draft: NewDraft) -> None:
    connection.execute(
        sa.text(
            "INSERT INTO invoice_scope (invoice_id, tenant_id, period_start, period_end, watermark)"
            " VALUES (:invoice, :tenant, :start, :end, :watermark)"
        ),
        [
            {
                "invoice": draft.id,
                "tenant": draft.tenant_id,
                "start": scope.period.start,
                "end": scope.period.end,
                "watermark": scope.watermark,
            }
            for scope in draft.scopes
        ],
    )


def _insert_settlements(connection: sa.Connection, draft: NewDraft) -> None:
    if not draft.settlements:
        return
    connection.execute(
        sa.text(
            "INSERT INTO invoice_settlement (invoice_id, tenant_id, contract_id, period_start, "
            "line_key, accrued, amount_minor) VALUES (:invoice, :tenant, :contract, :start, :key, "
            ":accrued, :amount)"
        ),
        [
            {
                "invoice": draft.id,
                "tenant": draft.tenant_id,
                "contract": row.contract_id,
                "start": row.period_start,
                "key": row.line_key,
                "accrued": row.accrued,
                "amount": row.amount_minor,
            }
            for row in draft.settlements
        ],
    )
