"""Every error that Steelyard raises on purpose.

SteelyardError
├── InvalidInput              a value the caller sent cannot be used
│   ├── InvalidPlan           a plan, cost or outcome file; carries its line
│   └── AmountOutOfRange      a number outside what the ledger can keep exactly
├── ConfigurationError        the deployment cannot work as configured: refuse to start
│   └── EmbeddedServerError   the embedded PostgreSQL cannot be set up or reached
├── Unauthenticated           no key, or a key that is unknown, revoked or malformed
├── Forbidden                 a valid key without the right to do this
├── NotFound                  absent, or another tenant's (the two look the same)
├── Conflict                  true of the current state, not of the request alone
│   ├── IdempotencyConflict   same idempotency key, other body
│   ├── CursorMoved           a journal is shipped further than the page to be shipped begins
│   ├── UnratedUsage          usage that no charge prices blocks the invoice (R5)
│   └── OverlappingCharges    two charges would rate one quantity (D16)
├── UnpricedModel             the contract prices no such model or token class
├── LedgerError               a transaction that does not balance, or names unknown accounts
├── JournalError              the local durable journal cannot be written or read
├── UpstreamError             the inference backend
│   ├── UpstreamUnavailable   refused, reset, or broke before the first byte
│   └── UpstreamTimeout       did not answer within the deadline
├── PaymentError              the payment provider
│   ├── StripeUnavailable     worth retrying; the outcome may be unknown
│   ├── StripeRefused         Stripe says no, a retry will not help
│   ├── PaymentMismatch       the mirrored invoice differs from ours
│   └── BadSignature          a webhook that Stripe did not sign
└── TieOutFailed              two figures that must be equal are not

Refusals that only one edge knows are leaves of this tree beside the code that raises them:
`UnsupportedParameter` in `billing/engines/engine_request.py`, and those of the proxy's transport in
`api/proxy/openai_errors.py`.

Each error has a stable `code` for machines, an optional `field` that names the culprit and a
`remedy` that says what to do. Messages never repeat values of bodies, secrets or prompts.
Transport (HTTP status, exit codes) is decided at the edges, never here.
"""

from __future__ import annotations


class SteelyardError(Exception):
    """Base of every deliberate error.

    Attributes:
        code: stable machine-readable name, part of the API contract.
        message: one sentence, safe to show to the caller.
        field: dotted path of the offending input, if there is one.
        remedy: what the reader can do about it, if anything.
    """

    code = "error"

    def __init__(
        self, message: str, *, field: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        what_to_do = f" ({self.remedy})" if self.remedy else ""
        return f"{where}{self.message}{what_to_do}"


class InvalidInput(SteelyardError):
    code = "invalid_input"


class InvalidPlan(InvalidInput):
    """A file that describes a plan, costs or an outcome is refused.

    Attributes:
        line: 1-based line of the offending node in the file, if known.
    """

    code = "invalid_plan"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {super().__str__()}" if self.line else super().__str__()


class AmountOutOfRange(InvalidInput):
    code = "amount_out_of_range"


class ConfigurationError(SteelyardError):
    code = "configuration_error"


class EmbeddedServerError(ConfigurationError):
    code = "embedded_server_error"


class Unauthenticated(SteelyardError):
    code = "invalid_api_key"


class Forbidden(SteelyardError):
    code = "forbidden"


class NotFound(SteelyardError):
    code = "not_found"


class Conflict(SteelyardError):
    code = "conflict"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class CursorMoved(Conflict):
    code = "cursor_moved"


class UnratedUsage(Conflict):
    code = "unrated_usage"


class OverlappingCharges(Conflict):
    code = "overlapping_charges"


class UnpricedModel(SteelyardError):
    code = "unpriced_model"


class LedgerError(SteelyardError):
    code = "ledger_error"


class JournalError(SteelyardError):
    code = "journal_error"


class UpstreamError(SteelyardError):
    code = "upstream_error"


class UpstreamUnavailable(UpstreamError):
    code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"


class PaymentError(SteelyardError):
    code = "payment_error"


class StripeUnavailable(PaymentError):
    code = "stripe_unavailable"


class StripeRefused(PaymentError):
    code = "stripe_refused"


class PaymentMismatch(PaymentError):
    code = "payment_mismatch"


class BadSignature(PaymentError):
    code = "bad_signature"


class TieOutFailed(SteelyardError):
    code = "tie_out_failed"
