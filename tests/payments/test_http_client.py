"""Our transport under the SDK: rate, 429, lost connections."""

from __future__ import annotations

import socket

import pytest
import stripe

from billing.payments import ThrottledHttpClient, TokenBucket, make_client
from billing.payments.http_client import RATE_LIMIT_RETRIES_MAX
from tests.fake_stripe import FakeStripe, Fault, FaultKind


class ManualClock:
    """Time that passes only where the bucket sleeps."""

    def __init__(self) -> None:
        self.now_us = 1_000_000

    def read(self) -> int:
        return self.now_us

    def sleep(self, duration_us: int) -> None:
        assert duration_us > 0
        self.now_us += duration_us


def test_the_bucket_lets_a_burst_through_and_then_keeps_the_rate() -> None:
    clock = ManualClock()
    bucket = TokenBucket(per_second=20, burst=5, clock_us=clock.read, sleep_us=clock.sleep)
    taken: list[int] = []
    for _ in range(25):
        bucket.take()
        taken.append(clock.now_us)
    assert taken[:5] == [1_000_000] * 5
    assert taken[5:] == [1_000_000 + 50_000 * n for n in range(1, 21)]


def test_the_bucket_fills_again_while_nobody_asks_but_not_beyond_its_burst() -> None:
    clock = ManualClock()
    bucket = TokenBucket(per_second=10, burst=3, clock_us=clock.read, sleep_us=clock.sleep)
    for _ in range(3):
        bucket.take()
    clock.now_us += 60_000_000
    start = clock.now_us
    for _ in range(4):
        bucket.take()
    assert clock.now_us == start + 100_000


def test_no_window_of_a_second_exceeds_rate_and_burst() -> None:
    clock = ManualClock()
    bucket = TokenBucket(per_second=7, burst=2, clock_us=clock.read, sleep_us=clock.sleep)
    taken: list[int] = []
    for index in range(60):
        if index % 9 == 0:
            clock.now_us += 333_333
        bucket.take()
        taken.append(clock.now_us)
    for start in taken:
        assert sum(start <= at < start + 1_000_000 for at in taken) <= 7 + 2


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (1, 0)])
def test_a_bucket_without_rate_or_burst_is_refused(per_second: int, burst: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        TokenBucket(per_second=per_second, burst=burst)


def test_429_is_retried_with_growing_waits_and_one_key(
    fake: FakeStripe, client: stripe.StripeClient, waits_us: list[int]
) -> None:
    fake.faults.add(Fault(kind=FaultKind.RATE_LIMITED, times=RATE_LIMIT_RETRIES_MAX))
    client.v1.customers.create({"name": "Acme"})
    assert waits_us == [500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000]
    assert len({request.idempotency_key for request in fake.requests}) == 1
    assert len(fake.requests) == RATE_LIMIT_RETRIES_MAX + 1


@pytest.mark.parametrize("kind", [FaultKind.RATE_LIMITED, FaultKind.RATE_LIMITED_RETRY])
def test_429_ends_after_a_bounded_number_of_tries_whatever_stripe_advises(
    fake: FakeStripe, client: stripe.StripeClient, kind: FaultKind
) -> None:
    fake.faults.add(Fault(kind=kind, times=100))
    with pytest.raises(stripe.RateLimitError):
        client.v1.customers.create({"name": "Acme"})
    assert len(fake.requests) == RATE_LIMIT_RETRIES_MAX + 1


def test_429_that_stripe_calls_final_is_not_retried(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    fake.faults.add(Fault(kind=FaultKind.RATE_LIMITED_FINAL))
    with pytest.raises(stripe.RateLimitError):
        client.v1.customers.create({"name": "Acme"})
    assert len(fake.requests) == 1


def test_jitter_widens_the_wait(fake: FakeStripe) -> None:
    waits: list[int] = []
    throttle = TokenBucket(per_second=1_000, burst=1_000)
    transport = ThrottledHttpClient(
        throttle=throttle, sleep_us=waits.append, jitter=lambda width: width - 1
    )
    fake.faults.add(Fault(kind=FaultKind.RATE_LIMITED))
    make_client(fake.api_key, fake.url, http_client=transport).v1.customers.list()
    transport.close()
    assert waits == [999_000]


@pytest.mark.parametrize(
    ("kind", "requests"),
    [
        (FaultKind.LOCKED, 2),
        (FaultKind.ERROR_BEFORE, 2),
        (FaultKind.DROP_BEFORE, 2),
        (FaultKind.DROP_AFTER, 2),
    ],
)
def test_the_sdk_retries_the_rest_and_the_effect_is_one(
    fake: FakeStripe, client: stripe.StripeClient, kind: FaultKind, requests: int
) -> None:
    fake.faults.add(Fault(kind=kind))
    customer = client.v1.customers.create({"name": "Acme"})
    assert [c["id"] for c in fake.customers()] == [customer.id]
    assert len(fake.requests) == requests


@pytest.mark.parametrize(
    ("kind", "effects"), [(FaultKind.ERROR_STORED, 0), (FaultKind.ERROR_AFTER, 1)]
)
def test_a_stored_500_is_replayed_to_every_retry(
    fake: FakeStripe, client: stripe.StripeClient, kind: FaultKind, effects: int
) -> None:
    fake.faults.add(Fault(kind=kind))
    with pytest.raises(stripe.APIError) as caught:
        client.v1.customers.create({"name": "Acme"})
    assert caught.value.headers is not None
    assert caught.value.headers["idempotent-replayed"] == "true"
    assert [request.replayed for request in fake.requests] == [False, True, True]
    assert len(fake.customers()) == effects


def test_a_refused_connection_is_an_sdk_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    transport = ThrottledHttpClient(throttle=TokenBucket(per_second=1_000, burst=1_000))
    lonely = make_client("sk_test_x", f"http://127.0.0.1:{port}", http_client=transport)
    with pytest.raises(stripe.APIConnectionError, match="ConnectError"):
        lonely.v1.customers.list()
    transport.close()
