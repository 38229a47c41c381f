"""How the Stripe SDK reaches the network: one httpx pool, one throttle, our own answer to 429.

Decides timeouts, pool size, request rate and retries of 429, which the SDK leaves to its caller.
Everything else that is worth a retry (connection errors, 409, 5xx) stays with the SDK, which keeps
the idempotency key over its attempts.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import stripe

CONNECT_TIMEOUT_MS = 5_000
READ_TIMEOUT_MS = 30_000
CONNECTIONS_MAX = 16
#: Below the 25 a second that Stripe grants one endpoint, and a sandbox altogether: live payments of
#: the same account need the rest.
REQUESTS_PER_SECOND = 20
TOO_MANY_REQUESTS = 429
RATE_LIMIT_RETRIES_MAX = 5
RATE_LIMIT_WAIT_MS = 500
RATE_LIMIT_WAIT_MAX_MS = 8_000


def monotonic_us() -> int:
    """Microseconds of a clock that never goes back."""
    return time.monotonic_ns() // 1_000


def sleep_us(duration_us: int) -> None:
    """Block this thread."""
    seconds = duration_us / 1_000_000  # float: time.sleep takes seconds
    time.sleep(seconds)


class TokenBucket:
    """Rate limit of one Stripe account, shared by the threads of this process.

    Callers are let through at most `per_second` a second after a burst of `burst`, in the order in
    which they asked: the slot is booked under the lock, the wait for it is outside.
    """

    def __init__(
        self,
        *,
        per_second: int,
        burst: int,
        clock_us: Callable[[], int] = monotonic_us,
        sleep_us: Callable[[int], None] = sleep_us,
    ) -> None:
        if per_second < 1 or burst < 1:
            raise ValueError("a bucket needs a rate and a burst of at least one")
        self._interval_us = -(-1_000_000 // per_second)  # rounded up: never above the rate
        self._tolerance_us = (burst - 1) * self._interval_us
        self._clock_us = clock_us
        self._sleep_us = sleep_us
        self._next_slot_us = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Wait for the next slot."""
        with self._lock:
            now_us = self._clock_us()
            slot_us = max(self._next_slot_us, now_us)
            self._next_slot_us = slot_us + self._interval_us
        wait_us = slot_us - self._tolerance_us - now_us
        if wait_us > 0:
            self._sleep_us(wait_us)


class ThrottledHttpClient(stripe.HTTPClient):
    """The SDK's seam for a transport of one's own, synchronous calls only.

    A 429 waits and tries again, at most RATE_LIMIT_RETRIES_MAX times, with waits that double and
    are jittered, since clients that were refused together must not come back together. Stripe's
    `stripe-should-retry: false` is obeyed; `true` is taken away from the answer that is handed on,
    or the SDK would multiply the attempts.
    """

    name = "httpx"

    def __init__(
        self,
        *,
        throttle: TokenBucket,
        connect_timeout_ms: int = CONNECT_TIMEOUT_MS,
        read_timeout_ms: int = READ_TIMEOUT_MS,
        sleep_us: Callable[[int], None] = sleep_us,
        jitter: Callable[[int], int] = random.randrange,
    ) -> None:
        # The SDK leaves one of its own parameters without a type.
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        connect_s = connect_timeout_ms / 1_000  # float: httpx takes seconds
        read_s = read_timeout_ms / 1_000  # float: httpx takes seconds
        self._throttle = throttle
        self._sleep_us = sleep_us
        self._jitter = jitter
        self._httpx = httpx.Client(
            timeout=httpx.Timeout(read_s, connect=connect_s),
            limits=httpx.Limits(
                max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
            ),
            follow_redirects=False,
        )

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        """One call of the SDK: (body, status, headers).

        Raises stripe.APIConnectionError if no complete answer came; the request may have taken
        effect all the same.
        """
        response = self._send(method, url, headers, post_data)
        for tried in range(RATE_LIMIT_RETRIES_MAX):
            advice = response.headers.get("stripe-should-retry")
            if response.status_code != TOO_MANY_REQUESTS or advice == "false":
                break
            wait_ms = min(RATE_LIMIT_WAIT_MS << tried, RATE_LIMIT_WAIT_MAX_MS)
            self._sleep_us((wait_ms + self._jitter(wait_ms)) * 1_000)
            response = self._send(method, url, headers, post_data)
        if response.status_code == TOO_MANY_REQUESTS:
            response.headers.pop("stripe-should-retry", None)
        return response.text, response.status_code, response.headers

    def close(self) -> None:
        """Close the pool; the client is of no use afterwards."""
        self._httpx.close()

    def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any
    ) -> httpx.Response:
        self._throttle.take()
        try:
            return self._httpx.request(method, url, headers=headers, content=post_data)
        except httpx.TransportError as error:
            kind = type(error).__name__
            raise stripe.APIConnectionError(
                f"no complete answer from Stripe ({kind})", should_retry=True
            ) from error
