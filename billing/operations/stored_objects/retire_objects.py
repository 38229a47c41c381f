"""Objects of backends leave the database when they are over.

Decides: when one is over. A response is after as many days as the deployment keeps responses (30,
which is what OpenAI promises); a file a day after the end that its backend told when it took it,
and, like a batch, after as many days as the deployment says, if it says any. The end that a batch
tells is that of its run, not of the batch. What may still be billed is never over.

Decides also that an object which is over, or was deleted by its tenant, is nobody's for a day more
before its row leaves: a process remembers for an hour whose an id was. A page is a transaction of
its own; a run that dies between two is made up by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from billing.admission.binding import ObjectKind
from billing.store import object_retention as store
from billing.store.object_retention import Left, Place, Span

KEPT_BEHIND_ITS_END = timedelta(days=1)
"""A backend may be late, and its clock may be."""

KEPT_DELETED = timedelta(days=1)

MOST_A_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFor:
    """How many days objects are their tenants' from their binding on; 0: no such end."""

    responses: int
    files: int
    batches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One pass over the objects of a kind.

    Attributes:
        span: by which of their instants they are over; at `before` or earlier.
    """

    kind: ObjectKind
    span: Span
    before: datetime


def turns(kept: KeptFor, *, now: datetime) -> Iterator[Turn]:
    """What there is to go over, in order."""
    days = (
        (ObjectKind.RESPONSE, kept.responses),
        (ObjectKind.FILE, kept.files),
        (ObjectKind.BATCH, kept.batches),
    )
    for kind, kept_days in days:
        if kept_days:
            yield Turn(kind=kind, span=Span.AGE, before=now - timedelta(days=kept_days))
    yield Turn(kind=ObjectKind.FILE, span=Span.END, before=now - KEPT_BEHIND_ITS_END)
    for kind in ObjectKind:
        yield Turn(kind=kind, span=Span.DELETED, before=now - KEPT_DELETED)


def retire_page(
    connection: sa.Connection,
    turn: Turn,
    *,
    after: Place | None,
    now: datetime,
    most: int = MOST_A_PAGE,
) -> Left:
    """Go over one page of a turn; the same page again does nothing more.

    Args:
        after: where the page before it ended; None for the first.
    """
    kind, before = turn.kind, turn.before
    if turn.span is Span.DELETED:
        return store.remove_deleted(connection, kind, before=before, after=after, most=most)
    return store.mark_over(
        connection, kind, turn.span, before=before, after=after, most=most, now=now
    )
