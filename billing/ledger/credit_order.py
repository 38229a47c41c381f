"""Which credit pays which charge: priority, earliest expiry, promotional before paid, oldest.

Charges are covered in the order of usage time by day. Decides amounts only: what is booked for
them, and which charges there are, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from billing.ledger.credit_grant import CreditGrant, CreditLot, DayCharge, GrantKind
from billing.money import EXACT

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A part of a grant that pays a part of a charge.

    Attributes:
        amount: at 12 decimals, above zero.
        remaining: what the grant has left after it.
    """

    grant: CreditGrant
    charge: DayCharge
    amount: Decimal
    remaining: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What credit pays, and what it does not.

    Attributes:
        uncovered: the charges of which something is left, with what is left as their amount.
    """

    applications: tuple[Application, ...]
    uncovered: tuple[tuple[DayCharge, Decimal], ...]


def draw(lots: Iterable[CreditLot], charges: Iterable[DayCharge]) -> Drawn:
    """Cover charges with credit; the order in which either is listed does not matter."""
    ordered = sorted(lots, key=lambda lot: turn(lot.grant))
    left = {lot.grant.id: lot.remaining for lot in ordered}
    applications: list[Application] = []
    uncovered: list[tuple[DayCharge, Decimal]] = []
    for charge in sorted(charges, key=_moment):
        due = charge.amount
        for lot in ordered:
            available = left[lot.grant.id]
            if not due or not available or not lot.grant.covers(charge):
                continue
            amount = min(due, available)
            due = EXACT.subtract(due, amount)
            left[lot.grant.id] = EXACT.subtract(available, amount)
            applications.append(
                Application(
                    grant=lot.grant, charge=charge, amount=amount, remaining=left[lot.grant.id]
                )
            )
        if due:
            uncovered.append((charge, due))
    return Drawn(applications=tuple(applications), uncovered=tuple(uncovered))


def turn(grant: CreditGrant) -> tuple[int, datetime, bool, datetime, UUID]:
    """The place of a grant in the order of drawdown."""
    expiry = grant.expires_at or _NEVER
    paid = grant.kind is GrantKind.PAID
    return (grant.priority, expiry, paid, grant.starts_at, grant.id)


def _moment(charge: DayCharge) -> tuple[date, int, datetime, str]:
    return (charge.day, charge.contract_id, charge.period_start, charge.line_key)
