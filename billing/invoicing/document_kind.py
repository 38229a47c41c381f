"""Kinds of documents, and which lines go on which: an invoice, or a credit note beside it.

A correction below zero is a line on the next invoice. It goes on a credit note if the plan says so,
or if the invoice would turn negative: an invoice cannot credit. Decides nothing about amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from billing.invoicing.invoice import LineBasis, charged_minor
from billing.money import Currency


class DocumentKind(StrEnum):
    """What a numbered document is."""

    PERIOD = "period"
    """The invoice of a billing period, with corrections of earlier ones."""
    PROGRESSIVE = "progressive"
    """An invoice of a running billing period so far."""
    CORRECTION = "correction"
    """An invoice of corrections only."""
    ADVANCE = "advance"
    """An invoice of fees in advance alone, as at the start of a contract."""
    CREDIT_NOTE = "credit_note"
    """Lines that sum below zero, mirrored: its total is what the tenant gets back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineGroup:
    """The lines of one contract in one billing period.

    Attributes:
        bases: of its lines.
        is_correction: whether the period was invoiced before.
        by_credit_note: whether the plan wants corrections below zero on a credit note.
    """

    bases: tuple[LineBasis, ...]
    is_correction: bool
    by_credit_note: bool = False


def credited(groups: Sequence[LineGroup], currency: Currency) -> list[bool]:
    """For each group of lines, whether it goes on a credit note.

    Groups stay whole: what a maximum takes off belongs with what it was taken off from.
    """
    charged = [charged_minor(group.bases, currency) for group in groups]
    chosen = [
        group.is_correction and group.by_credit_note and amount < 0
        for group, amount in zip(groups, charged, strict=True)
    ]
    left = sum(amount for amount, away in zip(charged, chosen, strict=True) if not away)
    if left >= 0:
        return chosen
    return [amount < 0 for amount in charged]
