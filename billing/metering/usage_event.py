"""Usage events: one immutable fact each, minted by us or reported from outside.

Decides: which kinds exist, what a reported event may contain, when two reports are the same, what
verdicts a report can get. Where an event is stored and how it is rated is decided elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as member
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from uuid import UUID

from billing.errors import AmountOutOfRange, InvalidInput
from billing.money import QUANTITY_DECIMALS_MAX, QUANTITY_MAX, decimals_of, plain
from billing.period import require_utc

TEXT_BYTES_MAX = 256
"""Longest text of any property of an event, in bytes: no prompt fits in by accident (P1)."""

FUTURE_TOLERANCE = timedelta(minutes=5)
"""A reporter's clock may be this much ahead of ours."""

EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
"""Nothing that is billed happened before; a time before it is a unit mistaken for another."""


class EventKind(IntEnum):
    """Why an event exists for the bill: all are metered and costed, only some rated to money."""

    BILLED = 0
    INCLUDED = 1
    INTERNAL = 2
    FREE = 3
    OUTCOME_BOUND = 4


class Cause(IntEnum):
    """How an operation of the proxy ended; `REPORTED` from outside, `CORRECTED` by us."""

    REPORTED = 0
    COMPLETED = 1
    CLIENT_LEFT = 2
    UPSTREAM_BROKE = 3
    TIMEOUT = 4
    DRAINED = 5
    RECOVERED = 6
    CORRECTED = 7


def require_text(text: str, *, field: str) -> str:
    """Return `text` if it can be a property of an event.

    Raises:
        InvalidInput: empty, longer than `TEXT_BYTES_MAX`, or with what no database keeps: a NUL,
            half of a surrogate pair. One such report would fail the whole batch.
    """
    if text.isascii() and 0 < len(text) <= TEXT_BYTES_MAX and "\0" not in text:
        return text
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= TEXT_BYTES_MAX or "\0" in text:
        raise InvalidInput(
            f"text must have 1 to {TEXT_BYTES_MAX} bytes, none of them zero",
            field=field,
            remedy="shorten it, or write it in plain characters",
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """A usage event as a reporter sends it.

    Attributes:
        source: who reports, a name of the reporter's choice.
        foreign_id: the reporter's id; (tenant, source, foreign_id) is unique for ever (D7).
        meter: code of the meter.
        quantity: up to 10^18, with at most 18 decimals; below zero only where the meter reads
            levels.
        occurred_at: when it happened; decides bucket and period.
        model: model name, where the meter counts per model.
        project: slug of the tenant's project, or None for the default one.
        kind: how the event counts for the bill.
        further: (meter, quantity) of other meters that count the same event.
        body: what `body_hash` answers, where the report was read from an event of another form.
        properties: (path, text) of what the event carries for dimensions of its meters, by path.
        event_type: of the event that meters read, where there is one.
        data: what they read in it; kept only while the event waits (`waiting_event.py`).

    Raises:
        InvalidInput: text, quantity or time that no ledger can keep.
        AmountOutOfRange: a quantity beyond 10^18.
    """

    source: str
    foreign_id: str
    meter: str
    quantity: Decimal
    occurred_at: datetime
    model: str | None = None
    project: str | None = None
    kind: EventKind = EventKind.BILLED
    further: tuple[tuple[str, Decimal], ...] = ()
    body: bytes | None = None
    properties: tuple[tuple[str, str], ...] = ()
    event_type: str | None = None
    # Never shown: it has not been looked at (P1).
    data: Mapping[str, object] | None = member(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for field, text in (
            ("source", self.source),
            ("id", self.foreign_id),
            ("meter", self.meter),
            ("model", self.model),
            ("project", self.project),
        ):
            if text is not None:
                require_text(text, field=field)
        # Whether it may be below zero is its meter's to say, which is not known here.
        require_quantity(self.quantity.copy_abs(), field="quantity")
        for _, quantity in self.further:
            require_quantity(quantity.copy_abs(), field="quantity")
        require_utc(self.occurred_at, field="occurred_at")

    @property
    def quantities(self) -> tuple[tuple[str, Decimal], ...]:
        """(meter, quantity) of every meter that counts it."""
        return ((self.meter, self.quantity), *self.further)

    def body_hash(self) -> bytes:
        """16 bytes that are equal for equal reports: tells `duplicate` from `conflicting` (L3)."""
        if self.body is not None:
            return self.body
        members = (
            self.meter,
            plain(self.quantity),
            self.occurred_at.isoformat(),
            self.model or "",
            self.project or "",
            str(int(self.kind)),
        )
        return hashlib.blake2b("\x1f".join(members).encode(), digest_size=16).digest()


def require_quantity(quantity: Decimal, *, field: str) -> Decimal:
    """Return `quantity` if a bill can count it: 0 to 10^18, at most 18 decimals.

    Raises:
        InvalidInput: negative, not finite, or too many decimals. An event stays for ever: one that
            rating refuses would block every invoice of its period.
        AmountOutOfRange: beyond 10^18.
    """
    if not quantity.is_finite():
        raise InvalidInput("not a finite number", field=field, remedy="send a number like 12.5")
    if quantity < 0:
        raise InvalidInput(
            "quantity is negative",
            field=field,
            remedy="report a correction that names the event it corrects",
        )
    if quantity > QUANTITY_MAX:
        raise AmountOutOfRange(
            "quantity out of range", field=field, remedy=f"at most {QUANTITY_MAX}"
        )
    whole = quantity == quantity.to_integral_value()
    if not whole and decimals_of(quantity) > QUANTITY_DECIMALS_MAX:
        raise InvalidInput(
            f"quantity has more than {QUANTITY_DECIMALS_MAX} decimals",
            field=field,
            remedy="round it",
        )
    return quantity


class VerdictKind(StrEnum):
    """What became of one reported event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICTING = "conflicting"
    PARKED = "parked"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to one reported event.

    Attributes:
        event_id: id of the event that holds the fact: for a duplicate, the first one's.
        reason: why it was parked, conflicting or rejected, and what to do.
    """

    kind: VerdictKind
    event_id: UUID | None = None
    reason: str | None = None
