"""Holds: amounts set aside for running requests, apart from the entries of the ledger.

Decides what a hold may become and what a refusal means. That holds never exceed their limit (L6)
is decided where they meet, by the database under the limit's row lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from billing.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from billing.money import to_ledger

CREDIT = "credit"
"""The limit that is a tenant's unscoped credit; other limits have a capacity of their own."""


class HoldAnswer(StrEnum):
    """What the database said to a step of a hold."""

    TAKEN = "taken"
    EXTENDED = "extended"
    POSTED = "posted"
    VOIDED = "voided"
    INSUFFICIENT = "insufficient"
    CONFLICT = "conflict"
    RESOLVED = "resolved"
    EXCEEDS = "exceeds"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimit:
    """A limit as it stands.

    Attributes:
        capacity: None where it is a tenant's credit.
        held: in open holds.
        spent: posted from holds; for credit, what is not applied to grants yet.
        available: what a new hold can take.
    """

    id: int
    tenant_id: int
    name: str
    currency: str
    capacity: Decimal | None
    held: Decimal
    spent: Decimal
    available: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHold:
    """A hold that is not resolved; past `expires_at` it is as good as gone."""

    id: UUID
    limit: str
    currency: str
    amount: Decimal
    expires_at: datetime


def require_step(answer: HoldAnswer) -> None:
    """Return if a step was taken, or had been taken before in the same way (L3).

    Raises:
        Conflict: not enough is available, the hold is resolved, or more is posted than was held.
        IdempotencyConflict: the id was used for another hold.
        NotFound: no such hold.
    """
    match answer:
        case HoldAnswer.TAKEN | HoldAnswer.EXTENDED | HoldAnswer.POSTED | HoldAnswer.VOIDED:
            return
        case HoldAnswer.INSUFFICIENT:
            raise Conflict(
                "the hold exceeds what is available", field="amount", remedy="top up the credit"
            )
        case HoldAnswer.CONFLICT:
            raise IdempotencyConflict(
                "this id was used for another hold", field="hold", remedy="use a new id"
            )
        case HoldAnswer.RESOLVED:
            raise Conflict(
                "the hold is resolved or expired", field="hold", remedy="take a new hold"
            )
        case HoldAnswer.EXCEEDS:
            raise Conflict(
                "more than was held", field="amount", remedy="extend the hold before posting"
            )
        case HoldAnswer.UNKNOWN:
            raise NotFound(
                "no such hold", field="hold", remedy="use the id that the hold was given"
            )
        case _:
            assert_never(answer)


def require_amount(amount: Decimal, *, zero: bool = False) -> Decimal:
    """Return an amount that a hold can have.

    Args:
        zero: whether nothing is an amount too.

    Raises:
        InvalidInput: negative, nothing where something is meant, or more than 12 decimals.
    """
    if amount < 0 or (not zero and not amount) or to_ledger(amount) != amount:
        raise InvalidInput(
            "not an amount, or more than 12 decimals", field="amount", remedy='write it like "0.25"'
        )
    return amount
