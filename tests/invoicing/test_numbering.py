"""Invoice numbers."""

from __future__ import annotations

import pytest

from billing.errors import InvalidInput
from billing.invoicing.numbering import invoice_number


@pytest.mark.parametrize(
    ("prefix", "ordinal", "number"),
    [
        ("INV-2026-", 7, "INV-2026-000007"),
        ("A", 999_999, "A999999"),
        ("A", 1_000_000, "A1000000"),
    ],
)
def test_written(prefix, ordinal, number):
    assert invoice_number(prefix, ordinal) == number


@pytest.mark.parametrize(
    ("prefix", "ordinal", "field"),
    [
        ("", 1, "prefix"),
        ("inv", 1, "prefix"),
        ("INV ", 1, "prefix"),
        ("INV\n", 1, "prefix"),
        ("A" * 17, 1, "prefix"),
        ("INV-", 0, "ordinal"),
    ],
)
def test_refused(prefix, ordinal, field):
    with pytest.raises(InvalidInput) as refused:
        invoice_number(prefix, ordinal)

    assert refused.value.field == field


def test_numbers_sort_as_text_in_the_order_of_issue():
    numbers = [invoice_number("INV-", ordinal) for ordinal in range(1, 1200)]

    assert numbers == sorted(numbers)
