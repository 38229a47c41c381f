"""The real SDK against the stand-in, over real HTTP; only the waiting is taken out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stripe

from billing.payments import ThrottledHttpClient, TokenBucket, make_client
from tests.fake_stripe import FakeStripe


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK sleeps between its own retries, half a second and more."""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
    monkeypatch.setattr(stripe.HTTPClient, "MAX_DELAY", 0)


@pytest.fixture(scope="session")
def _running() -> Iterator[FakeStripe]:
    with FakeStripe() as running:
        yield running


@pytest.fixture
def fake(_running: FakeStripe) -> Iterator[FakeStripe]:
    """An empty account; a defect of the stand-in fails the test that met it."""
    yield _running
    _running.reset()


@pytest.fixture
def waits_us() -> list[int]:
    """Every wait that our transport asked for."""
    return []


@pytest.fixture
def client(fake: FakeStripe, waits_us: list[int]) -> Iterator[stripe.StripeClient]:
    throttle = TokenBucket(per_second=100_000, burst=100_000)
    transport = ThrottledHttpClient(
        throttle=throttle, sleep_us=waits_us.append, jitter=lambda _width: 0
    )
    yield make_client(fake.api_key, fake.url, http_client=transport)
    transport.close()
