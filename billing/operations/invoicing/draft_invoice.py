"""Draft the invoice of a billing period: rated lines, sums, residual, and all inputs with it.

A draft shows the credit that was applied by then; issuing applies what is left to apply.

A draft stores the watermark and the quantities that it was rated from, so that its figures can be
checked against the ledger later. Drafting again takes a new watermark and replaces the draft; an
issued invoice is returned as it is (I2).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from billing.catalog.contract_terms import ContractTerms
from billing.errors import Conflict, NotFound
from billing.invoicing import invoice as core
from billing.invoicing.invoice import InvoiceDraft
from billing.money import Currency, plain
from billing.operations.invoicing.line_bases import Basis, bases_of, rated_again, settlements
from billing.operations.minting import mint_id
from billing.operations.rating.rate_period import RatedPeriod, due_at_end, rate_period
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period
from billing.planfiles.contract_file import terms_digest
from billing.store import invoices as store
from billing.store.invoice_drafts import replace_draft
from billing.store.invoices import (
    InvoiceLineRow,
    InvoiceQuantityRow,
    InvoiceRow,
    NewDraft,
    ScopeRow,
)
from billing.tenancy.tenant import Tenant


def draft_invoice(
    connection: sa.Connection, *, tenant: Tenant, period: Period, now: datetime
) -> InvoiceRow:
    """Draft the invoice of a tenant's billing period, in the operator role's transaction.

    Raises:
        NotFound: no contract was in force in the period.
        Conflict: contracts in more than one currency, or lines that sum below zero.
    """
    store.lock_invoicing(connection, tenant.id)
    rated = rate_period(connection, tenant=tenant, period=period, until=now)
    issued = _issued(connection, rated)
    corrected = rated_again(connection, rated)
    return issued or store_draft(connection, rated, corrected, now=now)


def store_draft(
    connection: sa.Connection,
    rated: RatedPeriod,
    corrected: Sequence[RatedPeriod],
    *,
    now: datetime,
) -> InvoiceRow:
    """Store the draft of a rated period in place of an earlier one; the caller holds the lock."""
    tenant = rated.tenant
    entity = require_legal_entity(connection, tenant.legal_entity)
    in_currency = invoice_currency(rated)
    residual = store.last_residual(
        connection,
        tenant_id=tenant.id,
        legal_entity_id=entity.id,
        currency=in_currency.code,
    )
    bases = bases_of(connection, rated, corrected)
    draft = core.draft_invoice(
        [entry.basis for entry in bases], currency=in_currency, residual_before=residual
    )
    invoice_id = mint_id(now)
    totals = draft.totals
    replace_draft(
        connection,
        NewDraft(
            id=invoice_id,
            tenant_id=tenant.id,
            legal_entity_id=entity.id,
            currency=in_currency.code,
            period=rated.period,
            watermark=rated.watermark,
            inputs=_inputs(rated),
            subtotal_minor=totals.subtotal_minor,
            tax_minor=totals.tax_minor,
            total_minor=totals.total_minor,
            amount_due_minor=totals.amount_due_minor,
            residual_before=draft.residual_before,
            residual_after=draft.residual_after,
            lines=_line_rows(draft, {entry.basis.key: entry for entry in bases}),
            quantities=_quantity_rows(rated),
            scopes=tuple(
                ScopeRow(period=scope.period, watermark=scope.watermark)
                for scope in (rated, *corrected)
            ),
            settlements=settlements(draft, bases),
        ),
        now=now,
    )
    found = store.invoice(connection, invoice_id)
    assert found is not None
    return found


def invoice_currency(rated: RatedPeriod) -> Currency:
    """The currency of a rated period's invoice.

    Raises:
        NotFound: no contract was in force.
        Conflict: contracts in more than one currency.
    """
    currencies = {contract.bound.contract.currency.code for contract in rated.contracts}
    if not currencies:
        raise NotFound(
            "no contract was in force in this period",
            field="period",
            remedy="bind the tenant to a plan, or choose another period",
        )
    if len(currencies) > 1:
        raise Conflict(
            "contracts of this period are in more than one currency",
            field="currency",
            remedy="end all but those of one currency",
        )
    return rated.contracts[0].bound.contract.currency


def _issued(connection: sa.Connection, rated: RatedPeriod) -> InvoiceRow | None:
    entity = require_legal_entity(connection, rated.tenant.legal_entity)
    existing = store.period_invoice(
        connection,
        tenant_id=rated.tenant.id,
        legal_entity_id=entity.id,
        currency=invoice_currency(rated).code,
        period_start=rated.period.start,
    )
    return existing if existing is not None and existing.state != "draft" else None


def _inputs(rated: RatedPeriod) -> dict[str, Any]:
    return {
        "contracts": [
            {
                "id": contract.bound.contract.id,
                "plan": contract.bound.contract.plan_slug,
                "version": contract.bound.contract.plan_version,
                **_terms_named(contract.bound.terms),
            }
            for contract in rated.contracts
        ],
        "unrated": [
            {"meter": row.meter, "model": row.model, "quantity": plain(row.quantity)}
            for row in rated.unrated
        ],
        "due_at_end": [
            {
                "contract": contract.bound.contract.id,
                "key": line.key,
                "kind": line.kind.value,
                "description": line.description,
                "text": line.explanation[-1].text,
                "amount": plain(line.exact),
            }
            for contract in rated.contracts
            for line in due_at_end(contract, rated.period)
        ],
    }


def _terms_named(terms: ContractTerms) -> dict[str, str]:
    digest = terms_digest(terms)
    return {} if digest is None else {"terms": digest}


def _line_rows(draft: InvoiceDraft, bases: dict[str, Basis]) -> tuple[InvoiceLineRow, ...]:
    rows: list[InvoiceLineRow] = []
    for ordinal, line in enumerate(draft.lines, start=1):
        basis = bases.get(line.key)
        rated = basis.line if basis else None
        rows.append(
            InvoiceLineRow(
                ordinal=ordinal,
                kind=line.kind.value,
                key=line.key,
                contract_id=basis.contract.bound.contract.id if basis else None,
                description=line.description,
                meter=rated.meter if rated else None,
                unit=rated.unit if rated else None,
                quantity=line.quantity or Decimal(0),
                exact=rated.exact if rated else line.exact,
                amount_minor=line.amount_minor,
                explanation=[
                    {
                        "step": step.step,
                        "text": step.text,
                        "amount": None if step.amount is None else plain(step.amount),
                    }
                    for step in (rated.explanation if rated else ())
                ],
                by_model=[
                    (model, plain(weight)) for model, weight in (rated.by_model if rated else ())
                ],
            )
        )
    return tuple(rows)


def _quantity_rows(rated: RatedPeriod) -> tuple[InvoiceQuantityRow, ...]:
    return tuple(
        InvoiceQuantityRow(
            contract_id=contract.bound.contract.id,
            meter=quantity.meter,
            model=quantity.model,
            quantity=quantity.quantity,
            dimensions=quantity.dimensions,
            at=quantity.at,
            transactions=quantity.transactions,
        )
        for contract in rated.contracts
        for quantity in contract.quantities
    )
