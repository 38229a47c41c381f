"""CSV text that a spreadsheet opens without running anything.

Decides: how a value is written in a cell, and that text from outside (names, descriptions) which a
spreadsheet would take for a formula is written as text. RFC 4180: comma, double quotes, CR LF.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

Cell: TypeAlias = "str | int | Decimal | datetime | None"

_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?", re.ASCII)
_FORMULA_STARTS = (
    "=+-@"
    "\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}"
    "\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A header line and one line per row.

    Args:
        columns: names, the same in every export of a kind.
        rows: one cell per column each; None gives an empty cell, a time ISO 8601 in UTC with Z.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell_text(cell) for _, cell in zip(columns, row, strict=True)])
    return out.getvalue()


def cell_text(cell: Cell) -> str:
    """A value as it stands in its cell."""
    match cell:
        case None:
            return ""
        case str():
            return _inert(cell)
        case datetime():
            return instant_text(cell)
        case Decimal():
            return f"{cell:f}"
        case int():
            return str(cell)


def instant_text(instant: datetime) -> str:
    """An aware UTC time as `2026-11-30T23:59:59.000001Z`, without empty fractions."""
    return instant.replace(tzinfo=None).isoformat() + "Z"


def _inert(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run; numbers are left alone.

    Leading spaces and control characters do not hide a formula from a spreadsheet.
    """
    start = text.lstrip()[:1]
    suspicious = (bool(start) and start in _FORMULA_STARTS) or text[:1] in {"\t", "\r", "\n"}
    return f"'{text}" if suspicious and not _NUMBER.fullmatch(text) else text
