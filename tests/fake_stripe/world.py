"""What one Stripe account holds, and the clock it lives by.

Decides ids, times, events and metadata rules. What a request does to the objects is decided in
`customers.py`, `invoices.py`; nothing here knows HTTP.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.fake_stripe.failures import invalid

Object: TypeAlias = dict[str, Any]
Params: TypeAlias = dict[str, Any]

METADATA_KEYS_MAX = 50
METADATA_KEY_LENGTH_MAX = 40
METADATA_TEXT_LENGTH_MAX = 500

#: Smallest amount that Stripe collects, in minor units, by currency.
MINIMUM_CHARGE = {"usd": 50, "eur": 50, "gbp": 30, "chf": 50, "jpy": 50}
#: Currencies of this account; others are refused.
CURRENCIES = frozenset(
    {
        "aud",
        "cad",
        "chf",
        "czk",
        "dkk",
        "eur",
        "gbp",
        "hkd",
        "jpy",
        "nok",
        "nzd",
        "pln",
        "sek",
        "sgd",
        "usd",
    }
)


class Clock:
    """Real seconds plus what a test added, so that a day can pass at once."""

    def __init__(self) -> None:
        self._ahead_s = 0

    def now(self) -> int:
        return time.time_ns() // 1_000_000_000 + self._ahead_s

    def advance(self, seconds: int) -> None:
        self._ahead_s += seconds


@dataclass(slots=True, kw_only=True)
class World:
    """All objects of the account by id, oldest first (dicts keep insertion order)."""

    clock: Clock = field(default_factory=Clock)
    api_version: str | None = None
    customers: dict[str, Object] = field(default_factory=dict[str, Object])
    invoices: dict[str, Object] = field(default_factory=dict[str, Object])
    lines: dict[str, list[Object]] = field(default_factory=dict[str, list[Object]])
    events: dict[str, Object] = field(default_factory=dict[str, Object])
    listeners: list[Callable[[Object], None]] = field(
        default_factory=list[Callable[[Object], None]]
    )
    _serial: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def new_id(self, prefix: str) -> str:
        """Unique and ordered; opaque to callers, as Stripe's are."""
        return f"{prefix}_1Fake{next(self._serial):016d}"

    def emit(self, kind: str, subject: Object) -> None:
        """Record an event with the subject as it is now, and tell the webhook endpoints."""
        event: Object = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": self.api_version,
            "created": self.clock.now(),
            "data": {"object": copy.deepcopy(subject)},
            "livemode": False,
            "pending_webhooks": len(self.listeners),
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
        }
        self.events[event["id"]] = event
        for tell in self.listeners:
            tell(event)


def merge_metadata(current: dict[str, str], change: dict[str, str] | str | None) -> dict[str, str]:
    """Stripe's metadata rules: given keys are set, "" removes one key, or all of them."""
    if change is None:
        return current
    if isinstance(change, str):
        return {}
    merged = {key: text for key, text in {**current, **change}.items() if text != ""}
    if len(merged) > METADATA_KEYS_MAX:
        raise invalid("Metadata can have up to 50 keys.", param="metadata")
    for key, text in merged.items():
        if len(key) > METADATA_KEY_LENGTH_MAX:
            raise invalid("Metadata keys can be up to 40 characters.", param="metadata")
        if len(text) > METADATA_TEXT_LENGTH_MAX:
            raise invalid("Metadata values can be up to 500 characters.", param=f"metadata[{key}]")
    return merged
