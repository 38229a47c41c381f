"""Balances of tenants that stand in two places: credit, and what they owe for invoices.

Each function names the figures that do not agree, and both of what they are; none changes
anything. Amounts are told as text, in major units, without trailing zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa

from billing.ledger.account import AccountCode
from billing.money import CURRENCIES
from billing.store.database import members, query

_GRANTS = """
WITH told AS (
    SELECT grant_id, count(*) AS events, sum(amount) FILTER (WHERE kind = 'granted') AS granted,
           coalesce(sum(CASE kind WHEN 'restored' THEN -amount ELSE amount END)
                    FILTER (WHERE kind IN ('applied', 'redeemed', 'restored')), 0) AS used,
           coalesce(sum(amount)
                    FILTER (WHERE kind IN ('expired', 'voided', 'rolled_over')), 0) AS expired
      FROM credit_event GROUP BY 1
)
SELECT CAST(coalesce(g.id, b.grant_id, t.grant_id) AS text) AS subject, f.figure,
       coalesce(trim_scale(f.kept)::text, 'missing') AS kept,
       coalesce(trim_scale(f.told)::text, 'missing') AS told
  FROM credit_balance b FULL JOIN credit_grant g ON g.id = b.grant_id
  FULL JOIN told t ON t.grant_id = coalesce(b.grant_id, g.id)
 CROSS JOIN LATERAL (VALUES
       (1, 'amount of the grant', g.amount, t.granted),
       (2, 'granted', b.granted, t.granted),
       (3, 'used', b.used, t.used),
       (4, 'expired', b.expired, t.expired),
       (5, 'remaining', b.remaining, t.granted - t.used - t.expired),
       (6, 'number of events', b.version, t.events)) AS f (place, figure, kept, told)
 WHERE f.kept IS DISTINCT FROM f.told ORDER BY 1, f.place
"""

_OF_OTHERS = """
SELECT CAST(g.id AS text) AS id FROM credit_grant g
 WHERE EXISTS (SELECT FROM credit_balance b WHERE b.grant_id = g.id AND b.tenant_id <> g.tenant_id)
    OR EXISTS (SELECT FROM credit_event e WHERE e.grant_id = g.id AND e.tenant_id <> g.tenant_id)
 ORDER BY 1
"""

# What issued documents say, and what each of them moved: by its issue, by credit that was redeemed
# on it, and by payments, which name its number.
_DOCUMENTS = """
WITH unit AS (
    SELECT * FROM unnest(CAST(:codes AS text[]), CAST(:ones AS numeric[])) AS u (currency, one)
), document AS (
    SELECT i.id, i.number, i.state, i.legal_entity_id, i.tenant_id, i.currency,
           i.total_minor * u.one AS total, i.amount_due_minor * u.one AS due
      FROM invoice i LEFT JOIN unit u ON u.currency = i.currency WHERE i.state <> 'draft'
), moved AS (
    SELECT t.legal_entity_id, t.kind, sum(p.amount) AS amount,
           CASE t.kind WHEN 'payment_received' THEN t.reference
                       WHEN 'credits_redeemed' THEN split_part(t.idempotency_key, '/', 5)
                       ELSE split_part(t.idempotency_key, '/', 2) END AS of
      FROM account a JOIN posting p ON p.account_id = a.id
      JOIN ledger_transaction t ON t.id = p.transaction_id
     WHERE a.code = :receivable AND t.kind IN
           ('invoice_issued', 'credit_note_issued', 'credits_redeemed', 'payment_received')
     GROUP BY 1, 2, 4
), redeemed AS (
    SELECT invoice_id, sum(amount) AS amount FROM credit_event WHERE kind = 'redeemed' GROUP BY 1
), stood AS (
    SELECT d.*, coalesce(issue.amount, 0) AS issued, coalesce(r.amount, 0) AS redeemed,
           -coalesce(by_credit.amount, 0) AS redeemed_posted, -coalesce(cash.amount, 0) AS paid
      FROM document d
      LEFT JOIN moved issue ON issue.legal_entity_id = d.legal_entity_id
           AND issue.kind IN ('invoice_issued', 'credit_note_issued') AND issue.of = d.id::text
      LEFT JOIN moved by_credit ON by_credit.legal_entity_id = d.legal_entity_id
           AND by_credit.kind = 'credits_redeemed' AND by_credit.of = d.id::text
      LEFT JOIN moved cash ON cash.legal_entity_id = d.legal_entity_id
           AND cash.kind = 'payment_received' AND cash.of = d.number
      LEFT JOIN redeemed r ON r.invoice_id = d.id
)
"""

_OF_DOCUMENTS = f"""{_DOCUMENTS}
SELECT s.number AS subject, f.figure, coalesce(f.kept, 'missing') AS kept, f.told FROM stood s
 CROSS JOIN LATERAL (VALUES
       (1, 'total', trim_scale(s.total)::text, trim_scale(s.issued)::text),
       (2, 'paid by credit', trim_scale(s.redeemed)::text, trim_scale(s.redeemed_posted)::text),
       (3, 'amount due', trim_scale(s.due)::text, trim_scale(s.total - s.redeemed)::text),
       (4, 'state', format('%s, with %s open', s.state, trim_scale(s.due - s.paid)),
        format('%s, with %s open', CASE WHEN s.total <> 0 AND s.due = s.paid THEN 'paid'
                                        ELSE 'issued' END, trim_scale(s.due - s.paid)))
       ) AS f (place, figure, kept, told)
 WHERE f.kept IS DISTINCT FROM f.told ORDER BY 1, f.place
