"""Idempotency keys as Stripe's v1 keeps them.

The first answer under a key is kept once execution has begun, errors included, for 24 hours.
Other parameters under the same key are refused; the same key while the first request still runs is
a conflict. Neither of these two answers is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.fake_stripe.failures import key_in_use, key_reused, malformed
from tests.fake_stripe.world import Clock

KEPT_S = 24 * 3600
KEY_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A finished answer under a key."""

    fingerprint: str
    status: int
    body: bytes
    request_id: str
    kept_at: int


class IdempotencyKeys:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, Kept] = {}
        self._running: dict[str, str] = {}

    def begin(self, key: str, fingerprint: str) -> Kept | None:
        """The answer to replay, or None: the caller runs the request and calls finish."""
        if len(key) > KEY_LENGTH_MAX:
            raise malformed("Idempotency keys can be up to 255 characters.")
        kept = self._kept.get(key)
        if kept is not None and kept.kept_at + KEPT_S <= self._clock.now():
            del self._kept[key]
            kept = None
        if kept is not None and kept.fingerprint != fingerprint:
            raise key_reused()
        if key in self._running:
            raise key_in_use()
        if kept is None:
            self._running[key] = fingerprint
        return kept

    def finish(self, key: str, *, answer: tuple[int, bytes, str] | None) -> None:
        """End of the run; `answer` is (status, body, request id), or None if it is not kept."""
        fingerprint = self._running.pop(key)
        if answer is not None:
            status, body, request_id = answer
            self._kept[key] = Kept(
                fingerprint=fingerprint,
                status=status,
                body=body,
                request_id=request_id,
                kept_at=self._clock.now(),
            )
