"""Margin figures: exact ratios, and the only functions that round them for people.

Decides what each ratio is called and divided by. Two margins are named apart because they are
mixed up in print: gross margin is profit over revenue, cost-profit margin is profit over cost (a
published 545 % of the second is 84.5 % of the first).
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from billing.money import round_half_up

PER_MILLION_DECIMALS = 6
MILLION = 1_000_000


def gross_margin(revenue: Decimal, cost: Decimal) -> Fraction | None:
    """(revenue - cost) / revenue; None without revenue, where no share of it exists."""
    if revenue <= 0:
        return None
    return Fraction(Fraction(revenue) - Fraction(cost), Fraction(revenue))


def cost_profit_margin(revenue: Decimal, cost: Decimal) -> Fraction | None:
    """(revenue - cost) / cost; None without cost."""
    if cost <= 0:
        return None
    return Fraction(Fraction(revenue) - Fraction(cost), Fraction(cost))


def percent_for_display(ratio: Fraction | None, *, decimals: int = 1) -> Decimal | None:
    """A ratio in percent, rounded half up; None stays None."""
    return None if ratio is None else round_half_up(ratio * 100, decimals)


def per_million_for_display(amount: Decimal, tokens: int) -> Decimal | None:
    """Major units per million tokens, rounded half up to 6 decimals; None without tokens."""
    if tokens == 0:
        return None
    return round_half_up(Fraction(Fraction(amount) * MILLION, tokens), PER_MILLION_DECIMALS)


def per_gpu_hour_for_display(amount: Decimal, gpu_hours: Fraction) -> Decimal | None:
    """Major units per GPU-hour, rounded half up to 6 decimals; None without hours."""
    if gpu_hours == 0:
        return None
    return round_half_up(Fraction(Fraction(amount), gpu_hours), PER_MILLION_DECIMALS)
