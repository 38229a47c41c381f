"""Writes drafts into the tables of invoices: head, lines, quantities, scopes, settlements."""

from __future__ import annotations

import json
from datetime import datetime

import sqlalchemy as sa

from billing.metering.aggregation import Point
from billing.money import plain
from billing.store.database import run
from billing.store.invoices import NewDraft


def delete_drafts(
    connection: sa.Connection,
    *,
    tenant_id: int,
    legal_entity_id: int,
    currency: str,
    period_start: datetime | None,
) -> None:
    """Delete the draft of a billing period, and every draft that corrects earlier ones.

    Corrections go on the document that comes first, so a draft of them is stale with the next.
    """
    run(
        connection,
        "DELETE FROM invoice WHERE tenant_id = :tenant AND legal_entity_id = :entity "
        "AND currency = :currency AND state = 'draft' "
        "AND (kind <> 'period' OR period_start = CAST(:start AS timestamptz))",
        tenant=tenant_id,
        entity=legal_entity_id,
        currency=currency,
        start=period_start,
    )


def insert_draft(connection: sa.Connection, draft: NewDraft, *, now: datetime) -> None:
    """Store a draft."""
    run(
        connection,
        "INSERT INTO invoice (id, tenant_id, legal_entity_id, currency, period_start, period_end, "
        "kind, ordinal, state, watermark, inputs, subtotal_minor, tax_minor, total_minor, "
        "amount_due_minor, residual_before, residual_after, drafted_at) "
        "SELECT :id, :tenant, :entity, :currency, :start, :end, :kind, "
        "coalesce(max(ordinal), 0) + 1, 'draft', :watermark, CAST(:inputs AS jsonb), :subtotal, "
        ":tax, :total, :due, :before, :after, :now FROM invoice WHERE tenant_id = :tenant "
        "AND legal_entity_id = :entity AND currency = :currency AND period_start = :start "
        "AND kind = :kind",
        id=draft.id,
        tenant=draft.tenant_id,
        entity=draft.legal_entity_id,
        currency=draft.currency,
        start=draft.period.start,
        end=draft.period.end,
        kind=draft.kind,
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
            "INSERT INTO invoice_quantity (invoice_id, ordinal, tenant_id, period_start, "
            "contract_id, meter, model, quantity, dimensions, at, transactions, changes) VALUES "
            "(:invoice, :ordinal, :tenant, :start, :contract, :meter, :model, :quantity, "
            "CAST(:dimensions AS jsonb), :at, CAST(:transactions AS jsonb), "
            "CAST(:changes AS jsonb))"
        ),
        [
            {
                "invoice": draft.id,
                "ordinal": ordinal,
                "tenant": draft.tenant_id,
                "start": row.period_start,
                "contract": row.contract_id,
                "meter": row.meter,
                "model": row.model,
                "quantity": row.quantity,
                "dimensions": json.dumps(dict(row.dimensions)),
                "at": row.at,
                "transactions": json.dumps([_written(point) for point in row.transactions]),
                "changes": json.dumps(
                    [
                        [each.at.isoformat(), plain(each.units), plain(each.prorated)]
                        for each in row.changes
                    ]
                ),
            }
            for ordinal, row in enumerate(draft.quantities)
        ],
    )


def _written(point: Point) -> tuple[str, int, str, str]:
    return (
        point.occurred_at.isoformat(),
        point.epoch,
        str(point.event_id),
        plain(point.value),
    )


def _insert_scopes(connection: sa.Connection, draft: NewDraft) -> None:
    if not draft.scopes:
        return
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
