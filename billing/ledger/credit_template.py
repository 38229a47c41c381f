"""Posting templates of credits and of what is given back. They decide no grant and no order.

Paid credits are a liability until they are used; promotional credits are revenue not taken.
Amounts are at 12 decimals where they meet Unbilled, whole minor units where they meet Receivable.
"""

from __future__ import annotations

from decimal import Decimal

from billing.ledger.account import AccountCode
from billing.ledger.posting import Posting
from billing.ledger.template import Books

_PAID_FROM = frozenset({AccountCode.STRIPE_CLEARING, AccountCode.BANK, AccountCode.RECEIVABLE})
_BREAKS_INTO = frozenset({AccountCode.BREAKAGE, AccountCode.UNCLAIMED_PROPERTY})


def credits_bought(books: Books, *, amount: Decimal, paid_from: AccountCode) -> tuple[Posting, ...]:
    """Dr Stripe clearing, Bank or Receivable / Cr Contract liability."""
    assert paid_from in _PAID_FROM
    return books.moved(amount, debit=paid_from, credit=AccountCode.CONTRACT_LIABILITY)


def promotional_credits_used(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Contra revenue (promotion) / Cr Unbilled, by day."""
    return books.moved(amount, debit=AccountCode.CONTRA_PROMOTION, credit=AccountCode.UNBILLED)


def paid_credits_used(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Contract liability / Cr Unbilled, by day: credits that were taxed at purchase."""
    return books.moved(amount, debit=AccountCode.CONTRACT_LIABILITY, credit=AccountCode.UNBILLED)


def paid_credits_applied(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Contract liability / Cr Receivable, at issue: credits that are taxed when redeemed."""
    return books.moved(amount, debit=AccountCode.CONTRACT_LIABILITY, credit=AccountCode.RECEIVABLE)


def credit_bonus_applied(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Contra revenue (promotion) / Cr Receivable, at issue: what was given beyond its price."""
    return books.moved(amount, debit=AccountCode.CONTRA_PROMOTION, credit=AccountCode.RECEIVABLE)


def credits_broken(books: Books, *, amount: Decimal, into: AccountCode) -> tuple[Posting, ...]:
    """Dr Contract liability / Cr Breakage revenue, or Unclaimed property where the law says so."""
    assert into in _BREAKS_INTO
    return books.moved(amount, debit=AccountCode.CONTRACT_LIABILITY, credit=into)


def credits_paid_back(
    books: Books, *, amount: Decimal, paid_from: AccountCode
) -> tuple[Posting, ...]:
    """Dr Contract liability / Cr Stripe clearing, Bank or Receivable: unused credits given back."""
    assert paid_from in _PAID_FROM
    return books.moved(amount, debit=AccountCode.CONTRACT_LIABILITY, credit=paid_from)


def goodwill_given(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Contra revenue (goodwill) / Cr Receivable."""
    return books.moved(amount, debit=AccountCode.CONTRA_GOODWILL, credit=AccountCode.RECEIVABLE)


def sla_credit_given(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Contra revenue (SLA) / Cr Customer credit balance."""
    return books.moved(amount, debit=AccountCode.CONTRA_SLA, credit=AccountCode.CUSTOMER_CREDIT)


def customer_credit_applied(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Customer credit balance / Cr Receivable: set off against an invoice."""
    return books.moved(amount, debit=AccountCode.CUSTOMER_CREDIT, credit=AccountCode.RECEIVABLE)
