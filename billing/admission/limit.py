"""Limits: how much of something may be used in a window of time.

Decides: which limits exist and which requests one applies to. Does not decide how much of it is
left: that is known to the database and, in part, to the leases of this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """What a limit counts. Slots are requests in flight: given back, never drawn."""

    MONEY = "money"
    TOKENS = "tokens"
    REQUESTS = "requests"
    SLOTS = "slots"


class Window(StrEnum):
    """After which time a limit starts again: minutes in UTC, the others in the tenant's zone."""

    NONE = "none"
    MINUTE = "minute"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit of a tenant.

    Attributes:
        hard: at its end requests are refused; a soft limit only tells.
        shadow: it is counted and refuses nothing, so that it can be tried out.
        capacity: of one window over all processes; money in 10⁻¹² of the major unit.
        project_id, key_id, model_id: whose requests it counts; None: of all.
    """

    id: int
    name: str
    unit: Unit
    window: Window
    hard: bool
    shadow: bool
    capacity: int
    project_id: int | None = None
    key_id: int | None = None
    model_id: int | None = None

    def applies(self, *, project_id: int, key_id: int, model_id: int) -> bool:
        """Whether it counts a request of this project and key for this model."""
        return (
            self.project_id in (None, project_id)
            and self.key_id in (None, key_id)
            and self.model_id in (None, model_id)
        )
