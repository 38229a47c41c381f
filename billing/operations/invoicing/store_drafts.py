"""From rated periods to drafts: the invoice, and a credit note beside it where one is due.

A draft stores the watermark and the quantities that it was rated from, of every period and contract
on it, so that its figures can be rated again later. Whether a group of lines is on the invoice or
on the credit note is decided by `billing.invoicing.document_kind`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from billing.invoicing.document_kind import DocumentKind, credited
from billing.invoicing.invoice import InvoiceDraft, draft_credit_note, draft_invoice
from billing.money import Currency, plain
from billing.operations.invoicing.line_bases import (
    Basis,
    ContractLines,
    Origin,
    Parts,
    groups_of,
    settlements,
)
from billing.operations.minting import mint_id
from billing.operations.rating.rate_period import RatedContract, RatedPeriod, due_at_end
from billing.operations.tenancy.tenants import require_legal_entity
from billing.planfiles.contract_file import terms_digest
from billing.rating.line import RatedLine
from billing.rating.weigh import WINDOWS
from billing.store import invoices as store
from billing.store.invoice_drafts import delete_drafts, insert_draft
from billing.store.invoices import (
    InvoiceLineRow,
    InvoiceQuantityRow,
    InvoiceRow,
    NewDraft,
    ScopeRow,
)
from billing.tenancy.tenant import LegalEntity, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """A document to store.

    Attributes:
        rated: the periods whose usage it rates, its own first.
        groups: the lines on it, by contract and period.
    """

    kind: DocumentKind
    draft: InvoiceDraft
    rated: tuple[RatedPeriod, ...]
    groups: tuple[ContractLines, ...]

    @property
    def head(self) -> RatedPeriod:
        """The period that the document is of."""
        return (*self.rated, *(group.rated for group in self.groups))[0]


def store_drafts(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    in_currency: Currency,
    parts: Parts,
    kind: DocumentKind = DocumentKind.PERIOD,
    now: datetime,
) -> tuple[InvoiceRow, ...]:
    """Store drafts in place of earlier ones; the caller holds the tenant's lock.

    Args:
        parts: what they are made of; the draft of a period's own invoice comes first. Without such
            a period they may come to no document at all.
        kind: of the invoice among them.
    """
    own = parts.own
    entity = require_legal_entity(connection, tenant.legal_entity)
    delete_drafts(
        connection,
        tenant_id=tenant.id,
        legal_entity_id=entity.id,
        currency=in_currency.code,
        period_start=None if own is None else own.period.start,
    )
    residual = store.last_residual(
        connection, tenant_id=tenant.id, legal_entity_id=entity.id, currency=in_currency.code
    )
    groups = groups_of(connection, parts)
    return tuple(
        _store(connection, tenant, entity, document, now=now)
        for document in _documents(groups, parts, kind, in_currency, residual)
    )


def _documents(
    groups: Sequence[ContractLines],
    parts: Parts,
    kind: DocumentKind,
    in_currency: Currency,
    residual: Decimal,
) -> Iterable[_Document]:
    away = credited([group.group for group in groups], in_currency)
    billed = tuple(group for group, gone in zip(groups, away, strict=True) if not gone)
    given_back = tuple(group for group, gone in zip(groups, away, strict=True) if gone)
    draft = draft_invoice(_line_bases(billed), currency=in_currency, residual_before=residual)
    # A residual alone waits for the next invoice of a period.
    if parts.own is not None or any(line.key in _keys(billed) for line in draft.lines):
        residual = draft.residual_after
        yield _Document(
            kind=kind,
            draft=draft,
            rated=_newest_first(billed) if parts.own is None else parts.with_usage(),
            groups=billed,
        )
    if given_back:
        yield _Document(
            kind=DocumentKind.CREDIT_NOTE,
            draft=draft_credit_note(
                _line_bases(given_back), currency=in_currency, residual_before=residual
            ),
            rated=_newest_first(given_back),
            groups=given_back,
        )


def _store(
    connection: sa.Connection,
    tenant: Tenant,
    entity: LegalEntity,
    document: _Document,
    *,
    now: datetime,
) -> InvoiceRow:
    draft, head = document.draft, document.head
    bases = [basis for group in document.groups for basis in group.bases]
    invoice_id = mint_id(now)
    totals = draft.totals
    insert_draft(
        connection,
        NewDraft(
            id=invoice_id,
            kind=document.kind.value,
            tenant_id=tenant.id,
            legal_entity_id=entity.id,
            currency=draft.currency.code,
            period=head.period,
            watermark=head.watermark,
            inputs=_inputs(document, now=now),
            subtotal_minor=totals.subtotal_minor,
            tax_minor=totals.tax_minor,
            total_minor=totals.total_minor,
            amount_due_minor=totals.amount_due_minor,
            residual_before=draft.residual_before,
            residual_after=draft.residual_after,
            lines=_line_rows(draft, {entry.basis.key: entry for entry in bases}),
            quantities=tuple(row for group in document.groups for row in _quantity_rows(group)),
            scopes=tuple(
                ScopeRow(period=scope.period, watermark=scope.watermark) for scope in document.rated
            ),
            settlements=settlements(draft, bases),
        ),
        now=now,
    )
    found = store.invoice(connection, invoice_id)
    assert found is not None
    return found


def _newest_first(groups: Iterable[ContractLines]) -> tuple[RatedPeriod, ...]:
    rated = {group.rated.period.start: group.rated for group in groups if group.origin.rates_usage}
    return tuple(rated[start] for start in sorted(rated, reverse=True))


def _rated_of(groups: Iterable[ContractLines], origin: Origin) -> Iterable[RatedPeriod]:
    return {id(group.rated): group.rated for group in groups if group.origin is origin}.values()


def _line_bases(groups: Iterable[ContractLines]) -> list[Any]:
    return [entry.basis for group in groups for entry in group.bases]


def _keys(groups: Iterable[ContractLines]) -> set[str]:
    return {entry.basis.key for group in groups for entry in group.bases}


def _inputs(document: _Document, *, now: datetime) -> dict[str, Any]:
    head = document.head
    is_period = document.kind is DocumentKind.PERIOD
    here = {
        (group.rated.period.start, group.contract.bound.contract.id) for group in document.groups
    }
    return {
        "contracts": _contract_inputs(head, here),
        "corrected": [_period_input(rated, here) for rated in document.rated[1:]],
        **{
            origin.value: [
                _period_input(rated, here) for rated in _rated_of(document.groups, origin)
            ]
            for origin in (Origin.AHEAD, Origin.UNEARNED)
        },
        "unrated": [
            {"meter": row.meter, "model": row.model, "quantity": plain(row.quantity)}
            for row in head.unrated
        ],
        "due_at_end": _due_at_end(head) if is_period else [],
        # Levels over time, and what closes with the period, are rated again up to here.
        **({"until": now.isoformat()} if document.kind is DocumentKind.PROGRESSIVE else {}),
    }


def _period_input(rated: RatedPeriod, here: set[tuple[datetime, int]]) -> dict[str, Any]:
    return {
        "period_start": rated.period.start.isoformat(),
        "period_end": rated.period.end.isoformat(),
        "contracts": _contract_inputs(rated, here),
    }


def _contract_inputs(rated: RatedPeriod, here: set[tuple[datetime, int]]) -> list[dict[str, Any]]:
    """What rates the period again: all contracts in force, and whose lines are on the document."""
    return [
        _contract_input(contract, here=(rated.period.start, contract.bound.contract.id) in here)
        for contract in rated.contracts
    ]


def _contract_input(contract: RatedContract, *, here: bool) -> dict[str, Any]:
    bound = contract.bound.contract
    digest = terms_digest(contract.bound.terms)
    until = bound.valid_until
    return {
        "id": bound.id,
        "plan": bound.plan_slug,
        "version": bound.plan_version,
        "valid_from": bound.valid_from.isoformat(),
        "valid_until": None if until is None else until.isoformat(),
        "here": here,
        **({} if digest is None else {"terms": digest}),
    }


def _due_at_end(rated: RatedPeriod) -> list[dict[str, Any]]:
    return [
        {
            "contract": contract.bound.contract.id,
            "key": line.key,
            "kind": line.kind.value,
            "description": line.description,
            "text": _because(line),
            "amount": plain(line.exact),
        }
        for contract in rated.contracts
        for line in due_at_end(contract, rated.period)
    ]


def _because(line: RatedLine) -> str:
    """The arithmetic of an adjustment; of a shortfall, what its windows come to together."""
    return next(
        (note.text for note in line.explanation if note.step == WINDOWS), line.explanation[-1].text
    )


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


def _quantity_rows(group: ContractLines) -> Iterable[InvoiceQuantityRow]:
    return (
        InvoiceQuantityRow(
            period_start=group.rated.period.start,
            contract_id=group.contract.bound.contract.id,
            meter=quantity.meter,
            model=quantity.model,
            quantity=quantity.quantity,
            dimensions=quantity.dimensions,
            at=quantity.at,
            transactions=quantity.transactions,
            changes=quantity.changes,
        )
        for quantity in group.contract.quantities
    )
