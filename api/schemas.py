"""What tenants and operators both read: invoices, keys, claims, contracts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from api.fields import ledger_text, major_text, shown_request_id
from billing.catalog.contract import Contract
from billing.money import plain
from billing.operations.invoicing.read_invoices import InvoiceView
from billing.operations.tenancy.keys import IssuedKey
from billing.outcomes import claim as claims
from billing.store.invoices import InvoiceLineRow, InvoiceRow
from billing.tenancy import api_key


class InvoiceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice without its lines. Amounts are text in major units of the currency.

    `kind` is `period`, `correction` (of corrections only), `advance` (of fees in advance only) or
    `credit_note`, whose amounts are below zero; `ordinal` counts a kind in a billing period.
    """

    id: UUID
    number: str | None
    kind: str
    ordinal: int
    state: str
    tenant: str
    legal_entity: str
    currency: str
    period_start: datetime
    period_end: datetime
    subtotal: str
    tax: str
    total: str
    amount_due: str
    drafted_at: datetime
    issued_at: datetime | None
    due_at: datetime | None
    paid_at: datetime | None


class ExplanationStep(msgspec.Struct, frozen=True, kw_only=True):
    """One line of arithmetic behind an amount, to be redone by hand."""

    step: str
    text: str
    amount: str | None


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line: what it bills (`amount`) and the exact amount that was rounded to it."""

    ordinal: int
    kind: str
    key: str
    description: str
    meter: str | None
    unit: str | None
    quantity: str
    exact: str
    amount: str
    explanation: list[ExplanationStep]


class RedeemedCredit(msgspec.Struct, frozen=True, kw_only=True):
    """Paid credit that was redeemed on an invoice: total less these is the amount due."""

    grant: UUID
    source: str
    amount: str


class DueAtEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What an open period lacks of a minimum or commitment: due if nothing more is used."""

    contract: int
    key: str
    kind: str
    description: str
    text: str
    amount: str


class Invoice(InvoiceSummary, frozen=True, kw_only=True):
    """An invoice with its lines, the watermark of the usage in it, and what rounding left over.

    `due_at_end` is empty unless it is a draft of a period that is not over.
    """

    watermark: int
    residual_before: str
    residual_after: str
    lines: list[InvoiceLine]
    due_at_end: list[DueAtEnd]
    credits_redeemed: list[RedeemedCredit]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. `public` is how its text begins."""

    id: int
    public: str
    role: api_key.Role
    tenant: str | None
    project: str | None
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeySecret(msgspec.Struct, frozen=True, kw_only=True):
    """A new key. `key` is shown here only and never again."""

    id: int
    public: str
    role: api_key.Role
    key: str


class OutcomeClaim(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome that was reported for a subject; billed once the tenant has confirmed it."""

    id: UUID
    tenant: str
    outcome: str
    subject: str
    state: claims.ClaimState
    reported_at: datetime
    confirmed_at: datetime | None
    request_id: str | None


class BoundContract(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant on a plan version, from an instant to another, or until ended."""

    id: int
    tenant: str
    plan: str
    version: int
    currency: str
    valid_from: datetime
    valid_until: datetime | None


def show_summary(row: InvoiceRow) -> InvoiceSummary:
    """An invoice's head."""
    return InvoiceSummary(**_head(row))


def show_invoice(view: InvoiceView) -> Invoice:
    """An invoice with its lines."""
    row = view.invoice
    return Invoice(
        **_head(row),
        watermark=row.watermark,
        residual_before=ledger_text(row.residual_before),
        residual_after=ledger_text(row.residual_after),
        lines=[show_line(line, row.currency) for line in view.lines],
        due_at_end=[DueAtEnd(**each) for each in row.inputs.get("due_at_end", ())],
        credits_redeemed=[
            RedeemedCredit(grant=paid.grant_id, source=paid.source, amount=ledger_text(paid.amount))
            for paid in view.redeemed
        ],
    )


def show_line(line: InvoiceLineRow, currency_code: str) -> InvoiceLine:
    """A line of an invoice in a currency."""
    return InvoiceLine(
        ordinal=line.ordinal,
        kind=line.kind,
        key=line.key,
        description=line.description,
        meter=line.meter,
        unit=line.unit,
        quantity=plain(line.quantity),
        exact=ledger_text(line.exact),
        amount=major_text(line.amount_minor, currency_code),
        explanation=[
            ExplanationStep(step=step["step"] or "", text=step["text"] or "", amount=step["amount"])
            for step in line.explanation
        ],
    )


def show_key(key: api_key.ApiKey) -> ApiKey:
    """A key as it is listed."""
    return ApiKey(
        id=key.id,
        public=key.public,
        role=key.role,
        tenant=key.tenant,
        project=key.project,
        name=key.name,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )


def show_secret(issued: IssuedKey) -> NewKeySecret:
    """A new key, this once with its text."""
    return NewKeySecret(id=issued.id, public=issued.public, role=issued.role, key=issued.text)


def show_claim(claim: claims.Claim) -> OutcomeClaim:
    """A claim as it stands."""
    event_id = claim.usage_event_id
    return OutcomeClaim(
        id=claim.id,
        tenant=claim.tenant,
        outcome=claim.outcome,
        subject=claim.subject,
        state=claim.state,
        reported_at=claim.reported_at,
        confirmed_at=claim.confirmed_at,
        request_id=None if event_id is None else shown_request_id(event_id),
    )


def show_contract(contract: Contract, slugs: Mapping[int, str]) -> BoundContract:
    """A contract; `slugs` names tenants by row id."""
    return BoundContract(
        id=contract.id,
        tenant=slugs[contract.tenant_id],
        plan=contract.plan_slug,
        version=contract.plan_version,
        currency=contract.currency.code,
        valid_from=contract.valid_from,
        valid_until=contract.valid_until,
    )


def _head(row: InvoiceRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "number": row.number,
        "kind": row.kind,
        "ordinal": row.ordinal,
        "state": row.state,
        "tenant": row.tenant,
        "legal_entity": row.legal_entity,
        "currency": row.currency,
        "period_start": row.period_start,
        "period_end": row.period_end,
        "subtotal": major_text(row.subtotal_minor, row.currency),
        "tax": major_text(row.tax_minor, row.currency),
        "total": major_text(row.total_minor, row.currency),
        "amount_due": major_text(row.amount_due_minor, row.currency),
        "drafted_at": row.drafted_at,
        "issued_at": row.issued_at,
        "due_at": row.due_at,
        "paid_at": row.paid_at,
    }
