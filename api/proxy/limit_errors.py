"""Refusals by limits, as clients of OpenAI and Anthropic understand them.

Decides: which status a limit's end has (402 where paying or a new budget helps, 429 where waiting
does), and what the answer says of the limit. Amounts are strings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from api.proxy.headers import Headers
from api.proxy.openai_errors import Unavailable
from billing.admission.amounts import PICO
from billing.admission.limit import Limit, Unit, Window
from billing.admission.route import ErrorShape
from billing.errors import SteelyardError
from billing.metering.event_id import from_microseconds

_SECOND_US = 1_000_000
_CREDIT = "credit"


class HoldsUnavailable(Unavailable):
    """Limits cannot be asked now, and what this process has leased is spent."""

    code = "limits_unavailable"


class LimitsCrowded(HoldsUnavailable):
    """Limits can be asked, but too many ask: no reason to admit anybody without."""


class LimitReached(SteelyardError):
    """Of a limit is not left what a request needs.

    Attributes:
        used: of the window, by all processes, what running requests hold included.
        capacity: of the window; of credit, all that was there.
        resets_us: end of the window in µs since 1970 UTC; None: it does not begin again.
        wait_us: until then; None where waiting does not help.

    What needs more than a limit ever has is told so: whoever waited would wait for ever.
    """

    code = "limit_reached"

    def __init__(
        self,
        limit: Limit,
        *,
        used: int,
        capacity: int,
        resets_us: int | None,
        now_us: int,
        needed: int = 0,
    ) -> None:
        """
        Args:
            needed: what the request can come to.
        """
        fits = capacity <= 0 or needed <= capacity  # where nothing is, less does not help
        ever = fits and capacity > 0
        super().__init__(
            f"The limit `{limit.name}` is reached."
            if fits
            else f"The request can come to more than the whole limit `{limit.name}`.",
            remedy=_remedy(limit, fits=fits, ever=ever),
        )
        self.limit = limit
        self.used = used
        self.capacity = capacity
        self.resets_us = resets_us
        if not ever:
            self.wait_us: int | None = None
        elif resets_us is not None:
            self.wait_us = max(0, resets_us - now_us)
        else:
            self.wait_us = _SECOND_US if limit.unit is Unit.SLOTS else None

    @property
    def is_quota(self) -> bool:
        """Whether it is a budget, which more money or another budget mends, and not a rate."""
        unit, window = self.limit.unit, self.limit.window
        return unit is Unit.MONEY or (unit is Unit.TOKENS and window is not Window.MINUTE)


def _remedy(limit: Limit, *, fits: bool, ever: bool) -> str:
    """What helps: only a limit with a window is whole again after a time."""
    if limit.name == _CREDIT:
        return "Add credit." if fits else "Ask for less, such as fewer `max_tokens`, or add credit."
    if not fits:
        return "Ask for less, such as fewer `max_tokens`, or ask the operator to raise it."
    if not ever:
        return "Nothing is allowed by it: ask the operator to raise it."
    if limit.window is not Window.NONE:
        return "Retry after it resets, or ask the operator to raise it."
    if limit.unit is Unit.SLOTS:
        return "Retry when a running request has ended, or ask the operator to raise it."
    return "It does not reset: ask the operator to raise it."


def credit_limit(limit_id: int, currency: str) -> Limit:
    """A tenant's credit, as the limit that prepaid requests are under."""
    return Limit(
        id=limit_id,
        name=_CREDIT,
        unit=Unit.MONEY,
        window=Window.NONE,
        hard=True,
        shadow=False,
        capacity=0,
        currency=currency,
    )


class Standing(NamedTuple):
    """How a limit stands, as far as this process knows: what is left, and when it begins again, as
    µs from now and as µs since 1970 UTC."""

    limit: Limit
    left: int
    wait_us: int | None
    resets_us: int | None


class _LimitShown(msgspec.Struct):
    name: str
    unit: str
    window: str
    currency: str | None
    limit: str
    used: str
    resets_at: str | None


