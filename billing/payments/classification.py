"""What one of Stripe's errors means for us.

Decides between StripeUnavailable (retry; the request may have taken effect), and StripeRefused (a
person must look), and when an idempotency key is spent. When to retry, and how often, is for the
caller.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import stripe

from billing.errors import PaymentError, StripeRefused, StripeUnavailable

#: Refusals that pass by themselves: another request holds the object or the key.
_PASSING_CODES = frozenset({"lock_timeout", "idempotency_key_in_use", "rate_limit"})


@contextmanager
def stripe_errors() -> Generator[None]:
    """Turn the SDK's errors inside the block into ours; the SDK's error stays as the cause."""
    try:
        yield
    except stripe.StripeError as error:
        raise translate(error) from error


def translate(error: stripe.StripeError) -> StripeUnavailable | StripeRefused:
    """Our error for one of the SDK's.

    Stripe's own sentence is left out: it can repeat values of the request.
    """
    where = f"request {error.request_id}" if error.request_id else "no request id"
    match error:
        case stripe.APIConnectionError():
            return StripeUnavailable("Stripe could not be reached, or its answer was lost")
        case stripe.RateLimitError():
            return StripeUnavailable(f"Stripe's rate limit is reached ({where})")
        case stripe.IdempotencyError():
            return StripeUnavailable(
                f"the idempotency key was used with other parameters ({where})",
                remedy="look the object up, then retry with the next epoch",
            )
        case stripe.APIError():
            return StripeUnavailable(f"Stripe answered {error.http_status} ({where})")
        case stripe.InvalidRequestError() if _code(error) in _PASSING_CODES:
            return StripeUnavailable(f"Stripe is busy with this object ({where})")
        case stripe.AuthenticationError() | stripe.PermissionError():
            return StripeRefused(
                f"Stripe does not accept the key ({where})",
                field="stripe_api_key",
                remedy="check the key and its rights",
            )
        case _:
            # The SDK gives `param` no type.
            param: str | None = getattr(error, "param", None)
            code = _code(error) or "no code"
            return StripeRefused(
                f"Stripe refused the request: {code} ({where})",
                field=param,
                remedy="look the request up in Stripe's log",
            )


def next_epoch(error: PaymentError, epoch: int) -> int:
    """Epoch of the idempotency keys for the attempt after this error.

    Stripe keeps the first answer of a key for a day, a 500 included. The key is spent once that
    answer is final: it was replayed to us, or it is a refusal of Stripe's own. In every other case
    the request may still be running, and only the same key keeps it from taking effect twice.
    """
    cause = error.__cause__
    if not isinstance(cause, stripe.StripeError) or _code(cause) in _PASSING_CODES:
        return epoch
    refused = isinstance(error, StripeRefused) or isinstance(cause, stripe.IdempotencyError)
    replayed = (cause.headers or {}).get("idempotent-replayed") == "true"
    return epoch + 1 if refused or replayed else epoch


def _code(error: stripe.StripeError) -> str | None:
    """Code in the body: the SDK fills `error.code` for some of its classes only."""
    return error.code or (error.error.code if error.error is not None else None)
