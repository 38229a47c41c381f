"""Corrections: new facts that take an event back, and may put another in its place.

Decides what a correction may say and what the events that it makes count. A void takes back
everything that the original counted; an amendment takes it back as well and counts other
quantities instead. Both lie in the original's period, under its prices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from billing.errors import InvalidInput
from billing.metering.usage_event import require_quantity, require_text
from billing.money import plain


class CorrectionKind(StrEnum):
    """What a correction does to its original."""

    VOID = "void"
    AMEND = "amend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A correction as it is asked for.

    Attributes:
        corrects: id of the original event.
        source, foreign_id: who corrects and its id of the correction; used once for ever, like
            that of any event.
        reason: for the tenant and the auditor to read.
        quantities: by meter code what counts instead, 0 where a meter of the original is left
            out; None for a void.

    Raises:
        InvalidInput: text or quantities that no ledger can keep, or an empty amendment.
    """

    corrects: UUID
    source: str
    foreign_id: str
    reason: str
    quantities: Mapping[str, Decimal] | None = None

    def __post_init__(self) -> None:
        for field, text in (
            ("source", self.source),
            ("id", self.foreign_id),
            ("reason", self.reason),
        ):
            require_text(text, field=field)
        if self.quantities is None:
            return
        if not self.quantities:
            raise InvalidInput(
                "an amendment without quantities", field="quantities", remedy="void it instead"
            )
        for meter, quantity in self.quantities.items():
            require_quantity(quantity, field=f"quantities.{meter}")

    @property
    def kind(self) -> CorrectionKind:
        """Whether something counts instead."""
        return CorrectionKind.VOID if self.quantities is None else CorrectionKind.AMEND

    def body_hash(self) -> bytes:
        """16 bytes that are equal for equal corrections (L3); the reason is not part of it."""
        counted = sorted((self.quantities or {}).items())
        members = (
            self.kind.value,
            self.corrects.hex,
            *(f"{meter}={plain(quantity)}" for meter, quantity in counted),
        )
        return hashlib.blake2b("\x1f".join(members).encode(), digest_size=16).digest()


def replacing(correction: Correction, codes: tuple[str, ...]) -> tuple[Decimal, ...]:
    """The amended quantities, in the order of the original's meters.

    Raises:
        InvalidInput: a meter that the original does not count.
    """
    quantities = dict(correction.quantities or {})
    amended = tuple(quantities.pop(code, Decimal(0)) for code in codes)
    if quantities:
        raise InvalidInput(
            "the original does not count this meter",
            field=f"quantities.{min(quantities)}",
            remedy="void the original and report a new event",
        )
    return amended