class _OpenAIError(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str
    limit: _LimitShown


class _AnthropicError(msgspec.Struct):
    type: str
    message: str
    limit: _LimitShown


class _OpenAIBody(msgspec.Struct):
    error: _OpenAIError


class _AnthropicBody(msgspec.Struct):
    error: _AnthropicError
    request_id: str
    type: str = "error"


class _ResponsesEvent(msgspec.Struct):
    code: str
    message: str
    param: str | None
    sequence_number: int
    limit: _LimitShown
    type: str = "error"


def limit_refusal(
    error: LimitReached, shape: ErrorShape, shown_id: bytes
) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal.

    Args:
        shown_id: id of the request as clients see it.
    """
    headers: Headers = [(b"content-type", b"application/json")]
    if error.wait_us is not None:
        seconds = max(1, -(-error.wait_us // _SECOND_US))
        headers.append((b"retry-after", b"%d" % seconds))
    left = error.capacity - error.used
    standing = Standing(error.limit, left, error.wait_us, error.resets_us)
    headers += limit_headers([standing], shape)
    return (402 if error.is_quota else 429), headers, refusal_body(error, shape, shown_id)


def refusal_body(error: LimitReached, shape: ErrorShape, shown_id: bytes) -> bytes:
    """What clients of a route read of a refusal, as JSON."""
    message = _message(error)
    if shape is ErrorShape.ANTHROPIC:
        kind = "billing_error" if error.is_quota else "rate_limit_error"
        anthropic = _AnthropicError(kind, message, _shown(error))
        return msgspec.json.encode(_AnthropicBody(anthropic, shown_id.decode()))
    kind = code = _code(error)
    if not error.is_quota:
        kind = "tokens" if error.limit.unit is Unit.TOKENS else "requests"
    return msgspec.json.encode(_OpenAIBody(_OpenAIError(message, kind, None, code, _shown(error))))


def responses_event(error: LimitReached, *, number: int) -> bytes:
    """The refusal as the `error` event of a stream of the Responses API, as JSON.

    Args:
        number: of the event in its stream.
    """
    event = _ResponsesEvent(_code(error), _message(error), None, number, _shown(error))
    return msgspec.json.encode(event)


def limit_headers(standings: Iterable[Standing], shape: ErrorShape) -> Headers:
    """What an answer says of limits on requests and tokens per minute; of others, nothing.

    Several limits of a unit can apply, of the tenant and of its key: clients read one figure, and
    are told the one that they reach first. Clients of Anthropic read its names of the same
    figures, beside the others, with an instant in place of a number of seconds.
    """
    shown, tightest = Headers(), dict[Unit, Standing]()
    for standing in standings:
        limit = standing.limit
        if limit.unit not in (Unit.REQUESTS, Unit.TOKENS) or limit.window is not Window.MINUTE:
            continue
        name = limit.name.encode()
        shown += [
            (b"ratelimit-policy", b'"%b";q=%d;w=60' % (name, limit.capacity)),
            (b"ratelimit", b'"%b";r=%d;t=%d' % (name, max(0, standing.left), _seconds(standing))),
        ]
        other = tightest.get(limit.unit)
        if other is None or standing.left < other.left:
            tightest[limit.unit] = standing
    for unit, standing in tightest.items():
        kind = unit.value.encode()
        shown += [
            (b"x-ratelimit-limit-" + kind, b"%d" % standing.limit.capacity),
            (b"x-ratelimit-remaining-" + kind, b"%d" % max(0, standing.left)),
            (b"x-ratelimit-reset-" + kind, b"%ds" % _seconds(standing)),
        ]
        if shape is ErrorShape.ANTHROPIC:
            named = b"anthropic-ratelimit-" + kind
            shown += [
                (named + b"-limit", b"%d" % standing.limit.capacity),
                (named + b"-remaining", b"%d" % max(0, standing.left)),
            ]
            if standing.resets_us is not None:
                shown.append((named + b"-reset", _instant(standing.resets_us).encode()))
    return shown


def told_kind(limit: Limit) -> str:
    """How a limit is told that was reached and refused nothing: soft ones never refuse, the others
    are on trial, by themselves or by their tenant's policy."""
    return "shadow" if limit.shadow or limit.hard else "soft"


def _seconds(standing: Standing) -> int:
    return 0 if standing.wait_us is None else -(-standing.wait_us // _SECOND_US)


def _instant(at_us: int) -> str:
    """RFC 3339."""
    return f"{from_microseconds(at_us):%Y-%m-%dT%H:%M:%SZ}"


def _code(error: LimitReached) -> str:
    return "insufficient_quota" if error.is_quota else "rate_limit_exceeded"


def _message(error: LimitReached) -> str:
    return f"{error.message} {error.remedy}"


def _shown(error: LimitReached) -> _LimitShown:
    limit = error.limit
    resets = error.resets_us
    return _LimitShown(
        name=limit.name,
        unit=limit.unit.value,
        window=limit.window.value,
        currency=limit.currency or None,
        limit=_amount(error.capacity, limit.unit),
        used=_amount(error.used, limit.unit),
        resets_at=None if resets is None else _instant(resets),
    )


def _amount(amount: int, unit: Unit) -> str:
    if unit is not Unit.MONEY:
        return str(amount)
    whole, rest = divmod(abs(amount), PICO)
    decimals = f"{rest:012d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{decimals}"
