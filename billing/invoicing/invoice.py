"""Invoices: what is due on each line, how the lines add up, what fraction stays behind.

Decides: the amount on every line key (rounded cumulative amount less what was invoiced on it),
when a residual line is due, the sums and their check. Decides nothing about accounts, storage or
when an invoice is issued.

Why residuals exist: lines are rounded one by one, so an invoice differs from the exact accrual by
fractions of a minor unit. They are carried, never dropped, and billed once they reach a minor
unit. Issued invoices are never restated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from enum import StrEnum

from billing.catalog.selector import RESIDUAL_KEY
from billing.errors import Conflict, InvalidInput, TieOutFailed
from billing.money import EXACT, Currency, from_minor, to_ledger, to_minor

_ZERO = Decimal(0)


class LineKind(StrEnum):
    """Why a line is on an invoice: a rated line of one of rating's kinds, credit, or a residual."""

    CHARGE = "charge"
    SHORTFALL = "shortfall"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    TRUE_UP = "true_up"
    OVERAGE = "overage"
    COUPON = "coupon"
    CREDIT = "credit"
    RESIDUAL = "residual"

    @property
    def is_rated(self) -> bool:
        """Whether rating gives the line's amount."""
        return self not in {LineKind.CREDIT, LineKind.RESIDUAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineBasis:
    """All that is known of one line key when an invoice is drafted.

    Attributes:
        key: unique on the invoice; the same in every invoice of the billing period.
        description: what the invoice calls it.
        quantity: units since the start of the billing period; None for lines that count nothing.
        exact: amount since the start of the billing period, in major units, not rounded.
        invoiced_minor: what earlier invoices billed on this key, in minor units.
        accrued_before: what earlier invoices took as accrued on this key, at 12 decimals.
        kind: why it is there; credit has amounts below zero.
    """

    key: str
    description: str
    quantity: Decimal | None
    exact: Decimal
    invoiced_minor: int = 0
    accrued_before: Decimal = _ZERO
    kind: LineKind = LineKind.CHARGE


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """One line of an invoice.

    Attributes:
        key: as in its basis; `residual` for the residual line.
        description: what the reader sees.
        quantity: units since the start of the billing period, or None.
        exact: newly accrued amount behind the line, at the ledger's 12 decimals.
        amount_minor: what the line bills, in minor units; never zero.
        kind: why the line is there.
    """

    key: str
    description: str
    quantity: Decimal | None
    exact: Decimal
    amount_minor: int
    kind: LineKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Accrual:
    """What moved Unbilled on one line key, at 12 decimals; also for keys that give no line."""

    key: str
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceTotals:
    """The sums of an invoice, in minor units.

    Attributes:
        subtotal_minor: sum of all lines.
        tax_minor: sum of all taxes.
        total_minor: subtotal and tax: what moves into receivables.
        amount_due_minor: total less paid credits: what the tenant pays.
    """

    subtotal_minor: int
    tax_minor: int
    total_minor: int
    amount_due_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDraft:
    """An invoice before it has a number.

    Attributes:
        currency: of every amount.
        lines: those that bill something, in the order of their bases, the residual line last.
        accruals: newly accrued revenue, and credit used, per key, zero amounts left out.
        totals: sums of the lines.
        residual_before, residual_after: fractions in Unbilled around this invoice, either sign.
    """

    currency: Currency
    lines: tuple[InvoiceLine, ...]
    accruals: tuple[Accrual, ...]
    totals: InvoiceTotals
    residual_before: Decimal
    residual_after: Decimal


def draft_invoice(
    bases: Sequence[LineBasis], *, currency: Currency, residual_before: Decimal = _ZERO
) -> InvoiceDraft:
    """Work out an invoice from what is known of every line key.

    Args:
        bases: one per line key.
        currency: of all of them.
        residual_before: what earlier invoices left in Unbilled, at 12 decimals, either sign.

    Raises:
        InvalidInput: a key occurs twice.
        AmountOutOfRange: an amount that neither an invoice nor the ledger can carry.
        Conflict: the lines sum to less than zero; that takes a credit note.
    """
    with localcontext(EXACT):
        lines = _lines(bases, currency)
        charged = sum(line.amount_minor for line in lines)
        if charged < 0:
            raise Conflict(
                "the lines sum to less than zero",
                field="total",
                remedy="an invoice cannot credit; leave the correction to a credit note",
            )
        residual = _residual_line(residual_before, currency, charged_minor=charged)
    return _draft(
        bases, lines if residual is None else [*lines, residual], currency, residual_before
    )


def draft_credit_note(
    bases: Sequence[LineBasis], *, currency: Currency, residual_before: Decimal = _ZERO
) -> InvoiceDraft:
    """Work out a credit note, an invoice whose lines sum below zero; see `draft_invoice`.

    What is left in Unbilled before it waits for the next invoice.

    Raises:
        Conflict: the lines do not sum below zero.
    """
    lines = _lines(bases, currency)
    if sum(line.amount_minor for line in lines) >= 0:
        raise Conflict("a credit note gives something back", field="total", remedy="invoice it")
    return _draft(bases, lines, currency, residual_before)


def charged_minor(bases: Sequence[LineBasis], currency: Currency) -> int:
    """What lines come to before credit pays for them, in minor units of either sign."""
    due = [
        (due_on_line(basis.exact, basis.invoiced_minor, currency), basis.kind) for basis in bases
    ]
    return sum(minor for minor, kind in due if minor > 0 or kind is not LineKind.CREDIT)


def _lines(bases: Sequence[LineBasis], currency: Currency) -> list[InvoiceLine]:
    _require_unique(bases)
    return _credit_within_charges(
        [line for basis in bases if (line := _line(basis, currency)) is not None]
    )


def _draft(
    bases: Sequence[LineBasis],
    lines: Sequence[InvoiceLine],
    currency: Currency,
    residual_before: Decimal,
) -> InvoiceDraft:
    with localcontext(EXACT):
        accruals = [
            Accrual(key=basis.key, amount=accrued)
            for basis in bases
            if (accrued := newly_accrued(basis))
        ]
        totals = total_up(lines)
        draft = InvoiceDraft(
            currency=currency,
            lines=tuple(lines),
            accruals=tuple(accruals),
            totals=totals,
            residual_before=residual_before,
            residual_after=residual_before
            + sum((accrual.amount for accrual in accruals), _ZERO)
            - from_minor(totals.subtotal_minor, currency),
        )
    check_draft(draft)
    return draft


def due_on_line(exact: Decimal, invoiced_minor: int, currency: Currency) -> int:
    """Minor units due on a line key: the rounded cumulative amount less what was invoiced on it."""
    return to_minor(exact, currency) - invoiced_minor


def newly_accrued(basis: LineBasis) -> Decimal:
    """Amount accrued on a key since the last invoice, at 12 decimals: drift cannot build up."""
    return EXACT.subtract(to_ledger(basis.exact), basis.accrued_before)


def total_up(lines: Sequence[InvoiceLine], *, tax_minor: int = 0) -> InvoiceTotals:
    """The sums of an invoice without paid credits."""
    subtotal = sum(line.amount_minor for line in lines)
    return InvoiceTotals(
        subtotal_minor=subtotal,
        tax_minor=tax_minor,
        total_minor=subtotal + tax_minor,
        amount_due_minor=subtotal + tax_minor,
    )


def check_sums(amounts_minor: Sequence[int], totals: InvoiceTotals) -> None:
    """R1: the lines add up to the subtotal, subtotal and tax to the total.

    Raises:
        TieOutFailed: two figures that must be equal are not.
    """
    if sum(amounts_minor) != totals.subtotal_minor:
        raise TieOutFailed("invoice lines do not add up to the subtotal", field="subtotal")
    if totals.subtotal_minor + totals.tax_minor != totals.total_minor:
        raise TieOutFailed("subtotal and tax do not add up to the total", field="total")
    least, most = sorted((0, totals.total_minor))
    if not least <= totals.amount_due_minor <= most:
        raise TieOutFailed("the amount due is not between zero and the total", field="amount_due")


def check_mirrors(totals: InvoiceTotals, *, receivable_minor: int, stripe_minor: int) -> None:
    """I1: the total is what moved into receivables; the amount due is what Stripe shows.

    Raises:
        TieOutFailed: a mirror differs.
    """
    if receivable_minor != totals.total_minor:
        raise TieOutFailed("the receivable differs from the invoice total", field="receivable")
    if stripe_minor != totals.amount_due_minor:
        raise TieOutFailed("Stripe's total differs from the amount due", field="stripe_total")


def check_draft(draft: InvoiceDraft) -> None:
    """R1 for a draft, and the residual: nothing accrued is lost between ledger and invoice.

    Raises:
        TieOutFailed: two figures that must be equal are not.
    """
    check_sums([line.amount_minor for line in draft.lines], draft.totals)
    with localcontext(EXACT):
        accrued = sum((accrual.amount for accrual in draft.accruals), _ZERO)
        billed = from_minor(draft.totals.subtotal_minor, draft.currency)
        if draft.residual_before + accrued != billed + draft.residual_after:
            raise TieOutFailed("accrued and billed differ by more than the residual")


def _line(basis: LineBasis, currency: Currency) -> InvoiceLine | None:
    due = due_on_line(basis.exact, basis.invoiced_minor, currency)
    if due == 0:
        return None
    return InvoiceLine(
        key=basis.key,
        description=basis.description,
        quantity=basis.quantity,
        exact=newly_accrued(basis),
        amount_minor=due,
        kind=basis.kind,
    )


def _credit_within_charges(lines: Sequence[InvoiceLine]) -> list[InvoiceLine]:
    """The lines with credit cut to what they charge; what is cut stays behind as a residual.

    Credit used never exceeds revenue, but rounds apart from it, and credit applied after its
    period was invoiced can exceed what this invoice charges. Credit that came back to its grant is
    a line above zero: it undoes a line of an earlier invoice, and charges.
    """

    def uses_credit(line: InvoiceLine) -> bool:
        return line.kind is LineKind.CREDIT and line.amount_minor < 0

    left = max(0, sum(line.amount_minor for line in lines if not uses_credit(line)))
    kept: list[InvoiceLine] = []
    for line in lines:
        if not uses_credit(line):
            kept.append(line)
            continue
        amount_minor = max(line.amount_minor, -left)
        left += amount_minor
        if amount_minor:
            kept.append(replace(line, amount_minor=amount_minor))
    return kept


def _residual_line(
    residual: Decimal, currency: Currency, *, charged_minor: int
) -> InvoiceLine | None:
    """The whole minor units of what was left before; the fraction stays.

    A negative residual takes off no more than the invoice bills, and the rest of it is carried on:
    it is no reason to refuse the invoice.
    """
    whole_minor = max(int(residual.scaleb(currency.decimals, context=EXACT)), -charged_minor)
    if whole_minor == 0:
        return None
    return InvoiceLine(
        key=RESIDUAL_KEY,
        description="Fractions carried from earlier invoices",
        quantity=None,
        exact=_ZERO,
        amount_minor=whole_minor,
        kind=LineKind.RESIDUAL,
    )


def _require_unique(bases: Sequence[LineBasis]) -> None:
    keys = [basis.key for basis in bases]
    if len(set(keys)) != len(keys) or RESIDUAL_KEY in keys:
        raise InvalidInput(
            "a line key occurs twice or is reserved",
            field="lines.key",
            remedy="give every line a key of its own",
        )
