"""Money: currencies, exact arithmetic, the one rounding rule, exact allocation.

Decides: which currencies exist, how an exact amount becomes minor units (half up, away from zero
for negatives), how many decimals the ledger keeps (12), how a total is split so that the parts
add up. Decides nothing about when rounding happens: that is the rating pipeline's last step.

No binary floating point enters here. `EXACT` traps every inexact operation, so a digit can be
lost only inside the rounding functions of this module.
"""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.errors import AmountOutOfRange, InvalidInput

LEDGER_DECIMALS = 12
"""Decimals of the major unit kept in the money ledger: NUMERIC(38, 12)."""

PRICE_DECIMALS_MAX = 18
"""Decimals of the major unit that a unit price may have."""

QUANTITY_DECIMALS_MAX = 18
"""Decimals that a metered quantity may have."""

QUANTITY_MAX = Decimal(10) ** 18
"""Largest quantity of one meter in one event, and of one rated line."""

LEDGER_LIMIT = Decimal(10) ** (38 - LEDGER_DECIMALS)
"""Amounts of this size or more do not fit NUMERIC(38, 12)."""

MINOR_LIMIT = 2**63
"""Minor units of this size or more do not fit a BIGINT."""

EXACT = decimal.Context(
    prec=120,
    rounding=decimal.ROUND_HALF_UP,
    Emin=-999_999,
    Emax=999_999,
    traps=[
        decimal.Inexact,
        decimal.InvalidOperation,
        decimal.DivisionByZero,
        decimal.Overflow,
        decimal.FloatOperation,
    ],
)
"""Context for all amounts: wide enough for 10^18 units at 10^-18, and it raises on a lost digit."""

