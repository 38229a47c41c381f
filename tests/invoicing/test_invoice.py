"""Invoices: amounts by line key, sums, and the residual that is carried."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import AmountOutOfRange, Conflict, InvalidInput, TieOutFailed
from billing.invoicing.invoice import (
    InvoiceTotals,
    LineBasis,
    LineKind,
    check_draft,
    check_mirrors,
    check_sums,
    draft_invoice,
    due_on_line,
    total_up,
)
from billing.money import EXACT, LEDGER_DECIMALS, currency, from_minor, to_ledger, to_minor
from tests.strategies import PATIENT, currencies, decimals

USD = currency("USD")


def basis(
    key: str, exact: Decimal | str, invoiced_minor: int = 0, accrued_before: Decimal | str = "0"
) -> LineBasis:
    return LineBasis(
        key=key,
        description=key,
        quantity=Decimal(1),
        exact=Decimal(exact),
        invoiced_minor=invoiced_minor,
        accrued_before=Decimal(accrued_before),
    )


def test_the_worked_example_of_the_books():
    """Lines 10.004, 5.0061 and 20 bill 35.01, at 20 % tax 42.01; Unbilled keeps 0.0001."""
    draft = draft_invoice(
        [basis("a", "10.004"), basis("b", "5.0061"), basis("c", "20")], currency=USD
    )

    assert [line.amount_minor for line in draft.lines] == [1000, 501, 2000]
    assert sum(accrual.amount for accrual in draft.accruals) == Decimal("35.0101")
    assert draft.totals.subtotal_minor == draft.totals.amount_due_minor == 3501
    assert draft.residual_after == Decimal("0.0001")
    assert total_up(draft.lines, tax_minor=700).total_minor == 4201


def test_a_line_that_rounds_to_zero_is_left_out_but_accrues():
    draft = draft_invoice([basis("dust", "0.004")], currency=USD)

    assert draft.lines == ()
    assert [(a.key, a.amount) for a in draft.accruals] == [("dust", Decimal("0.004"))]
    assert draft.residual_after == Decimal("0.004")


@pytest.mark.parametrize(
    ("before", "billed_minor", "after"),
    [
        ("0.009999999999", None, "0.009999999999"),
        ("0.01", 1, "0"),
        ("0.0199", 1, "0.0099"),
        ("-0.0199", -1, "-0.0099"),
        ("-0.0099", None, "-0.0099"),
        ("0", None, "0"),
    ],
)
def test_a_residual_line_bills_whole_minor_units_left_before(before, billed_minor, after):
    draft = draft_invoice([basis("a", "5")], currency=USD, residual_before=Decimal(before))

    residuals = [line for line in draft.lines if line.kind is LineKind.RESIDUAL]
    assert [line.amount_minor for line in residuals] == ([billed_minor] if billed_minor else [])
    assert draft.residual_after == Decimal(after)


def test_a_residual_of_a_currency_without_minor_digits():
    draft = draft_invoice([], currency=currency("JPY"), residual_before=Decimal("1.5"))

    assert [line.amount_minor for line in draft.lines] == [1]
    assert draft.residual_after == Decimal("0.5")


def test_a_negative_residual_never_turns_an_invoice_negative():
    draft = draft_invoice([basis("a", "0.01")], currency=USD, residual_before=Decimal("-0.02"))

    assert [line.amount_minor for line in draft.lines] == [1, -1]
    assert draft.residual_after == Decimal("-0.01")


def test_a_correction_appears_on_its_line_key():
    draft = draft_invoice(
        [basis("a", "9.50", invoiced_minor=1000, accrued_before="10.004"), basis("b", "3")],
        currency=USD,
        residual_before=Decimal("0.004"),
    )

    assert [(line.key, line.amount_minor) for line in draft.lines] == [("a", -50), ("b", 300)]
    assert draft.residual_after == 0


def test_lines_below_zero_are_refused():
    with pytest.raises(Conflict) as refused:
        draft_invoice([basis("a", "0", invoiced_minor=1)], currency=USD)

    assert refused.value.field == "total"


@pytest.mark.parametrize("keys", [("a", "a"), ("residual",)])
def test_keys_are_unique_and_the_residual_key_is_reserved(keys):
    with pytest.raises(InvalidInput):
        draft_invoice([basis(key, "1") for key in keys], currency=USD)


def test_amounts_beyond_an_invoice_raise():
    with pytest.raises(AmountOutOfRange):
        draft_invoice([basis("a", Decimal(10) ** 17)], currency=USD)


exacts = decimals(limit=10**6, places=18)


@PATIENT
@given(st.lists(exacts, max_size=6), currencies, decimals(limit=1, places=LEDGER_DECIMALS))
def test_R1_lines_sum_to_the_subtotal_and_nothing_is_lost(amounts, in_currency, residual):
    bases = [basis(f"k{n}", exact) for n, exact in enumerate(amounts)]
    draft = draft_invoice(bases, currency=in_currency, residual_before=residual)

    check_draft(draft)
    assert sum(line.amount_minor for line in draft.lines) == draft.totals.total_minor
    with localcontext(EXACT):
        booked = residual + sum(map(to_ledger, amounts), Decimal(0))
        assert booked - from_minor(draft.totals.total_minor, in_currency) == draft.residual_after


@PATIENT
@given(st.lists(exacts, min_size=1, max_size=6), currencies)
def test_R4_drafting_unchanged_data_again_bills_and_accrues_nothing(amounts, in_currency):
    bases = [basis(f"k{n}", exact) for n, exact in enumerate(amounts)]
    first = draft_invoice(bases, currency=in_currency)
    billed = {line.key: line.amount_minor for line in first.lines}
    accrued = {accrual.key: accrual.amount for accrual in first.accruals}
    again = draft_invoice(
        [
            replace(
                known,
                invoiced_minor=billed.get(known.key, 0),
                accrued_before=accrued.get(known.key, Decimal(0)),
            )
            for known in bases
        ],
        currency=in_currency,
    )

    assert (again.lines, again.accruals, again.totals.total_minor) == ((), (), 0)


@PATIENT
@given(st.lists(exacts, min_size=1, max_size=10), currencies)
def test_R4_progressive_invoices_bill_the_rounded_total_of_the_key(slices, in_currency):
    """However the period is cut, the key's invoices add up to its rounded cumulative amount."""
    cumulative, invoiced, accrued = Decimal(0), 0, Decimal(0)
    with localcontext(EXACT):
        for part in slices:
            cumulative += part
            known = basis("k", cumulative, invoiced_minor=invoiced, accrued_before=accrued)
            draft = draft_invoice([known], currency=in_currency)
            invoiced += draft.totals.total_minor
            accrued += sum((a.amount for a in draft.accruals), Decimal(0))

    assert invoiced == to_minor(cumulative, in_currency)
    assert accrued == to_ledger(cumulative)


