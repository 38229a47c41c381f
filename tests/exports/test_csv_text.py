"""CSV cells: a spreadsheet shows what we wrote, and runs none of it."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.exports.csv_text import cell_text, csv_text

PRINTABLE = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http://127.0.0.1/","x")',
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "=1",
    ],
)
def test_text_that_a_spreadsheet_would_run_is_written_as_text(text):
    assert cell_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-5", "+5.25", "0", "acme", "a=b", "", "e-mail", "(=1)"])
def test_numbers_and_plain_text_stay_as_they_are(text):
    assert cell_text(text) == text


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (-5, "-5"),
        (Decimal("-0.10"), "-0.10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-12"), "0.000000000001"),
        (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), "2026-11-30T23:59:59Z"),
        (datetime(2026, 11, 30, 0, 0, 0, 1, tzinfo=UTC), "2026-11-30T00:00:00.000001Z"),
    ],
)
def test_values_are_written_exactly(cell, text):
    assert cell_text(cell) == text


@given(st.lists(st.tuples(PRINTABLE, PRINTABLE), max_size=5))
def test_every_text_comes_back_from_the_file(rows):
    text = csv_text(("a", "b"), rows)
    back = list(csv.reader(io.StringIO(text, newline="")))
    assert back[0] == ["a", "b"]
    assert [tuple(row) for row in back[1:]] == [
        (cell_text(first), cell_text(second)) for first, second in rows
    ]


def test_a_row_of_another_width_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        csv_text(("a", "b"), [("only one",)])
