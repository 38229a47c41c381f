"""What changed between two versions of a price plan, charge by charge.

Decides: what counts as the same charge (its key) and how a change of a price is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import floor
from typing import Any, cast

from billing.catalog.price_plan import PricePlan
from billing.errors import InvalidInput
from billing.money import exact_decimal
from billing.planfiles.plan_dump import dump

_KEYED = ("charges", "commitments", "coupons")
_HALF = Fraction(1, 2)


class Change(StrEnum):
    """What happened to a member."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One member that differs.

    Attributes:
        part: `charges`, `commitments`, `coupons`, or `plan` for what is of the whole plan.
        key: of the charge, commitment or coupon; empty for the plan.
        field: below it, such as `tiers[0].unit`; empty where the whole was added or removed.
        before, after: as written in the stored documents; None where there was nothing.
        percent: rise of a number in percent of what it was, to two decimals, half up; None for
            what is no number, or was zero.
    """

    change: Change
    part: str
    key: str
    field: str
    before: str | None
    after: str | None
    percent: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The plans of one side, one per currency.

    Attributes:
        whole: whether these are all that there are, as of a file; a stored plan may be one of more.
    """

    plans: Sequence[PricePlan]
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPlans:
    """Two plans and what differs."""

    before: PricePlan
    after: PricePlan
    differences: tuple[Difference, ...]


def compare_books(before: Books, after: Books) -> tuple[ComparedPlans, ...]:
    """Each plan beside that of its currency; the first two where no currency is on both sides.

    Between whole sides, the currencies that one of them lacks are differences of the first plan.
    """
    old, new = ({plan.currency.code: plan for plan in side.plans} for side in (before, after))
    pairs = [(plan, new[code]) for code, plan in old.items() if code in new]
    changed: tuple[Difference, ...] = ()
    if not pairs:
        pairs = [(before.plans[0], after.plans[0])]
    elif before.whole and after.whole:
        changed = (
            *(_currency(Change.REMOVED, code) for code in old if code not in new),
            *(_currency(Change.ADDED, code) for code in new if code not in old),
        )
    return tuple(
        ComparedPlans(
            before=was,
            after=now,
            differences=(*(() if position else changed), *plan_differences(was, now)),
        )
        for position, (was, now) in enumerate(pairs)
    )


def _currency(change: Change, code: str) -> Difference:
    removed = change is Change.REMOVED
    return Difference(
        change=change,
        part="plan",
        key="",
        field="currencies",
        before=code if removed else None,
        after=None if removed else code,
    )


def plan_differences(before: PricePlan, after: PricePlan) -> tuple[Difference, ...]:
    """Every difference, those of the plan first; empty exactly for equal documents."""
    old, new = dump(before), dump(after)
    found: list[Difference] = []
    plain_old = {name: value for name, value in old.items() if name not in _KEYED}
    plain_new = {name: value for name, value in new.items() if name not in _KEYED}
    found += _fields("plan", "", plain_old, plain_new)
    for part in _KEYED:
        found += _entries(part, old.get(part, []), new.get(part, []))
    return tuple(found)


def _entries(
    part: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> Iterator[Difference]:
    old, new = ({entry["key"]: entry for entry in entries} for entries in (before, after))
    for key, entry in old.items():
        if key in new:
            yield from _fields(part, key, entry, new[key])
        else:
            yield _whole(Change.REMOVED, part, entry)
    for key, entry in new.items():
        if key not in old:
            yield _whole(Change.ADDED, part, entry)
    kept = [key for key in old if key in new]
    if kept != [key for key in new if key in old]:
        order = (", ".join(kept), ", ".join(key for key in new if key in old))
        yield Difference(
            change=Change.CHANGED, part=part, key="", field="order", before=order[0], after=order[1]
        )


def _whole(change: Change, part: str, entry: Mapping[str, Any]) -> Difference:
    text = str(entry["description"])
    removed = change is Change.REMOVED
    return Difference(
        change=change,
        part=part,
        key=str(entry["key"]),
        field="",
        before=text if removed else None,
        after=None if removed else text,
    )


def _fields(
    part: str, key: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Difference]:
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    for field in dict.fromkeys((*old, *new)):
        was, now = old.get(field), new.get(field)
        if was == now:
            continue
        change = Change.CHANGED
        if was is None or now is None:
            change = Change.ADDED if was is None else Change.REMOVED
        yield Difference(
            change=change,
            part=part,
            key=key,
            field=field,
            before=was,
            after=now,
            percent=_rise(was, now),
        )


def _leaves(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Paths and texts of what a document says; what says nothing is no leaf."""
    if isinstance(value, Mapping):
        for name, below in cast("Mapping[str, object]", value).items():
            yield from _leaves(below, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        entries = cast("list[object]", value)
        if all(isinstance(entry, str) for entry in entries):
            yield path, ", ".join(cast("list[str]", entries))
            return
        for position, below in enumerate(entries):
            yield from _leaves(below, f"{path}[{position}]")
    elif isinstance(value, bool):
        yield path, "true" if value else "false"
    elif value is not None:
        yield path, str(value)


def _rise(before: str | None, after: str | None) -> Decimal | None:
    if before is None or after is None:
        return None
    try:
        old, new = (Fraction(exact_decimal(text, field="")) for text in (before, after))
    except InvalidInput:
        return None
    if old == 0:
        return None
    hundredths = Fraction(new - old) * 10_000 / Fraction(old)
    return Decimal(_half_up(hundredths)).scaleb(-2)


def _half_up(number: Fraction) -> int:
    """The nearest whole number; halves away from zero."""
    return floor(number + _HALF) if number >= 0 else -floor(-number + _HALF)
