"""Tax on a net amount, in minor units.

Decides: the one rounding of a tax, half up, on the rounded net amount that the invoice shows.
Decides nothing about which rate applies to whom.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from billing.errors import InvalidInput
from billing.money import Money, to_minor


def tax_on(net: Money, percent: Decimal) -> Money:
    """The tax on a net amount; on a credit it is negative.

    Raises:
        InvalidInput: a rate outside 0 to 100.
    """
    if not 0 <= percent <= 100:
        raise InvalidInput("outside 0 to 100", field="percent", remedy='write it like "20"')
    exact = Fraction(net.minor, 10**net.currency.decimals) * Fraction(percent) / 100
    return Money(minor=to_minor(exact, net.currency), currency=net.currency)
