"""Groups: the parts of a charge's usage that are counted each by itself.

Decides: which usage counts together. Without `split_by` and `restart` that is the whole charge;
otherwise included usage and tiers start at zero for each combination of values and each span of
local time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import assert_never

from billing.catalog.adjustment import Commitment
from billing.catalog.charge import Charge
from billing.catalog.price import Reserved, Span
from billing.errors import InvalidInput
from billing.metering.aggregation import Point
from billing.metering.dimension import ABSENT
from billing.money import EXACT
from billing.period import bucket_of, day_start, hour_start, quarter_hours
from billing.rating.quantity import LevelChange, MeteredQuantity
from billing.rating.step import Terms

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKey:
    """What a group's usage has in common.

    Attributes:
        values: of the dimensions in `split_by`, in that order.
        start: of the span in which it was used; None where counting never restarts.
    """

    values: tuple[str, ...] = ()
    start: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Usage that is counted together.

    Attributes:
        before: quantity from the start of the billing period up to the slice that is rated.
        quantity: of the slice.
        transactions, transactions_before: single events in the total order, where they are known.
        changes, changes_before: of a level, by time, where units are prorated.
    """

    key: GroupKey
    before: Decimal
    quantity: Decimal
    transactions: tuple[Point, ...]
    transactions_before: tuple[Point, ...]
    changes: tuple[LevelChange, ...]
    changes_before: tuple[LevelChange, ...]


def groups_of(terms: Terms, usage: Iterable[MeteredQuantity]) -> tuple[Group, ...]:
    """The groups of a charge's usage, in a stable order; one empty group if there is no usage.

    Raises:
        InvalidInput: the charge asks for times and a quantity has none.
    """
    found: dict[GroupKey, list[MeteredQuantity]] = {}
    for used in usage:
        found.setdefault(_key(terms, used), []).append(used)
    if not found:
        found[GroupKey()] = []
    return tuple(_group(key, found[key]) for key in sorted(found, key=_in_order))


def present(groups: Sequence[Group], *, through: bool) -> Sequence[Group]:
    """The groups that something was used of by then; one empty group where nothing was.

    A fee that is due without usage is due once then, whichever groups a later slice has.
    """
    found = [group for group in groups if _was_used(group, through=through)]
    return found or [_group(GroupKey(), [])]


def _was_used(group: Group, *, through: bool) -> bool:
    if group.transactions_before or group.changes_before:
        return True
    if through:
        used = EXACT.add(group.before, group.quantity)
        return bool(used or group.transactions or group.changes)
    return bool(group.before)


def span_of(charge: Charge) -> Span:
    """After which span counting starts again; a promise or a reservation per window decides it."""
    match charge.price, charge.adjustments.commitment:
        case Reserved(window=window), _:
            return window
        case _, Commitment(window=window) if window is not Span.PERIOD:
            return window
        case _:
            return charge.restart


def spans_in(terms: Terms, span: Span) -> int:
    """How many spans a contract's part of a billing period has, those without usage included.

    A local day of 23 or 25 hours is one day, and has 23 or 25 hours. Of a charge for a part of
    the week, those spans count that have time in it.

    Raises:
        InvalidInput: the caller knows no calendar.
    """
    if span is Span.PERIOD:
        return 1
    if terms.covered is None:
        raise InvalidInput(
            f"{terms.charge.key} counts by time, and the billing period is not known",
            field="period",
            remedy="name the billing period",
        )
    selector = terms.charge.selector
    window = None if selector is None else selector.window
    return len(
        {
            start_of(quarter, span, terms)
            for quarter in quarter_hours(terms.covered)
            if window is None or window.holds(quarter, terms.zone)
        }
    )


def start_of(instant: datetime, span: Span, terms: Terms) -> datetime | None:
    """The start of the span that holds an instant; None for the whole period."""
    match span:
        case Span.PERIOD:
            return None
        case Span.DAY:
            return day_start(instant, terms.zone)
        case Span.HOUR:
            return hour_start(instant, terms.zone)
        case Span.QUARTER_HOUR:
            return bucket_of(instant)
        case _:
            assert_never(span)


def _key(terms: Terms, used: MeteredQuantity) -> GroupKey:
    values = dict(used.dimensions)
    span = span_of(terms.charge)
    start = None
    if span is not Span.PERIOD:
        if used.at is None:
            raise InvalidInput(
                "the charge counts by time, and the usage names none",
                field="at",
                remedy="hand in usage by quarter hour",
            )
        start = start_of(used.at, span, terms)
    return GroupKey(
        values=tuple(values.get(name, ABSENT) for name in terms.charge.split_by), start=start
    )


def _group(key: GroupKey, members: list[MeteredQuantity]) -> Group:
    before = quantity = _ZERO
    for used in members:
        before = EXACT.add(before, used.before)
        quantity = EXACT.add(quantity, used.quantity)
    return Group(
        key=key,
        before=before,
        quantity=quantity,
        transactions=tuple(sorted(point for used in members for point in used.transactions)),
        transactions_before=tuple(
            sorted(point for used in members for point in used.transactions_before)
        ),
        changes=by_time(change for used in members for change in used.changes),
        changes_before=by_time(change for used in members for change in used.changes_before),
    )


def by_time(changes: Iterable[LevelChange]) -> tuple[LevelChange, ...]:
    """Changes of a level in their order; of one instant, as they were."""
    return tuple(sorted(changes, key=lambda change: change.at))


def _in_order(key: GroupKey) -> tuple[str, ...]:
    return (*key.values, "" if key.start is None else key.start.isoformat())
