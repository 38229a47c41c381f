"""Invoice numbers: how the next number of a series is written.

Decides: the form of a number. Decides nothing about which number is next: the series is a row
that is counted up in the transaction that issues the invoice, so that numbers have no gaps.
"""

from __future__ import annotations

import re

from billing.errors import InvalidInput

ORDINAL_WIDTH = 6
"""Digits of the counter; a longer counter is written in full."""

_PREFIX = re.compile(r"[A-Z0-9][A-Z0-9/-]{0,15}")


def require_prefix(prefix: str) -> str:
    """Return a well-formed prefix of a number series.

    Raises:
        InvalidInput: empty, overlong, or with characters that sort or print badly.
    """
    if _PREFIX.fullmatch(prefix) is None:
        raise InvalidInput(
            "malformed prefix of a number series",
            field="prefix",
            remedy="use capitals, digits, - and /, at most 16, like INV-2026-",
        )
    return prefix


def invoice_number(prefix: str, ordinal: int) -> str:
    """The number as printed: `INV-2026-` and 7 give `INV-2026-000007`.

    Raises:
        InvalidInput: a malformed prefix, or an ordinal below 1.
    """
    require_prefix(prefix)
    if ordinal < 1:
        raise InvalidInput("invoice numbers begin at 1", field="ordinal", remedy="use 1 or more")
    return f"{prefix}{ordinal:0{ORDINAL_WIDTH}d}"
