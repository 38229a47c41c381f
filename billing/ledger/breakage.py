"""What becomes of credit that nobody used: some rolls over, the rest is broken.

Decides amounts and the following span. Decides no posting: `credit_template` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditLot
from billing.money import EXACT, LEDGER_DECIMALS

BREAKS_INTO = (AccountCode.BREAKAGE, AccountCode.UNCLAIMED_PROPERTY)
"""Income, or a liability to the state where the law makes unused credit unclaimed property."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapse:
    """How an expired lot's rest divides: `rolled` goes on, `broken` ends."""

    rolled: Decimal
    broken: Decimal


def lapse(lot: CreditLot) -> Lapse:
    """Divide what remains of an expired lot by its rule; the two add up to it exactly."""
    rule = lot.grant.rollover
    if rule is None:
        return Lapse(rolled=Decimal(0), broken=lot.remaining)
    share = Fraction(lot.remaining) * Fraction(rule.fraction)
    units = share * 10**LEDGER_DECIMALS
    # Cut, not rounded: never more than the fraction goes on.
    rolled = Decimal(units.numerator // units.denominator).scaleb(-LEDGER_DECIMALS, context=EXACT)
    if rule.maximum is not None:
        rolled = min(rolled, rule.maximum)
    return Lapse(rolled=rolled, broken=EXACT.subtract(lot.remaining, rolled))
