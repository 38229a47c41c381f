"""One charge weighed: its groups through the steps, then what applies to the charge as a whole.

Decides: how groups add up and what a charge costs from the start of its billing period. Works on
cumulative figures only; that a slice is a difference of two is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import assert_never

from billing.catalog.adjustment import Commitment
from billing.catalog.price import Reserved, Span
from billing.catalog.price_plan import NegativeUsage
from billing.rating.discount import discount
from billing.rating.groups import Group, GroupKey, by_time, present, spans_in
from billing.rating.included_usage import deduct_included
from billing.rating.line import ExplanationStep
from billing.rating.pricing_unit import price_in_currency
from billing.rating.step import Step, Terms, Weighing, figure
from billing.rating.unit_conversion import convert_units, to_priced_units
from billing.rating.window_commitment import commit_window

GROUP_STEPS: tuple[Step, ...] = (
    # First, so that every later step counts in the units that prices are quoted for.
    convert_units,
    # Before the price: an allowance is free quantity, whatever the price of the rest.
    deduct_included,
    # Turns quantity into money, of a price in credits by way of these.
    price_in_currency,
    # A promise per hour or day is kept or broken in each of them, so it cannot wait for the sum.
    commit_window,
)

CHARGE_STEPS: tuple[Step, ...] = (
    # After the price and before the bounds: a maximum is of what is really paid.
    discount,
)

WINDOWS = "windows"
"""The step that sums up the windows of a shortfall."""

_ZERO = Decimal(0)


def weigh(terms: Terms, groups: Sequence[Group], *, through: bool) -> Weighing:
    """What a charge costs from the start of the billing period.

    Args:
        through: up to the end of the slice that is rated, or up to its beginning.

    Returns:
        The exact amount with its explanation, and what windows left unused beside it; `quantity`
        is what stayed chargeable.
    """
    groups = present(groups, through=through)
    total = Weighing(quantity=_ZERO)
    chargeable = 0
    for group in groups:
        weighed = _weigh_group(terms, group, through=through)
        chargeable += weighed.quantity > 0
        total = _joined(total, weighed, label=_label(terms, group.key))
    total = _with_fixed_part(terms, total, groups, chargeable, through=through)
    for step in CHARGE_STEPS:
        total = step(terms, total)
    return total


def _weigh_group(terms: Terms, group: Group, *, through: bool) -> Weighing:
    weighing = Weighing(quantity=_quantity(group, through=through))
    if weighing.quantity < 0:
        return _below_zero(terms, weighing.quantity)
    points = group.transactions_before
    changes = group.changes_before
    if through:
        # A late event stands where it happened, not where it arrived.
        points = tuple(sorted((*points, *group.transactions)))
        changes = by_time((*changes, *group.changes))
    weighing = replace(
        weighing, transactions=tuple(point.value for point in points), changes=changes
    )
    return _steps(terms, weighing)


def _steps(terms: Terms, weighing: Weighing) -> Weighing:
    for step in GROUP_STEPS:
        weighing = step(terms, weighing)
    return weighing


def _below_zero(terms: Terms, quantity: Decimal) -> Weighing:
    """Corrections beyond what was used: nothing, or the mirror image of the usage."""
    match terms.policies.negative_usage:
        case NegativeUsage.CLAMP:
            nothing = _steps(terms, Weighing(quantity=_ZERO))
            return nothing.explained("negative_usage", f"{figure(quantity)} counts as none")
        case NegativeUsage.MIRROR:
            return _mirrored(_steps(terms, Weighing(quantity=-quantity)))
        case _:
            assert_never(terms.policies.negative_usage)


def _mirrored(paid: Weighing) -> Weighing:
    return Weighing(
        quantity=-paid.quantity,
        exact=-paid.exact,
        explanation=_given_back(paid.explanation),
        shortfall=_given_back(paid.shortfall),
    )


def _given_back(notes: Sequence[ExplanationStep]) -> tuple[ExplanationStep, ...]:
    return tuple(
        ExplanationStep(
            step=note.step,
            text=f"given back: {note.text}",
            amount=None if note.amount is None else -note.amount,
        )
        for note in notes
    )


def _joined(total: Weighing, part: Weighing, *, label: str) -> Weighing:
    return Weighing(
        quantity=total.quantity + part.quantity,
        exact=total.exact + part.exact,
        explanation=(*total.explanation, *_labelled(part.explanation, label)),
        shortfall=(*total.shortfall, *_labelled(part.shortfall, label)),
    )


def _labelled(notes: tuple[ExplanationStep, ...], label: str) -> tuple[ExplanationStep, ...]:
    if not label:
        return notes
    return tuple(
        ExplanationStep(step=note.step, text=f"{label}: {note.text}", amount=note.amount)
        for note in notes
    )


def _with_fixed_part(
    terms: Terms, total: Weighing, groups: Sequence[Group], chargeable: int, *, through: bool
) -> Weighing:
    """What is due for windows whether or not they were used."""
    match terms.charge.price, terms.charge.adjustments.commitment:
        case Reserved() as reserved, _:
            return _reserved(terms, total, groups, reserved, through=through)
        case _, Commitment(window=window, true_up=True) as promised if window is not Span.PERIOD:
            return _unused_windows(terms, total, chargeable, promised)
        case _:
            return total


def _reserved(
    terms: Terms, total: Weighing, groups: Sequence[Group], reserved: Reserved, *, through: bool
) -> Weighing:
    """What was used of a reservation at its price, and what was not, for a part of it, apart."""
    windows = Decimal(spans_in(terms, reserved.window))
    committed = to_priced_units(reserved.committed, terms.charge)
    units, used = windows * committed, _ZERO
    code = terms.currency.code
    for group in groups:
        quantity = to_priced_units(_quantity(group, through=through), terms.charge)
        if (kept := min(max(quantity, _ZERO), committed)) > 0:
            used += kept
            text = f"{figure(committed)} committed = {figure(kept)} used"
            label = _label(terms, group.key)
            text = f"{text} + {figure(committed - kept)} unused"
            total = total.short("window", f"{label}: {text}" if label else text)
    if used:
        amount = used * reserved.price
        total = total.priced(
            "reservation",
            f"{figure(used)} used of {figure(units)} committed;"
            f" {figure(used)} x {figure(reserved.price)} = {figure(amount)} {code}",
            amount,
        )
    if (unused := units - used) == 0:
        return total
    due, back = unused * reserved.price, -unused * reserved.shortfall
    total = _summed_up(total, windows, committed, unused).short(
        "reservation", f"{figure(unused)} x {figure(reserved.price)} = {figure(due)} {code}", due
    )
    if back == 0:
        return total
    return total.short(
        "shortfall",
        f"given back: {figure(unused)} x -{figure(reserved.shortfall)} = {figure(back)} {code}",
        back,
    )


def _unused_windows(
    terms: Terms, total: Weighing, chargeable: int, promised: Commitment
) -> Weighing:
    """Windows without usage are no groups, and free usage is no money: both owe the promise."""
    windows = Decimal(spans_in(terms, promised.window))
    if (empty := windows - chargeable) > 0:
        amount = empty * promised.amount
        total = total.short(
            "commitment",
            f"{figure(empty)} windows without chargeable usage:"
            f" {figure(empty)} x {figure(promised.amount)}"
            f" = {figure(amount)} {terms.currency.code}",
            amount,
        )
    missing = total.unused.exact
    return total if missing == 0 else _summed_up(total, windows, promised.amount, missing)


def _summed_up(total: Weighing, windows: Decimal, committed: Decimal, unused: Decimal) -> Weighing:
    """All windows together: used + unused = committed."""
    units = windows * committed
    return total.short(
        WINDOWS,
        f"{figure(windows)} windows x {figure(committed)} = {figure(units)} committed"
        f" = {figure(units - unused)} used + {figure(unused)} unused",
    )


def _quantity(group: Group, *, through: bool) -> Decimal:
    return group.before + group.quantity if through else group.before


def _label(terms: Terms, key: GroupKey) -> str:
    named = [f"{n}={v}" for n, v in zip(terms.charge.split_by, key.values, strict=False)]
    if key.start is not None:
        named.append(f"{key.start.astimezone(terms.zone):%Y-%m-%dT%H:%M%z}")
    return ", ".join(named)