"""  # noqa: S608  # our own text

_OPEN = f"""{_DOCUMENTS}
SELECT legal_entity_id, tenant_id, currency, sum(due - paid) AS amount FROM stood GROUP BY 1, 2, 3
"""  # noqa: S608  # our own text


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureDifference:
    """A figure that is kept, and what follows from the rows that it comes from.

    Attributes:
        subject: the grant's id, or the invoice's number.
    """

    subject: str
    figure: str
    kept: str
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedCredit:
    """What paid credit cost, and how much of it remains, in major units."""

    legal_entity_id: int
    tenant_id: int
    currency: str
    cost_basis: Decimal
    amount: Decimal
    remaining: Decimal


AccountOf = tuple[int, int, str]
"""Legal entity, tenant and currency of an account."""


def grant_differences(connection: sa.Connection) -> list[FigureDifference]:
    """Figures of grants' balances that are not those of their events (C1)."""
    return [FigureDifference(**members(row)) for row in query(connection, _GRANTS)]


def grants_of_others(connection: sa.Connection) -> list[str]:
    """Ids of grants whose balance or events are another tenant's than the grant."""
    return [row.id for row in query(connection, _OF_OTHERS)]


def owed_credits(connection: sa.Connection) -> Iterator[OwedCredit]:
    """Every grant that cost something and of which something remains."""
    rows = query(
        connection,
        "SELECT g.legal_entity_id, g.tenant_id, g.currency, g.cost_basis, g.amount, b.remaining "
        "FROM credit_grant g JOIN credit_balance b ON b.grant_id = g.id "
        # No amount is named by the grant's own difference; no share of it can be told.
        "WHERE g.cost_basis <> 0 AND b.remaining <> 0 AND g.amount <> 0",
    )
    return (OwedCredit(**members(row)) for row in rows)


def document_differences(connection: sa.Connection) -> list[FigureDifference]:
    """Figures of issued invoices and credit notes that their postings or credit contradict."""
    return [
        FigureDifference(**members(row)) for row in query(connection, _OF_DOCUMENTS, **_asked())
    ]


def open_amounts(connection: sa.Connection) -> dict[AccountOf, Decimal]:
    """What is due on issued documents and was not paid, by the receivable that it stands on."""
    rows = query(connection, _OPEN, **_asked())
    return {
        (row.legal_entity_id, row.tenant_id, row.currency): row.amount
        for row in rows
        if row.amount is not None
    }


def balances_of(connection: sa.Connection, code: AccountCode) -> dict[AccountOf, Decimal]:
    """The balances of all tenants' accounts of a code; debits are positive."""
    rows = query(
        connection,
        "SELECT a.legal_entity_id, a.tenant_id, a.currency, b.balance FROM account a "
        "JOIN account_balance b ON b.account_id = a.id WHERE a.code = :code",
        code=code.value,
    )
    return {(row.legal_entity_id, row.tenant_id, row.currency): row.balance for row in rows}


def _asked() -> dict[str, object]:
    ones = {code: Decimal(1).scaleb(-each.decimals) for code, each in CURRENCIES.items()}
    return {
        "codes": list(ones),
        "ones": list(ones.values()),
        "receivable": AccountCode.RECEIVABLE.value,
    }
