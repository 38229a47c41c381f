"""Posting templates of money that comes, goes, is fought over or changes its currency."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.errors import InvalidInput
from billing.ledger.account import Account, AccountCode
from billing.ledger.posting import Posting
from billing.ledger.template import Books
from billing.money import Money, round_half_up

RATE_DECIMALS = 18
"""Decimals of a stored exchange rate, like those of a unit price."""

_CASH = frozenset({AccountCode.STRIPE_CLEARING, AccountCode.BANK})


def payment_received(books: Books, *, amount: Decimal, into: AccountCode) -> tuple[Posting, ...]:
    """Dr Stripe clearing or Bank / Cr Receivable."""
    assert into in _CASH
    return books.moved(amount, debit=into, credit=AccountCode.RECEIVABLE)


def fee_charged(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Fees / Cr Stripe clearing: what the provider kept of a payment."""
    return books.moved(amount, debit=AccountCode.FEES, credit=AccountCode.STRIPE_CLEARING)


def payout_received(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Bank / Cr Stripe clearing."""
    return books.moved(amount, debit=AccountCode.BANK, credit=AccountCode.STRIPE_CLEARING)


def refund_paid(
    books: Books, *, amount: Decimal, owed: AccountCode, paid_from: AccountCode
) -> tuple[Posting, ...]:
    """Dr Refund liability, Customer credit balance or Receivable / Cr Stripe clearing or Bank."""
    assert owed in {
        AccountCode.REFUND_LIABILITY,
        AccountCode.CUSTOMER_CREDIT,
        AccountCode.RECEIVABLE,
    }
    assert paid_from in _CASH
    return books.moved(amount, debit=owed, credit=paid_from)


def dispute_opened(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Disputed receivable / Cr Stripe clearing. Won: the same transaction is reversed."""
    return books.moved(amount, debit=AccountCode.DISPUTED, credit=AccountCode.STRIPE_CLEARING)


def dispute_lost(books: Books, *, amount: Decimal) -> tuple[Posting, ...]:
    """Dr Bad debt / Cr Disputed receivable."""
    return books.moved(amount, debit=AccountCode.BAD_DEBT, credit=AccountCode.DISPUTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Money of one currency given for money of another, on one of the operator's accounts.

    Attributes:
        rate: units of the bought currency for one unit of the sold one.
    """

    legal_entity_id: int
    code: AccountCode
    sold: Money
    bought: Money
    rate: Decimal

    def __post_init__(self) -> None:
        if self.sold.currency == self.bought.currency:
            raise InvalidInput(
                "an exchange has two currencies", field="bought", remedy="name another currency"
            )
        if self.sold.minor <= 0 or self.bought.minor <= 0 or self.rate <= 0:
            raise InvalidInput(
                "amounts and rate of an exchange are above zero",
                field="rate",
                remedy="use amounts and a rate above 0",
            )
        if round_half_up(self.rate, RATE_DECIMALS) != self.rate:
            raise InvalidInput(
                "a rate has at most 18 decimals", field="rate", remedy="round it to 18 decimals"
            )
        exact = Fraction(self.sold.major()) * Fraction(self.rate)
        one_minor = Fraction(self.bought.major()) / self.bought.minor
        if abs(exact - Fraction(self.bought.major())) >= one_minor:
            raise InvalidInput(
                "the amounts do not follow from the rate",
                field="rate",
                remedy="state the rate at which the two amounts differ by less than a minor unit",
            )


def fx_exchanged(exchange: Exchange) -> tuple[Posting, ...]:
    """Two pairs through the two FX accounts, so that each currency sums to zero by itself."""

    def side(code: AccountCode, money: Money, sign: int) -> Posting:
        account = Account(
            legal_entity_id=exchange.legal_entity_id,
            code=code,
            tenant_id=None,
            currency=money.currency.code,
        )
        return Posting(account=account, amount=sign * money.major())

    return (
        side(exchange.code, exchange.sold, -1),
        side(AccountCode.FX_POSITION, exchange.sold, 1),
        side(exchange.code, exchange.bought, 1),
        side(AccountCode.FX_POSITION, exchange.bought, -1),
    )
