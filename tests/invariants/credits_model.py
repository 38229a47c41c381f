"""What credits and invoices must be after any sequence of steps, kept in plain Python.

Decides which step is taken or refused, which grant pays which day's usage, what is owed, what an
invoice comes to and what every account holds. Knows nothing of the database; holds are in
`holds_model`, what a single grant is in `lots_model`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import Rollover
from billing.operations.credits.grant_credit import GrantTerms
from tests.invariants.holds_model import Hold, HoldBooks, Refusal
from tests.invariants.lots_model import (
    CALENDAR,
    NOBODY,
    PRICES,
    TICK,
    ZERO,
    Charge,
    Day,
    Lot,
    Part,
    drawn,
    month_of,
    rounded,
    shares,
)


@dataclass(slots=True)
class Settled:
    """What invoices took of one key."""

    accrued: Decimal = ZERO
    billed_minor: int = 0


class CreditBooks(HoldBooks):
    """One tenant's credits, limits, usage, invoices and accounts."""

    def __init__(self, now: datetime, budget: Decimal) -> None:
        super().__init__(now, budget)
        self.ids: dict[str, UUID] = {}
        self.lots: dict[str, Lot] = {}
        self.reported: set[str] = set()
        self.usage: defaultdict[tuple[datetime, str], int] = defaultdict(int)
        self.earned: defaultdict[Day, Decimal] = defaultdict(Decimal)
        self.applied: defaultdict[tuple[str, Day], Decimal] = defaultdict(Decimal)
        self.settled: defaultdict[tuple[datetime, str], Settled] = defaultdict(Settled)
        self.reserved: dict[tuple[str, datetime], Decimal] = {}
        self.invoices: dict[datetime, tuple[int, int, Decimal]] = {}
        self.accounts: defaultdict[AccountCode, Decimal] = defaultdict(Decimal)
        self.deferred: defaultdict[str, Decimal] = defaultdict(Decimal)

    def state(self) -> dict[str, Any]:
        """All of it, in the form in which the database is read."""
        return {
            **self.holds_state(),
            "lots": {
                lot.key: (
                    lot.id,
                    lot.amount,
                    lot.cost,
                    lot.starts,
                    lot.expires,
                    lot.used,
                    lot.lapsed,
                )
                for lot in self.lots.values()
            },
            "applied": dict(self.applied),
            "earned": {key: amount for key, amount in self.earned.items() if amount},
            "accounts": {code: amount for code, amount in self.accounts.items() if amount},
            "deferred": {kind: amount for kind, amount in self.deferred.items() if amount},
            "reserved": dict(self.reserved),
            "invoices": dict(self.invoices),
        }

    def backing(self) -> Decimal:
        lots = (lot for lot in self.lots.values() if lot.backs_holds and lot.is_valid(self.now))
        return sum((self._free(lot) for lot in lots), ZERO)

    def _free(self, lot: Lot, *, but: Collection[datetime] = ()) -> Decimal:
        """What remains and is reserved for no invoice, or for one of these months."""
        taken = (
            amount
            for (key, month), amount in self.reserved.items()
            if key == lot.key and month not in but
        )
        return lot.remaining - sum(taken, ZERO)

    # credit

    def grant(self, key: str, terms: GrantTerms) -> Refusal | str:
        if key in self.lots:
            same = self.lots[key].terms == terms
            return self.lots[key].key if same else "IdempotencyConflict"
        expires = terms.expires_at
        assert expires is None or isinstance(expires, datetime)
        self._add(
            Lot(
                id=self.ids.get(key, NOBODY),
                key=key,
                terms=terms,
                amount=terms.amount,
                cost=terms.cost_basis or ZERO,
                starts=self.now,
                expires=month_of(self.now)[1] if terms.recurs else expires,
                rollover=terms.rollover,
                heads_series=terms.recurs,
                recurs=terms.recurs,
            )
        )
        if terms.paid_from is not None and terms.cost_basis:
            self._owe("credits_bought", terms.cost_basis, terms.paid_from)
        return key

    def void(self, key: str) -> Refusal | str:
        lot = self.lots[key]
        if lot.voided or not (lot.remaining or lot.heads_series):
            return "Conflict"
        if any(key == lot.key for key, _ in self.reserved):
            return "Conflict"
        gone: list[Hold] = []
        if lot.backs_holds and lot.is_valid(self.now):
            gone = [hold for hold in self._past() if hold.limit == "credit"]
            if self.available("credit", without=gone) < lot.remaining:
                return "Conflict"
        self._end(gone)
        if released := lot.owed(lot.remaining):
            assert lot.terms.paid_from is not None
            self._owe("credits_paid_back", -released, lot.terms.paid_from)
        lot.lapsed, lot.voided = lot.lapsed + lot.remaining, True
        return key

    def expire(self, into: AccountCode) -> list[str]:
        done: list[str] = []
        # What rolls over late may roll into a span that is past as well.
        while due := [lot for lot in self.lots.values() if self._free(lot) and self._is_past(lot)]:
            done += [lot.key for lot in due]
            for lot in due:
                self._expire(lot, into)
        return sorted(done)

    def _is_past(self, lot: Lot) -> bool:
        return lot.expires is not None and lot.expires <= self.now

    def _expire(self, lot: Lot, into: AccountCode) -> None:
        remaining, rest, rolled = lot.remaining, self._free(lot), ZERO
        if lot.rollover is not None and f"rolled/{lot.id}" not in self.lots:
            units = math.floor(Fraction(rest) * Fraction(lot.rollover.fraction) * 10**12)
            rolled = Decimal(units).scaleb(-12)
            rolled = min(rolled, lot.rollover.maximum or rolled)
        if rolled:
            self._roll(lot, rolled, lot.owed(remaining) - lot.owed(remaining - rolled))
        if released := lot.owed(remaining - rolled) - lot.owed(remaining - rest):
            self._owe("credits_broken", -released, into)
        lot.lapsed += rest

    def renew(self) -> list[str]:
        made: list[str] = []
        for head in [lot for lot in self.lots.values() if lot.heads_series and not lot.voided]:
            begins, ends = month_of(month_of(head.starts)[1])
            while begins <= self.now:
                key = f"recurring/{head.id}/{begins:%Y%m%dT%H%M}"
                if key not in self.lots:
                    self._add(self._like(head, key, begins, ends, rollover=head.rollover))
                    made.append(key)
                begins, ends = month_of(ends)
        return sorted(made)

    def _like(
        self, lot: Lot, key: str, starts: datetime, ends: datetime, *, rollover: Rollover | None
    ) -> Lot:
        return Lot(
            id=self.ids.get(key, NOBODY),
            key=key,
            terms=lot.terms,
            amount=lot.amount,
            cost=lot.cost,
            starts=starts,
            expires=ends,
            rollover=rollover,
            heads_series=False,
            recurs=lot.recurs,
        )

    def _roll(self, lot: Lot, amount: Decimal, cost: Decimal) -> None:
        assert lot.expires is not None
        ends = lot.expires + (lot.expires - lot.starts)
        if lot.recurs:
            ends = month_of(lot.expires)[1]
        onward = self._like(lot, f"rolled/{lot.id}", lot.expires, ends, rollover=None)
        onward.amount, onward.cost, onward.recurs = amount, cost, False
        self._add(onward)

    def _add(self, lot: Lot) -> None:
        self.lots[lot.key] = lot

    def _owe(self, kind: str, amount: Decimal, other: AccountCode) -> None:
        """More is owed for credit (less, if negative), against another account."""
        self.deferred[kind] += amount
        self._move(amount, other, AccountCode.CONTRACT_LIABILITY)

    def _move(self, amount: Decimal, debit: AccountCode, credit: AccountCode) -> None:
        self.accounts[debit] += amount
        self.accounts[credit] -= amount

    # usage and invoices

    def use(self, report: str, line: str, quantity: int) -> None:
        if report not in self.reported:
            self.reported.add(report)
            self.usage[month_of(self.now)[0], line] += quantity

    def accrue(self, month: datetime) -> None:
        at = min(self.now, month_of(month)[1] - TICK)
        day = at.astimezone(CALENDAR).date()
        for line, price in PRICES.items():
            posted = sum((self.earned[key] for key in self._days(month, line)), ZERO)
            exact = rounded(self.usage[month, line] * price, 12)
            if new := exact - posted:
                self.earned[month, line, day] += new
                self._move(new, AccountCode.UNBILLED, AccountCode.REVENUE)

    def apply(self, month: datetime, *, settle: bool) -> None:
        now_paying = [lot for lot in self.lots.values() if not lot.is_means_of_payment]
        for lot, day, part in drawn(
            [(lot, lot.remaining) for lot in now_paying], self._uncovered(month)
        ):
            self._pay(lot, day, part)
        self._reserve([month], drawn(self._redeemable([month]), self._not_invoiced(month)))
        if settle:
            self.settle()

    def _uncovered(self, month: datetime) -> list[Charge]:
        paid: defaultdict[Day, Decimal] = defaultdict(Decimal)
        for (_, day), amount in self.applied.items():
            paid[day] += amount
        return [(day, self.earned[day] - paid[day]) for day in sorted(self._days(month))]

    def _not_invoiced(self, month: datetime) -> list[Charge]:
        """Of each line its latest days, as much as no invoice has taken."""
        left = {
            line: sum((self.earned[day] for day in self._days(month, line)), ZERO)
            - self.settled[month, line].accrued
            for line in PRICES
        }
        kept: list[Charge] = []
        for day, amount in reversed(self._uncovered(month)):
            part = min(amount, left[day[1]])
            left[day[1]] -= part
            if part > 0:
                kept.append((day, part))
        return kept[::-1]

    def _redeemable(self, months: Collection[datetime]) -> list[tuple[Lot, Decimal]]:
        lots = [lot for lot in self.lots.values() if lot.is_means_of_payment]
        return [(lot, self._free(lot, but=months)) for lot in lots]

    def _reserve(self, months: Collection[datetime], parts: Iterable[Part]) -> None:
        """Reserve for these months what is said, and no more what was said before."""
        self.reserved = {key: part for key, part in self.reserved.items() if key[1] not in months}
        for lot, (month, _, _), part in parts:
            self.reserved[lot.key, month] = self.reserved.get((lot.key, month), ZERO) + part

    def issue(self, month: datetime) -> Refusal | tuple[int, int, Decimal]:
        if self.now < month_of(month)[1]:
            return "Conflict"
        if month not in self.invoices:
            parts = [month, *(each for each in sorted(self.invoices) if self._has_news(each))]
            for part in parts:
                self.accrue(part)
                self.apply(part, settle=False)
            self._bill(month, parts)
        return self.invoices[month]

    def _bill(self, month: datetime, parts: list[datetime]) -> None:
        charges = [charge for part in parts for charge in self._not_invoiced(part)]
        charged_minor, credited_minor, accrued = 0, 0, ZERO
        for part in parts:
            for key, exact in self._bases(part):
                settled = self.settled[part, key]
                due = int(rounded(exact, 2) * 100) - settled.billed_minor
                newly = rounded(exact, 12) - settled.accrued
                charged_minor += due if key in PRICES else 0
                credited_minor += due if key not in PRICES else 0
                accrued += newly
                settled.billed_minor += due
                settled.accrued += newly
        before = self.invoices[max(self.invoices)][2] if self.invoices else ZERO
        # Credit takes off no more than there is to pay; what is left stays in the residual.
        total = max(charged_minor + credited_minor, 0)
        total += max(int(before * 100), -total)
        moved = Decimal(total).scaleb(-2)
        self._move(moved, AccountCode.RECEIVABLE, AccountCode.UNBILLED)
        redeemed = self._redeem(parts, charges, total)
        self.invoices[month] = (total, total - redeemed, before + accrued - moved)

    def _redeem(self, months: list[datetime], charges: list[Charge], total: int) -> int:
        """Pay an invoice with credit that is taxed only now; how many cents."""
        cents = [
            (lot, free.quantize(Decimal("0.01"), ROUND_FLOOR))
            for lot, free in self._redeemable(months)
        ]
        self._reserve(months, [])
        if not charges:
            return 0
        split = shares(total, [amount for _, amount in charges])
        payable = [
            (day, Decimal(part).scaleb(-2)) for (day, _), part in zip(charges, split, strict=True)
        ]
        by_lot: defaultdict[str, Decimal] = defaultdict(Decimal)
        for lot, _, part in drawn(cents, payable):
            by_lot[lot.key] += part
        for key, amount in by_lot.items():
            lot = self.lots[key]
            released = lot.owed(lot.remaining) - lot.owed(lot.remaining - amount)
            lot.used += amount
            self._owe("credits_redeemed", -released, AccountCode.RECEIVABLE)
            self._move(amount - released, AccountCode.CONTRA_PROMOTION, AccountCode.RECEIVABLE)
        return int(sum(by_lot.values(), ZERO) * 100)

    def _bases(self, month: datetime) -> Iterator[tuple[str, Fraction]]:
        for line, price in PRICES.items():
            yield line, self.usage[month, line] * price
        for lot in self.lots:
            yield f"credit.{lot}", -Fraction(self._applied(month, lot))

    def _applied(self, month: datetime, lot: str) -> Decimal:
        of_lot = (
            amount for (key, day), amount in self.applied.items() if (key, day[0]) == (lot, month)
        )
        return sum(of_lot, ZERO)

    def _has_news(self, month: datetime) -> bool:
        """Whether credit paid for an invoiced month and is on no invoice yet."""
        return any(
            self._applied(month, lot) != -self.settled[month, f"credit.{lot}"].accrued
            for lot in self.lots
        )

    def _days(self, month: datetime, line: str | None = None) -> list[Day]:
        days = [key for key, amount in self.earned.items() if amount]
        return [key for key in days if key[0] == month and line in (None, key[1])]

    def _pay(self, lot: Lot, day: Day, amount: Decimal) -> None:
        released = lot.owed(lot.remaining) - lot.owed(lot.remaining - amount)
        lot.used += amount
        self.applied[lot.key, day] += amount
        self._owe("credits_used", -released, AccountCode.UNBILLED)
        self._move(amount - released, AccountCode.CONTRA_PROMOTION, AccountCode.UNBILLED)
