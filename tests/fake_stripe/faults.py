"""Faults by rule: what goes wrong, on which operation, how often.

Decides which fault hits a request. What a fault looks like on the wire is in `app.py`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from enum import StrEnum


class FaultKind(StrEnum):
    """Each is one way in which a request to Stripe has been seen to fail."""

    RATE_LIMITED = "429 without advice"
    RATE_LIMITED_RETRY = "429 with stripe-should-retry: true"
    RATE_LIMITED_FINAL = "429 with stripe-should-retry: false"
    LOCKED = "409, another request uses the object"
    ERROR_BEFORE = "500 before execution began: the key stays free"
    ERROR_STORED = "500 without effect, stored under the key"
    ERROR_AFTER = "500 with effect, stored under the key"
    DROP_BEFORE = "connection lost before execution"
    DROP_AFTER = "connection lost after the effect, the answer is stored"
    SLOW = "the answer is late; meanwhile its key is in use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`kind` None lets the matching request pass unharmed, which spaces out a schedule.

    Attributes:
        operation: as `POST /v1/invoices/{invoice}/finalize`; None matches every request.
        times: how many matching requests are hit.
        delay_ms: for SLOW only.
    """

    kind: FaultKind | None
    operation: str | None = None
    times: int = 1
    delay_ms: int = 200


class FaultSchedule:
    """Rules in order: a request is hit by the first rule that matches it and is not used up."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, *rules: Fault) -> None:
        with self._lock:
            self._rules += rules

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    @property
    def pending(self) -> int:
        """Hits that are still to come."""
        with self._lock:
            return sum(rule.times for rule in self._rules)

    def take(self, operation: str) -> Fault | None:
        with self._lock:
            for index, rule in enumerate(self._rules):
                if rule.operation in {None, operation}:
                    if rule.times > 1:
                        self._rules[index] = replace(rule, times=rule.times - 1)
                    else:
                        del self._rules[index]
                    return rule if rule.kind is not None else None
        return None
