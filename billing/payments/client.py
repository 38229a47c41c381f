"""The Stripe SDK as this project uses it: pinned version, own transport, no telemetry.

Decides what a Stripe client is here. Keys come from the settings; where they are kept is not
decided here.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

import stripe

from billing.errors import ConfigurationError
from billing.payments.http_client import (
    READ_TIMEOUT_MS,
    REQUESTS_PER_SECOND,
    ThrottledHttpClient,
    TokenBucket,
)

#: A webhook endpoint has a version of its own: create it with this one.
API_VERSION = "2026-10-28.endive"
NETWORK_RETRIES_MAX = 2

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_KEY_PREFIXES = ("sk_", "rk_")


def make_client(
    api_key: str,
    base_url: str | None = None,
    *,
    http_client: ThrottledHttpClient | None = None,
    max_network_retries: int = NETWORK_RETRIES_MAX,
) -> stripe.StripeClient:
    """Client of one Stripe account.

    Args:
        api_key: secret or restricted key.
        base_url: another address than Stripe's; plain http only on this machine, since the key
            travels in every request.
        http_client: transport to share; by default one of its own, open for the life of the
            process.
        max_network_retries: the SDK's retries of connection errors, 409 and 5xx.

    Raises ConfigurationError for a key or an address that cannot be right.
    """
    if not api_key.startswith(_KEY_PREFIXES):
        raise ConfigurationError(
            "this is not a secret key of Stripe",
            field="stripe_api_key",
            remedy="use a key that starts with sk_ or rk_",
        )
    if base_url is not None:
        _check_address(base_url)
    # The SDK would measure our requests and write an id of this machine into the home folder.
    stripe.enable_telemetry = False
    return stripe.StripeClient(
        api_key,
        stripe_version=API_VERSION,
        base_addresses={"api": base_url} if base_url is not None else None,
        max_network_retries=max_network_retries,
        http_client=http_client or _transport(REQUESTS_PER_SECOND, READ_TIMEOUT_MS),
    )


@contextmanager
def open_client(
    api_key: str,
    base_url: str | None = None,
    *,
    requests_per_second: int = REQUESTS_PER_SECOND,
    read_timeout_ms: int = READ_TIMEOUT_MS,
    max_network_retries: int = NETWORK_RETRIES_MAX,
) -> Generator[stripe.StripeClient]:
    """As make_client, with a transport of its own that is closed at the end."""
    transport = _transport(requests_per_second, read_timeout_ms)
    try:
        yield make_client(
            api_key,
            base_url,
            http_client=transport,
            max_network_retries=max_network_retries,
        )
    finally:
        transport.close()


def _transport(requests_per_second: int, read_timeout_ms: int) -> ThrottledHttpClient:
    throttle = TokenBucket(per_second=requests_per_second, burst=requests_per_second)
    return ThrottledHttpClient(throttle=throttle, read_timeout_ms=read_timeout_ms)


def _check_address(base_url: str) -> None:
    address = urlsplit(base_url)
    if address.scheme == "https" and address.hostname:
        return
    if address.scheme == "http" and address.hostname in _LOOPBACK:
        return
    raise ConfigurationError(
        "Stripe must be reached over https",
        field="stripe_base_url",
        remedy="use https, or http on the loopback interface",
    )
