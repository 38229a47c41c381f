"""What a Stripe client is here: pinned, quiet, and careful with its key."""

from __future__ import annotations

import pytest
import stripe

from billing.errors import ConfigurationError
from billing.payments import API_VERSION, make_client, open_client
from tests.fake_stripe import FakeStripe


def test_the_pinned_version_is_the_one_that_the_sdk_was_made_for() -> None:
    """An upgrade of the SDK moves both, on purpose, or neither."""
    assert stripe.api_version == API_VERSION


def test_the_pinned_version_is_what_stripe_sees(fake: FakeStripe) -> None:
    with open_client(fake.api_key, fake.url) as client:
        client.v1.customers.create({"name": "Acme"})
    assert fake.events()[0]["api_version"] == API_VERSION


def test_no_telemetry_leaves(fake: FakeStripe) -> None:
    with open_client(fake.api_key, fake.url):
        assert stripe.enable_telemetry is False


@pytest.mark.parametrize("key", ["", "pk_test_public", "hello"])
def test_a_key_that_is_no_secret_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_client(key)
    assert caught.value.field == "stripe_api_key"
    assert key == "" or key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://api.stripe.example", "ftp://127.0.0.1", "api.stripe.com", "https://"]
)
def test_the_key_never_travels_in_clear(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_client("sk_test_x", url)
    assert caught.value.field == "stripe_base_url"


def test_open_client_closes_its_pool(fake: FakeStripe) -> None:
    with open_client(fake.api_key, fake.url) as client:
        client.v1.customers.list()
    with pytest.raises(RuntimeError, match="closed"):
        client.v1.customers.list()
