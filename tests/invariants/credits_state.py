"""What the database holds of one tenant's credits, in the form of `credits_model`."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from billing.ledger.account import AccountCode
from billing.store.database import query
from billing.tenancy.tenant import Tenant
from tests.invariants.lots_model import CALENDAR


def read_state(connection: sa.Connection, tenant: Tenant) -> dict[str, Any]:
    """Everything that the model knows, from the rows of a tenant and of its legal entity."""
    whose = {"tenant": tenant.id}
    limits = query(
        connection, "SELECT name, held, spent FROM spend_limit WHERE tenant_id = :tenant", **whose
    )
    open_holds = query(
        connection,
        "SELECT h.hold_id, l.name, h.amount, h.expires_at FROM open_hold h "
        "JOIN spend_limit l ON l.id = h.limit_id WHERE h.tenant_id = :tenant",
        **whose,
    )
    resolved = query(
        connection,
        "SELECT hold_id, kind, amount FROM hold_event "
        "WHERE tenant_id = :tenant AND kind IN ('posted', 'voided', 'expired')",
        **whose,
    )
    invoices = query(
        connection,
        "SELECT period_start, total_minor, amount_due_minor, residual_after FROM invoice "
        "WHERE tenant_id = :tenant AND state <> 'draft'",
        **whose,
    )
    return {
        "limits": {row.name: (row.held, row.spent) for row in limits},
        "open": {row.hold_id: (row.name, row.amount, row.expires_at) for row in open_holds},
        "resolved": {row.hold_id: (row.kind, row.amount) for row in resolved},
        "invoices": {
            row.period_start: (row.total_minor, row.amount_due_minor, row.residual_after)
            for row in invoices
        },
        **_credit(connection, tenant),
        **_books(connection, tenant),
    }


def _credit(connection: sa.Connection, tenant: Tenant) -> dict[str, Any]:
    lots = query(
        connection,
        "SELECT g.*, b.used, b.expired FROM credit_grant g "
        "JOIN credit_balance b ON b.grant_id = g.id WHERE g.tenant_id = :tenant",
        tenant=tenant.id,
    )
    applied = query(
        connection,
        "SELECT g.idempotency_key, e.period_start, e.line_key, e.day, sum(e.amount) AS amount "
        "FROM credit_event e JOIN credit_grant g ON g.id = e.grant_id "
        "WHERE e.tenant_id = :tenant AND e.kind = 'applied' GROUP BY 1, 2, 3, 4",
        tenant=tenant.id,
    )
    reserved = query(
        connection,
        "SELECT g.idempotency_key, r.period_start, r.amount FROM credit_reservation r "
        "JOIN credit_grant g ON g.id = r.grant_id WHERE r.tenant_id = :tenant",
        tenant=tenant.id,
    )
    return {
        "reserved": {(row.idempotency_key, row.period_start): row.amount for row in reserved},
        "lots": {
            row.idempotency_key: (
                row.id,
                row.amount,
                row.cost_basis,
                row.starts_at,
                row.expires_at,
                row.used,
                row.expired,
            )
            for row in lots
        },
        "applied": {
            (row.idempotency_key, (row.period_start, row.line_key, row.day)): row.amount
            for row in applied
        },
    }


def _books(connection: sa.Connection, tenant: Tenant) -> dict[str, Any]:
    earned = query(
        connection,
        "SELECT p.period_start, p.line_key, "
        "CAST(t.effective_at AT TIME ZONE :zone AS date) AS day, -sum(p.amount) AS amount "
        "FROM posting p JOIN account a ON a.id = p.account_id "
        "JOIN ledger_transaction t ON t.id = p.transaction_id "
        "WHERE a.tenant_id = :tenant AND a.code = 'revenue' GROUP BY 1, 2, 3",
        tenant=tenant.id,
        zone=CALENDAR.key,
    )
    accounts = query(
        connection,
        "SELECT a.code, b.balance FROM account_balance b JOIN account a ON a.id = b.account_id "
        "WHERE a.tenant_id = :tenant OR (a.tenant_id IS NULL AND a.legal_entity_id = "
        "(SELECT e.id FROM legal_entity e WHERE e.slug = :entity))",
        tenant=tenant.id,
        entity=tenant.legal_entity,
    )
    deferred = query(
        connection,
        "SELECT t.kind, -sum(p.amount) AS amount FROM posting p "
        "JOIN account a ON a.id = p.account_id "
        "JOIN ledger_transaction t ON t.id = p.transaction_id "
        "WHERE a.code = 'contract_liability' AND a.tenant_id = :tenant GROUP BY 1",
        tenant=tenant.id,
    )
    return {
        "earned": {(row.period_start, row.line_key, row.day): row.amount for row in earned},
        "accounts": {AccountCode(row.code): row.balance for row in accounts if row.balance},
        "deferred": {row.kind: row.amount for row in deferred if row.amount},
    }


def projection_differences(connection: sa.Connection, tenant: Tenant) -> list[Any]:
    """Grants, limits and invoices whose stored sums are not those of their events and lines."""
    granted = query(
        connection,
        "SELECT b.grant_id FROM credit_balance b JOIN credit_grant g ON g.id = b.grant_id "
        "JOIN credit_event e ON e.grant_id = g.id WHERE b.tenant_id = :tenant "
        "GROUP BY b.grant_id, g.id HAVING (g.amount, b.granted, b.used, b.expired) <> ("
        "sum(e.amount) FILTER (WHERE e.kind = 'granted'), b.used + b.expired + b.remaining, "
        "coalesce(sum(e.amount) FILTER (WHERE e.kind IN ('applied', 'redeemed')), 0), "
        "coalesce(sum(e.amount) FILTER "
        " (WHERE e.kind NOT IN ('granted', 'applied', 'redeemed')), 0)) "
        "OR b.remaining < 0",
        tenant=tenant.id,
    )
    held = query(
        connection,
        "SELECT l.id FROM spend_limit l WHERE l.tenant_id = :tenant AND l.held <> "
        "(SELECT coalesce(sum(e.amount), 0) FROM hold_event e WHERE e.limit_id = l.id "
        " AND e.kind IN ('taken', 'extended') AND NOT EXISTS (SELECT FROM hold_event r "
        "  WHERE r.hold_id = e.hold_id AND r.kind IN ('posted', 'voided', 'expired')))",
        tenant=tenant.id,
    )
    billed = query(
        connection,
        "SELECT i.number FROM invoice i LEFT JOIN invoice_line l ON l.invoice_id = i.id "
        "WHERE i.tenant_id = :tenant AND i.state <> 'draft' GROUP BY i.id "
        "HAVING coalesce(sum(l.amount_minor), 0) <> i.subtotal_minor "
        "OR i.subtotal_minor + i.tax_minor <> i.total_minor OR i.amount_due_minor < 0",
        tenant=tenant.id,
    )
    return [*granted, *held, *billed]


def rows_of(connection: sa.Connection, tenant: Tenant) -> dict[Any, str]:
    """Every row of a tenant's ledgers of credits and holds, as text."""
    rows = query(
        connection,
        "SELECT CAST(id AS text) AS name, e::text AS row FROM credit_event e WHERE tenant_id = :t"
        " UNION ALL SELECT CAST(id AS text), g::text FROM credit_grant g WHERE tenant_id = :t "
        "UNION ALL SELECT hold_id || '/' || ordinal, h::text FROM hold_event h "
        "WHERE tenant_id = :t",
        t=tenant.id,
    )
    return {row.name: row.row for row in rows}


def unbilled(state: dict[str, Any]) -> Decimal:
    """Earned, less what credit paid, less what was invoiced: what must be in Unbilled."""
    invoiced = Decimal(sum(total for total, _, _ in state["invoices"].values())).scaleb(-2)
    return (
        sum(state["earned"].values(), Decimal(0))
        - sum(state["applied"].values(), Decimal(0))
        - invoiced
    )
