"""When a crowd of requests has gone, and what it freed can be given back.

Decides: what was a crowd and when it is over, by the requests in flight that are looked at now and
then. Nothing is asked of a request. Does not decide how memory is given back.
"""

from __future__ import annotations

from typing import Final

CROWD: Final = 256
"""Requests at once; what fewer leave behind is used again by the next ones."""

SHARE_LEFT: Final = 8
REST_MS: Final = 30_000
BUSY_REST_MS: Final = 300_000
"""Whoever allocates meanwhile waits: 8 ms where 80 MiB are looked through, 15 where 120 are. So
while anybody is in flight it is done ten times more seldom."""


class Crowds:
    """The highest number of requests in flight since memory was last given back."""

    def __init__(self) -> None:
        self._most = 0
        self._gave_back_ms = -BUSY_REST_MS

    def gone(self, in_flight: int, now_ms: int) -> bool:
        """Note how many are in flight; whether there was a crowd and hardly anybody is left.

        Args:
            now_ms: of a monotonic clock.
        """
        self._most = max(self._most, in_flight)
        over = self._most >= CROWD and in_flight * SHARE_LEFT <= self._most
        rest_ms = BUSY_REST_MS if in_flight else REST_MS
        if not over or now_ms - self._gave_back_ms < rest_ms:
            return False
        self._most, self._gave_back_ms = in_flight, now_ms
        return True
