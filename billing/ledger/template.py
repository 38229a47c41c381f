"""Posting templates of sales: how a business event becomes postings. They decide no lifecycle.

Revenue moves only through Unbilled, by exact amounts; invoices move whole minor units. Credits
are in `credit_template`, money that comes and goes in `cash_template`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing.ledger.account import Account, AccountCode
from billing.ledger.posting import LineRef, Posting
from billing.money import EXACT


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

    def postings(self, *sides: tuple[AccountCode, Decimal]) -> tuple[Posting, ...]:
        """One posting per side that is not zero; debits are positive."""
        return tuple(
            Posting(account=self.account(code), amount=amount) for code, amount in sides if amount
        )

    def moved(
        self, amount: Decimal, *, debit: AccountCode, credit: AccountCode
    ) -> tuple[Posting, ...]:
        """Dr one account / Cr another."""
        return self.postings((debit, amount), (credit, amount.copy_negate()))


def lines_accrued(
    books: Books, accruals: Sequence[tuple[LineRef, AccountCode, Decimal]]
) -> tuple[Posting, ...]:
    """Dr Unbilled / Cr what each line is earned on: a credit per line, one debit of their sum.

    Args:
        accruals: (line, its account, amount at 12 decimals) with non-zero amounts of either sign;
            if they add up to nothing, nothing is debited.
    """
    accounts = {code: books.account(code) for code in {code for _, code, _ in accruals}}
    total = Decimal(0)
    earned: list[Posting] = []
    for line, code, amount in accruals:
        total = EXACT.add(total, amount)
        earned.append(Posting(account=accounts[code], amount=amount.copy_negate(), line=line))
    return (*books.postings((AccountCode.UNBILLED, total)), *earned)


def invoice_issued(books: Books, *, subtotal: Decimal, tax: Decimal) -> tuple[Posting, ...]:
    """Dr Receivable (total) / Cr Unbilled (subtotal), Cr Tax payable. Whole minor units."""
    return books.postings(
        (AccountCode.RECEIVABLE, subtotal + tax),
        (AccountCode.UNBILLED, -subtotal),
        (AccountCode.TAX_PAYABLE, -tax),
    )


def credit_note_issued(books: Books, *, subtotal: Decimal, tax: Decimal) -> tuple[Posting, ...]:
    """Dr Unbilled, Dr Tax payable / Cr Receivable: a mirrored invoice.

    The exact accrual is reversed apart.
    """
    return invoice_issued(books, subtotal=-subtotal, tax=-tax)


def outcome_expected(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Contract asset / Cr Revenue, where policy recognises before the tenant confirms."""
    return books.moved(amount, debit=AccountCode.CONTRACT_ASSET, credit=AccountCode.REVENUE)


def expected_outcome_confirmed(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Unbilled / Cr Contract asset: what was expected has become due."""
    return books.moved(amount, debit=AccountCode.UNBILLED, credit=AccountCode.CONTRACT_ASSET)


def refund_reserved(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Revenue / Cr Refund liability."""
    return books.moved(amount, debit=AccountCode.REVENUE, credit=AccountCode.REFUND_LIABILITY)


def rounding_written_off(books: Books, *, residual: Decimal) -> tuple[Posting, ...]:
    """Dr Rounding / Cr Unbilled (or reverse): what remains at the end of an account."""
    return books.moved(residual, debit=AccountCode.ROUNDING, credit=AccountCode.UNBILLED)