@PATIENT
@given(st.lists(st.lists(exacts, max_size=4), min_size=1, max_size=8), currencies)
def test_residuals_carried_over_many_invoices_lose_nothing(periods, in_currency):
    residual, billed, booked = Decimal(0), 0, Decimal(0)
    minor_unit = from_minor(1, in_currency)
    with localcontext(EXACT):
        for amounts in periods:
            bases = [basis(f"k{n}", exact) for n, exact in enumerate(amounts)]
            draft = draft_invoice(bases, currency=in_currency, residual_before=residual)
            residual = draft.residual_after
            billed += draft.totals.total_minor
            booked += sum(map(to_ledger, amounts), Decimal(0))
            if draft.totals.total_minor + int(draft.residual_before / minor_unit) >= 0:
                # Less than a unit was carried on; each line adds at most half of one.
                assert abs(residual) < minor_unit * (1 + Decimal(len(amounts)) / 2)
        assert booked == from_minor(billed, in_currency) + residual


def test_due_on_line_never_compares_exact_with_rounded():
    assert due_on_line(Decimal("3.685"), 369, USD) == 0


GOOD = InvoiceTotals(subtotal_minor=3501, tax_minor=700, total_minor=4201, amount_due_minor=4201)


@pytest.mark.parametrize(
    ("amounts", "totals", "field"),
    [
        ([3500], GOOD, "subtotal"),
        ([3501], replace(GOOD, tax_minor=701), "total"),
        ([3501], replace(GOOD, amount_due_minor=4202), "amount_due"),
        ([3501], replace(GOOD, amount_due_minor=-1), "amount_due"),
    ],
)
def test_R1_sums_that_differ_by_one_are_found(amounts, totals, field):
    check_sums([1501, 2000], GOOD)

    with pytest.raises(TieOutFailed) as failed:
        check_sums(amounts, totals)

    assert failed.value.field == field


@pytest.mark.parametrize(
    ("receivable", "stripe", "field"), [(4200, 4201, "receivable"), (4201, 4202, "stripe_total")]
)
def test_I1_mirrors_that_differ_by_one_are_found(receivable, stripe, field):
    check_mirrors(GOOD, receivable_minor=4201, stripe_minor=4201)

    with pytest.raises(TieOutFailed) as failed:
        check_mirrors(GOOD, receivable_minor=receivable, stripe_minor=stripe)

    assert failed.value.field == field


def test_a_draft_whose_residual_was_changed_is_found():
    draft = draft_invoice([basis("a", "10.004")], currency=USD)

    with pytest.raises(TieOutFailed):
        check_draft(replace(draft, residual_after=Decimal(0)))
