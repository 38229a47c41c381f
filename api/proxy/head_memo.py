"""The last head of a client's connection, for the next request that says the same.

Decides: which heads are worth remembering, those that mean nothing but what they say; clients keep
their connections and send the same twelve headers with every request. Does not decide which bytes
say it again (`said_head.py`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from api.proxy.client_request import ClientRequest
from api.proxy.headers import Fields, Headers
from api.proxy.said_head import LENGTH, SaidHead, said_head

_MEAN_MORE: Final = frozenset(
    {b"expect", b"http2-settings", b"trailer", b"transfer-encoding", b"upgrade"}
)


class Recalled(NamedTuple):
    """A request that was said before, with a body of its own."""

    headers: Headers
    fields: Fields
    body: bytes


class HeadMemo:
    """One head, without the body that it came with. Make it with `memo_of`.

    Attributes:
        facts: what was made out of it.
    """

    __slots__ = ("_fields", "_said", "facts", "method", "path", "query")

    def __init__(self, request: ClientRequest, said: SaidHead) -> None:
        self.method, self.path, self.query = request.method, request.path, request.query
        self.facts = request.facts
        self._fields, self._said = request.fields, said

    def recall(self, content: bytes) -> Recalled | None:
        """The request that these bytes are, if its head was said before and it is complete."""
        found = self._said.body_of(content)
        if found is None:
            return None
        digits, body = found
        fields = self._fields
        if digits != fields[LENGTH]:
            fields = {**fields, LENGTH: digits}
        return Recalled(self._said.headers(digits), fields, body)


def memo_of(content: bytes, request: ClientRequest) -> HeadMemo | None:
    """Remember the head of a request that the parser took.

    Args:
        content: the request and nothing else, from its first byte to its last.

    Returns:
        None where more than its bytes decides what it means, or its length is not plainly said.
    """
    fields = request.fields
    if (
        not request.keeps_alive
        or len(fields) != len(request.headers)
        or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        or not fields.keys().isdisjoint(_MEAN_MORE)
    ):
        return None
    said = said_head(content, request.headers, fields.get(LENGTH, b""))
    return None if said is None else HeadMemo(request, said)
