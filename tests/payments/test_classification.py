"""Which of Stripe's answers is worth a retry, and which spends its key."""

from __future__ import annotations

import pytest
import stripe

from billing.errors import PaymentMismatch, StripeRefused, StripeUnavailable
from billing.payments import next_epoch
from billing.payments.classification import stripe_errors, translate

REPLAYED = {"idempotent-replayed": "true", "request-id": "req_1"}


def body(code: str) -> dict[str, object]:
    return {"error": {"type": "invalid_request_error", "code": code, "message": "secret value"}}


CASES: list[tuple[stripe.StripeError, type[Exception], int]] = [
    (stripe.APIConnectionError("x", should_retry=True), StripeUnavailable, 3),
    (stripe.RateLimitError("x", http_status=429), StripeUnavailable, 3),
    (stripe.APIError("x", http_status=500), StripeUnavailable, 3),
    (stripe.APIError("x", http_status=502), StripeUnavailable, 3),
    (stripe.APIError("x", http_status=500, headers=REPLAYED), StripeUnavailable, 4),
    (stripe.APIError("x", http_status=409, json_body=body("lock_timeout")), StripeUnavailable, 3),
    (
        stripe.APIError("x", http_status=409, json_body=body("idempotency_key_in_use")),
        StripeUnavailable,
        3,
    ),
    (stripe.IdempotencyError("x", http_status=400), StripeUnavailable, 4),
    (
        stripe.InvalidRequestError("x", None, code="lock_timeout", http_status=400),
        StripeUnavailable,
        3,
    ),
    (
        stripe.InvalidRequestError("x", "customer", code="resource_missing", http_status=404),
        StripeRefused,
        4,
    ),
    (stripe.CardError("x", None, "card_declined", http_status=402), StripeRefused, 4),
    (stripe.AuthenticationError("x", http_status=401), StripeRefused, 4),
    (stripe.PermissionError("x", http_status=403), StripeRefused, 4),
]


@pytest.mark.parametrize(("answer", "ours", "epoch"), CASES)
def test_each_answer_has_one_meaning_and_one_next_key(
    answer: stripe.StripeError, ours: type[Exception], epoch: int
) -> None:
    with pytest.raises(ours) as caught, stripe_errors():
        raise answer
    assert caught.value.__cause__ is answer
    assert isinstance(caught.value, StripeUnavailable | StripeRefused)
    assert next_epoch(caught.value, 3) == epoch


def test_an_error_of_our_own_keeps_the_key() -> None:
    assert next_epoch(PaymentMismatch("differs"), 3) == 3


def test_stripes_sentence_is_never_repeated() -> None:
    answer = stripe.InvalidRequestError(
        "Invalid email: secret value",
        "email",
        code="email_invalid",
        http_status=400,
        json_body=body("email_invalid"),
        headers={"request-id": "req_9"},
    )
    ours = translate(answer)
    assert "secret value" not in str(ours)
    assert "req_9" in str(ours)
    assert "email_invalid" in str(ours)
    assert ours.field == "email"
