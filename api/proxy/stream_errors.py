"""The event that ends a stream which may not go on, in the words of its route.

Decides: its shape. A connection that just closes looks like a fault of the network, and clients
would ask again for what their limit has no room for.
"""

from __future__ import annotations

import re

import msgspec

from api.proxy.anthropic_errors import rendered_as
from api.proxy.limit_errors import HoldsUnavailable, LimitReached, refusal_body, responses_event
from billing.admission.route import Dialect, Route

_NUMBER = re.compile(rb'"sequence_number": ?(\d{1,15})\b')


class _Unavailable(msgspec.Struct):
    code: str
    message: str
    param: str | None
    sequence_number: int
    type: str = "error"


def error_event(
    refusal: LimitReached | HoldsUnavailable, route: Route, shown_id: bytes, *, instead: bytes
) -> bytes:
    """The last event of a stream.

    Args:
        shown_id: id of the request as clients see it.
        instead: the bytes in whose place it stands; their first event gives it its number.
    """
    spec = route.spec
    if spec.dialect is Dialect.RESPONSES:
        found = _NUMBER.search(instead)
        number = 0 if found is None else int(found[1])
        if isinstance(refusal, LimitReached):
            content = responses_event(refusal, number=number)
        else:
            event = _Unavailable(refusal.code, refusal.message, None, number)
            content = msgspec.json.encode(event)
    elif isinstance(refusal, LimitReached):
        content = refusal_body(refusal, spec.errors, shown_id)
    else:
        _, content = rendered_as(spec.errors, refusal, shown_id)
    name = b"" if spec.dialect is Dialect.CHUNKS else b"event: error\n"
    return b"%bdata: %b\n\n" % (name, content)