_ROUNDING = decimal.Context(prec=200, rounding=decimal.ROUND_HALF_UP, Emin=-999_999, Emax=999_999)
_LAST_DIGIT = tuple(Decimal(1).scaleb(-decimals) for decimals in range(QUANTITY_DECIMALS_MAX + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Currency:
    """An ISO 4217 currency.

    Attributes:
        code: three capital letters.
        decimals: digits of the minor unit (USD 2, JPY 0).
    """

    code: str
    decimals: int

    def __str__(self) -> str:
        return self.code


CURRENCIES: dict[str, Currency] = {
    code: Currency(code=code, decimals=decimals)
    for code, decimals in {
        "AUD": 2,
        "CAD": 2,
        "CHF": 2,
        "CZK": 2,
        "DKK": 2,
        "EUR": 2,
        "GBP": 2,
        "HKD": 2,
        "JPY": 0,
        "NOK": 2,
        "NZD": 2,
        "PLN": 2,
        "SEK": 2,
        "SGD": 2,
        "USD": 2,
    }.items()
}
"""A closed list: three-decimal and special-case currencies need rules that do not exist yet."""


def currency(code: str, *, field: str = "currency") -> Currency:
    """The currency with this code.

    Raises:
        InvalidInput: the code is not in the closed list.
    """
    found = CURRENCIES.get(code)
    if found is None:
        raise InvalidInput(
            "unknown or unsupported currency",
            field=field,
            remedy=f"use one of {', '.join(sorted(CURRENCIES))}",
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True, order=False)
class Money:
    """A whole number of minor units of one currency: what is posted, invoiced or shown.

    Adding two currencies is a programming error and raises.
    """

    minor: int
    currency: Currency

    def __post_init__(self) -> None:
        if abs(self.minor) >= MINOR_LIMIT:
            raise AmountOutOfRange(
                "amount exceeds what an invoice can carry", remedy="check quantities and prices"
            )

    def __add__(self, other: Money) -> Money:
        self._same(other)
        return Money(minor=self.minor + other.minor, currency=self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same(other)
        return Money(minor=self.minor - other.minor, currency=self.currency)

    def __neg__(self) -> Money:
        return Money(minor=-self.minor, currency=self.currency)

    def major(self) -> Decimal:
        """The amount in major units, exactly (1234 USD minor → 12.34)."""
        return Decimal(self.minor).scaleb(-self.currency.decimals, context=EXACT)

    def __str__(self) -> str:
        return f"{self.major():f} {self.currency.code}"

    def _same(self, other: Money) -> None:
        if self.currency != other.currency:
            raise InvalidInput(
                "amounts of two currencies cannot be added",
                field="currency",
                remedy="add amounts of one currency",
            )


def exact_decimal(
    text: str,
    *,
    field: str,
    decimals_max: int = PRICE_DECIMALS_MAX,
    limit: Decimal = QUANTITY_MAX,
) -> Decimal:
    """Read a plain decimal number, exactly.

    Args:
        text: digits with an optional sign and point; no exponent, no spaces, no separators.
        field: path of the value, for the error.
        decimals_max: most digits allowed after the point.
        limit: largest absolute value allowed.

    Raises:
        InvalidInput: not a plain decimal number, or too many decimals.
        AmountOutOfRange: larger than `limit`.
    """
    body = text[1:] if text[:1] in {"-", "+"} else text
    whole, point, fraction = body.partition(".")
    plain_digits = whole.isascii() and whole.isdigit()
    plain_fraction = (not point) or (fraction.isascii() and fraction.isdigit())
    if not (plain_digits and plain_fraction) or len(text) > 64:
        raise InvalidInput(
            "not a plain decimal number", field=field, remedy='write it as text like "0.25"'
        )
    if len(fraction.rstrip("0")) > decimals_max:
        raise InvalidInput(
            f"more than {decimals_max} decimals", field=field, remedy="shorten the number"
        )
    value = Decimal(text)
    # `abs()` would round to the caller's context, 28 digits by default.
    if value.copy_abs() > limit:
        raise AmountOutOfRange("number out of range", field=field, remedy=f"at most {limit:f}")
    return value


def round_half_up(exact: Decimal | Fraction, decimals: int) -> Decimal:
    """Round to `decimals` places, halves away from zero. The only place where digits are cut."""
    # Asked in this order, since whether something is a fraction takes longer to find out.
    if isinstance(exact, Decimal):
        return exact.quantize(_LAST_DIGIT[decimals], context=_ROUNDING)
    scaled = exact * 10**decimals
    doubled = 2 * abs(scaled.numerator) + scaled.denominator
    magnitude = doubled // (2 * scaled.denominator)
    signed = -magnitude if scaled.numerator < 0 else magnitude
    return Decimal(signed).scaleb(-decimals, context=EXACT)


def to_minor(exact: Decimal | Fraction, in_currency: Currency) -> int:
    """Minor units of an exact amount in major units: half up, away from zero for negatives."""
    rounded = round_half_up(exact, in_currency.decimals)
    minor = int(rounded.scaleb(in_currency.decimals, context=EXACT))
    if abs(minor) >= MINOR_LIMIT:
        raise AmountOutOfRange(
            "amount exceeds what an invoice can carry", remedy="check quantities and prices"
        )
    return minor


def from_minor(minor: int, in_currency: Currency) -> Decimal:
    """Major units of a whole number of minor units, exactly."""
    return Decimal(minor).scaleb(-in_currency.decimals, context=EXACT)


def to_ledger(exact: Decimal | Fraction) -> Decimal:
    """An exact amount at the ledger's 12 decimals (half up).

    Raises:
        AmountOutOfRange: the amount does not fit NUMERIC(38, 12).
    """
    quantized = round_half_up(exact, LEDGER_DECIMALS)
    if quantized.copy_abs() >= LEDGER_LIMIT:
        raise AmountOutOfRange(
            "amount exceeds what the ledger can keep", remedy="check quantities and prices"
        )
    return quantized


def allocate(total: int, weights: Sequence[int | Fraction]) -> list[int]:
    """Split `total` in proportion to `weights` so that the parts add up exactly.

    Largest remainder: every part is the floor of its exact share, and the units left over go to
    the largest fractional remainders, earlier positions first among equals. A negative total is
    the mirror image of the positive one.

    Args:
        total: units to distribute, of either sign.
        weights: non-negative; at least one must be positive unless `total` is 0.

    Raises:
        InvalidInput: a negative weight, or nothing to carry a non-zero total.
    """
    if any(weight < 0 for weight in weights):
        raise InvalidInput("a weight is negative", field="weights", remedy="use 0 or more")
    whole = sum((Fraction(weight) for weight in weights), Fraction(0))
    if whole == 0:
        if total == 0:
            return [0] * len(weights)
        raise InvalidInput(
            "no positive weight to carry the total",
            field="weights",
            remedy="give at least one a weight above 0",
        )
    magnitude = abs(total)
    shares = [Fraction(weight) * magnitude / whole for weight in weights]
    parts = [share.numerator // share.denominator for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (parts[i] - shares[i], i))
    for index in by_remainder[: magnitude - sum(parts)]:
        parts[index] += 1
    return [-part for part in parts] if total < 0 else parts


def allocate_ledger(total: Decimal, weights: Sequence[int | Fraction]) -> list[Decimal]:
    """`allocate` for a ledger amount, in units of 10^-12 of the major unit."""
    units = int(total.scaleb(LEDGER_DECIMALS, context=EXACT).to_integral_exact(context=EXACT))
    return [
        Decimal(part).scaleb(-LEDGER_DECIMALS, context=EXACT) for part in allocate(units, weights)
    ]


def decimals_of(number: Decimal) -> int:
    """Digits after the point of a finite decimal, trailing zeros not counted.

    Looks at the digits instead of normalising: a context would round long numbers silently.
    """
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        raise InvalidInput("not a finite number", remedy="use a number like 12.5")
    text = "".join(map(str, digits))
    trailing_zeros = len(text) - len(text.rstrip("0"))
    return 0 if number == 0 else max(0, -exponent - trailing_zeros)


def plain(number: Decimal) -> str:
    """A decimal as text without exponent and without trailing zeros: how JSON carries amounts."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
