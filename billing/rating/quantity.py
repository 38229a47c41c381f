"""Metered quantities: what rating is asked to price.

Decides: which quantities can be rated at all. Decides nothing about how they were aggregated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from billing.errors import AmountOutOfRange, InvalidInput
from billing.metering.aggregation import Point
from billing.money import EXACT, QUANTITY_DECIMALS_MAX, QUANTITY_MAX, decimals_of

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChange:
    """Units that joined or left a level (seats, capacity), and what they weigh in the period.

    Attributes:
        at: when; the order of a group's changes.
        units: below zero for units that left.
        prorated: the units times the part of the billing period that is left, of the same sign
            (`levels.level_changes` works it out).
    """

    at: datetime
    units: Decimal
    prorated: Decimal

    def __post_init__(self) -> None:
        _require_quantity(self.units, field="units")
        _require_quantity(self.prorated, field="prorated")
        if self.prorated and (not self.units or (self.units > 0) is not (self.prorated > 0)):
            raise InvalidInput(
                "prorated units of the other sign", field="prorated", remedy="give both one sign"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredQuantity:
    """Usage of one meter and model in one slice of one contract's billing period.

    Attributes:
        meter: code of the meter.
        model: name of the model, or None where the meter knows none.
        quantity: in units of the meter, in this slice; below zero where corrections take back
            what earlier slices counted.
        before: the same meter, model and dimensions, from the start of the billing period to the
            slice.
        dimensions: names and values, sorted by name; those alone that a charge asks for need to
            be here.
        at: start of the quarter hour in which it was used; None where no charge asks.
        transactions: the slice's single events, where a charge asks for them; they add up to
            `quantity`.
        transactions_before: those from the start of the billing period; they add up to `before`.
        changes: of a level, in the slice, where a charge prorates units by days; their prorated
            units add up to `quantity`.
        changes_before: those from the start of the billing period; they add up to `before`.

    Raises:
        InvalidInput: more decimals than the ledger keeps, or parts that do not add up.
        AmountOutOfRange: more than 10^18 units.
    """

    meter: str
    model: str | None = None
    quantity: Decimal
    before: Decimal = _ZERO
    dimensions: tuple[tuple[str, str], ...] = ()
    at: datetime | None = None
    transactions: tuple[Point, ...] = ()
    transactions_before: tuple[Point, ...] = ()
    changes: tuple[LevelChange, ...] = ()
    changes_before: tuple[LevelChange, ...] = ()

    def __post_init__(self) -> None:
        _require_quantity(self.quantity, field="quantity")
        if self.before is not _ZERO:
            _require_quantity(self.before, field="before")
        if self.transactions or self.transactions_before:
            _require_sum(_values(self.transactions), self.quantity, field="transactions")
            _require_sum(_values(self.transactions_before), self.before, field="transactions")
        if self.changes or self.changes_before:
            _require_sum((c.prorated for c in self.changes), self.quantity, field="changes")
            _require_sum((c.prorated for c in self.changes_before), self.before, field="changes")

    def as_one(self, *, through: bool) -> MeteredQuantity:
        """The same place as one slice from the start of the period.

        Args:
            through: up to the end of this slice, or up to its beginning.
        """
        if not through:
            return replace(
                self,
                quantity=self.before,
                before=_ZERO,
                transactions=self.transactions_before,
                transactions_before=(),
                changes=self.changes_before,
                changes_before=(),
            )
        return replace(
            self,
            quantity=EXACT.add(self.before, self.quantity),
            before=_ZERO,
            transactions=(*self.transactions_before, *self.transactions),
            transactions_before=(),
            changes=(*self.changes_before, *self.changes),
            changes_before=(),
        )


def _values(points: Iterable[Point]) -> Iterable[Decimal]:
    for point in points:
        _require_quantity(point.value, field="transactions")
        if point.value < 0:
            raise InvalidInput(
                "a transaction is negative",
                field="transactions",
                remedy="use 0 or more, and take reports back by a void",
            )
        yield point.value


def _require_sum(parts: Iterable[Decimal], whole: Decimal, *, field: str) -> None:
    total = _ZERO
    for part in parts:
        total = EXACT.add(total, part)
    if total != whole:
        raise InvalidInput(
            f"{field} do not add up", field=field, remedy="give parts that sum to the whole"
        )


def _require_quantity(quantity: Decimal, *, field: str) -> None:
    if not quantity.is_finite():
        raise InvalidInput("not a finite number", field=field, remedy="use a number like 12.5")
    # `abs()` would round to the caller's context.
    if quantity.copy_abs() > QUANTITY_MAX:
        raise AmountOutOfRange("usage out of range", field=field, remedy=f"at most {QUANTITY_MAX}")
    # Most are whole, and to look at the digits of a number takes longer than all else here.
    if quantity != int(quantity) and decimals_of(quantity) > QUANTITY_DECIMALS_MAX:
        raise InvalidInput(
            f"more than {QUANTITY_DECIMALS_MAX} decimals", field=field, remedy="round it"
        )
