"""Posting templates: how a business event becomes postings. They decide no lifecycle.

Revenue moves only through Unbilled, by exact amounts; invoices move whole minor units.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.ledger.account import Account, AccountCode
from billing.ledger.posting import LineRef, Posting


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Whose accounts a template uses: one tenant's in one legal entity and currency."""

    legal_entity_id: int
    tenant_id: int
    currency: str

    def account(self, code: AccountCode) -> Account:
        """The account of this code in these books."""
        return Account(
            legal_entity_id=self.legal_entity_id,
            code=code,
            tenant_id=self.tenant_id if code.per_tenant else None,
            currency=self.currency,
        )


def usage_accrued(books: Books, accruals: list[tuple[LineRef, Decimal]]) -> tuple[Posting, ...]:
    """Dr Unbilled / Cr Revenue, one credit per rated line, one pair per line.

    Args:
        accruals: (line, amount at 12 decimals) with non-zero amounts of either sign.
    """
    postings: list[Posting] = []
    for line, amount in accruals:
        postings.append(
            Posting(account=books.account(AccountCode.UNBILLED), amount=amount, line=line)
        )
        postings.append(
            Posting(account=books.account(AccountCode.REVENUE), amount=-amount, line=line)
        )
    return tuple(postings)


def invoice_issued(books: Books, *, subtotal: Decimal, tax: Decimal) -> tuple[Posting, ...]:
    """Dr Receivable (total) / Cr Unbilled (subtotal), Cr Tax payable. Whole minor units."""
    sides = (
        (AccountCode.RECEIVABLE, subtotal + tax),
        (AccountCode.UNBILLED, -subtotal),
        (AccountCode.TAX_PAYABLE, -tax),
    )
    return _non_zero(books, sides)


def payment_received(books: Books, *, amount: Decimal, into: AccountCode) -> tuple[Posting, ...]:
    """Dr Stripe clearing or Bank / Cr Receivable."""
    assert into in {AccountCode.STRIPE_CLEARING, AccountCode.BANK}
    return _non_zero(books, ((into, amount), (AccountCode.RECEIVABLE, -amount)))


def _non_zero(books: Books, sides: tuple[tuple[AccountCode, Decimal], ...]) -> tuple[Posting, ...]:
    return tuple(
        Posting(account=books.account(code), amount=amount) for code, amount in sides if amount
    )
