"""On which account a rated line earns: by its kind, decided here and nowhere else.

A commitment that was not used is income of another nature than usage, and a coupon is revenue given
away; every other line that bends a charge (maximum, minimum, overage) is a part of its price.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from billing.ledger.account import AccountCode
from billing.rating.line import LineKind

LINE_ACCOUNTS = (
    AccountCode.REVENUE,
    AccountCode.UNUSED_COMMITMENT,
    AccountCode.CONTRA_PROMOTION,
)
"""Every account that rated lines earn on. Postings of credit on one of them name no line."""

EarnedOn: TypeAlias = tuple[str, AccountCode]
"""The key of a line, and the account that it earns on."""


def account_of(kind: LineKind) -> AccountCode:
    """The account that lines of a kind earn on."""
    match kind:
        case LineKind.CHARGE | LineKind.MAXIMUM | LineKind.MINIMUM | LineKind.OVERAGE:
            return AccountCode.REVENUE
        case LineKind.TRUE_UP | LineKind.SHORTFALL:
            return AccountCode.UNUSED_COMMITMENT
        case LineKind.COUPON:
            return AccountCode.CONTRA_PROMOTION
        case _:
            assert_never(kind)
