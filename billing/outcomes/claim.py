"""A claim: one occurrence of an outcome for one subject, and the log of its transitions.

Decides which transition is allowed from which state and by whom. The state of a claim is the
last transition of its append-only log. Only the tenant confirms: the payee never referees its
own outcome (O3).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from billing.errors import Conflict, Forbidden


class ClaimState(StrEnum):
    """Where a claim stands."""

    REPORTED = "reported"
    CONFIRMED = "confirmed"


class Actor(StrEnum):
    """Who makes a transition."""

    OPERATOR = "operator"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as it is shown.

    Attributes:
        outcome: slug of the definition.
        subject: what the outcome is about (a ticket, an order), unique per outcome and tenant (O2).
        usage_event_id: the event that bills it, once confirmed.
    """

    id: UUID
    tenant: str
    outcome: str
    subject: str
    state: ClaimState
    reported_at: datetime
    confirmed_at: datetime | None
    usage_event_id: UUID | None


_ALLOWED: dict[tuple[ClaimState | None, ClaimState], frozenset[Actor]] = {
    (None, ClaimState.REPORTED): frozenset({Actor.OPERATOR, Actor.TENANT}),
    (ClaimState.REPORTED, ClaimState.CONFIRMED): frozenset({Actor.TENANT}),
}


def require_transition(current: ClaimState | None, to: ClaimState, actor: Actor) -> None:
    """Check that `actor` may move a claim from `current` to `to`.

    Raises:
        Conflict: there is no such transition.
        Forbidden: there is, but not for this actor.
    """
    actors = _ALLOWED.get((current, to))
    if actors is None:
        raise Conflict(
            f"a claim cannot go from {current} to {to}",
            field="state",
            remedy="look at its state first",
        )
    if actor not in actors:
        raise Forbidden(
            f"the {actor} cannot make a claim {to}",
            field="state",
            remedy="the tenant confirms, with a key of its own",
        )
