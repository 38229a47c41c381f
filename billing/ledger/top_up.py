"""Automatic top-ups: when credit is requested, and what keeps a runaway client from buying it all.

Decides only whether a top-up is requested now. Collecting the money is a payment's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import reduce
from uuid import UUID

from billing.errors import InvalidInput
from billing.money import EXACT, to_ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpPolicy:
    """A tenant's rule in one currency. Amounts in major units, spans in milliseconds.

    Attributes:
        threshold: a top-up is requested once less than this is available.
        amount: of one top-up.
        window_ms, count_max, amount_max: the burst limit: in any such window, at most so many
            and so much.
        cool_down_ms: no request for so long after a declined one.
    """

    threshold: Decimal
    amount: Decimal
    window_ms: int
    count_max: int
    amount_max: Decimal
    cool_down_ms: int

    def __post_init__(self) -> None:
        for name in ("threshold", "amount", "amount_max"):
            value: Decimal = getattr(self, name)
            if value < 0 or to_ledger(value) != value:
                raise InvalidInput(
                    "not an amount, or more than 12 decimals",
                    field=name,
                    remedy="use 0 or more, with at most 12 decimals",
                )
        for name in ("window_ms", "count_max", "cool_down_ms"):
            if getattr(self, name) < 0:
                raise InvalidInput("below zero", field=name, remedy="use 0 or more")
        if not self.amount or not self.window_ms:
            raise InvalidInput(
                "must be above zero",
                field="amount" if self.window_ms else "window",
                remedy="use more than 0",
            )


class TopUpState(StrEnum):
    """Where a top-up stands."""

    REQUESTED = "requested"
    PAID = "paid"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """A top-up; `resolved_at` is None while it is only requested."""

    id: UUID
    amount: Decimal
    requested_at: datetime
    state: TopUpState
    resolved_at: datetime | None


class TopUpAnswer(StrEnum):
    """Why a top-up is requested, or is not."""

    REQUESTED = "requested"
    ENOUGH = "enough"
    """What is available and what is requested reach the threshold."""
    BURST = "burst_limit"
    COOLING_DOWN = "cooling_down"


def consider(
    policy: TopUpPolicy, *, available: Decimal, recent: list[TopUp], now: datetime
) -> TopUpAnswer:
    """Decide on a top-up now.

    Args:
        available: what a hold could take.
        recent: top-ups of the longer of window and cool-down, and all that are only requested.
    """
    coming = available
    for each in recent:
        if each.state is TopUpState.REQUESTED:
            coming = EXACT.add(coming, each.amount)
    if coming >= policy.threshold:
        return TopUpAnswer.ENOUGH
    cool_from = now - timedelta(milliseconds=policy.cool_down_ms)
    for each in recent:
        if each.state is not TopUpState.DECLINED or each.resolved_at is None:
            continue
        if each.resolved_at > cool_from:
            return TopUpAnswer.COOLING_DOWN
    burst_from = now - timedelta(milliseconds=policy.window_ms)
    burst = [each.amount for each in recent if each.requested_at > burst_from]
    amount = reduce(EXACT.add, burst, policy.amount)
    if len(burst) >= policy.count_max or amount > policy.amount_max:
        return TopUpAnswer.BURST
    return TopUpAnswer.REQUESTED
