"""Credit notes: what of a line that was billed is given back, with its tax.

Decides: the net amount for a part that was not used, and the bound: never more than was paid and
not given back before. Decides nothing about postings or numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.errors import InvalidInput
from billing.invoicing.tax import tax_on
from billing.money import Money, from_minor, to_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteAmounts:
    """What a credit note gives back, above zero.

    Attributes:
        net, tax: in minor units, each rounded by itself, as on the invoice.
    """

    net: Money
    tax: Money

    @property
    def total(self) -> Money:
        """Net and tax."""
        return self.net + self.tax


def credit_unused(billed: Money, *, unused: Fraction, tax_percent: Decimal) -> CreditNoteAmounts:
    """The credit for the part of a billed amount that was not used.

    Args:
        billed: net amount of the line.
        unused: part of it, 0 to 1.
        tax_percent: rate that the line was taxed at.

    Raises:
        InvalidInput: a part outside 0 to 1.
    """
    if not 0 <= unused <= 1:
        raise InvalidInput("not a part of the whole", field="unused", remedy="use 0 to 1")
    exact = Fraction(from_minor(billed.minor, billed.currency)) * unused
    net = Money(minor=to_minor(exact, billed.currency), currency=billed.currency)
    return CreditNoteAmounts(net=net, tax=tax_on(net, tax_percent))


def credit_within(potential: Money, *, paid: Money, credited: Money) -> Money:
    """A credit bounded by what was charged for the item and not given back yet; never below zero.

    Raises:
        InvalidInput: amounts of two currencies.
    """
    left = paid - credited
    bounded = potential if (left - potential).minor >= 0 else left
    return bounded if bounded.minor > 0 else Money(minor=0, currency=potential.currency)
