"""W3C trace context: which trace a request belongs to, and what its backends are told.

Decides: what is a valid `traceparent` and `tracestate` (W3C Trace Context, level 2); that whatever
is malformed counts as absent and never fails a request; that a trace which is not recorded passes
as it came; and which ids the spans of a recorded one have. Does not decide which traces are
recorded (`recorder.py`).

An operation's id is 16 bytes, of which the last seven are random: it is the id of the trace that
begins with it, and its last eight bytes are the id of its first span. The spans of its attempts
count on from there.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from api.proxy.client_request import ClientRequest
from api.proxy.headers import Headers

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
SAMPLED: Final = 0x01
RANDOM: Final = 0x02
_KNOWN_FLAGS: Final = SAMPLED | RANDOM
_STATE_BYTES: Final = 8 << 10
_STATE_MEMBERS: Final = 32

_PARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_MEMBER = re.compile(
    rb"([a-z0-9][a-z0-9_*/@-]{0,255})=[ -+\--<>-~]{0,255}[!-+\--<>-~]",
)
_SPAN_IDS: Final = 1 << 64


class TraceContext(NamedTuple):
    """What a client says of its trace.

    Attributes:
        trace_id, parent_id: 32 and 16 hexadecimal digits.
        headers: as they came; `tracestate` is missing if it was malformed.
    """

    trace_id: bytes
    parent_id: bytes
    flags: int
    state: bytes
    headers: Headers

    @property
    def sampled(self) -> bool:
        """The client records it."""
        return bool(self.flags & SAMPLED)


def read_trace_context(request: ClientRequest) -> TraceContext | None:
    """The trace that a request belongs to; None without a valid one."""
    if TRACEPARENT not in request.fields:
        return None
    parents = request.all_of(TRACEPARENT)
    if len(parents) != 1:
        return None
    parent = parents[0].strip(b" \t")
    found = _PARENT.fullmatch(parent)
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    passed = [(TRACEPARENT, parent)]
    state = _checked_state(request.all_of(TRACESTATE))
    if state:
        passed.append((TRACESTATE, state))
    return TraceContext(found[2], found[3], int(found[4], 16) & _KNOWN_FLAGS, state, passed)


def _checked_state(values: list[bytes]) -> bytes:
    """One header of them all; empty if it is not valid."""
    state = b",".join(values)
    if not state or len(state) > _STATE_BYTES:
        return b""
    keys: list[bytes] = []
    for member in state.split(b","):
        text = member.strip(b" \t")
        if not text:
            continue
        found = _MEMBER.fullmatch(text)
        if found is None or found[1] in keys:
            return b""
        keys.append(found[1])
    return state if 0 < len(keys) <= _STATE_MEMBERS else b""


class Place(NamedTuple):
    """Where a request's own span stands.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: 16 hexadecimal digits; empty where the trace begins with it.
        flags: of the trace.
        state: as the client sent it, or empty.
    """

    trace_id: bytes
    span_id: int
    parent_id: bytes
    flags: int
    state: bytes


class Trace(msgspec.Struct, frozen=True, gc=False):
    """The trace of one request; made for each, so that whatever can wait is left for later.

    Attributes:
        context: what the client said of it; None where it begins here.
        recorded: its spans are exported.
    """

    operation_id: bytes
    context: TraceContext | None
    recorded: bool

    @property
    def place(self) -> Place:
        """Its ids, for the spans of a recorded one."""
        span_id, context = int.from_bytes(self.operation_id[8:]), self.context
        if context is None:
            trace_id = self.operation_id.hex().encode("ascii")
            return Place(trace_id, span_id, b"", SAMPLED | RANDOM, b"")
        return Place(context.trace_id, span_id, context.parent_id, context.flags, context.state)

    def for_backend(self, ordinal: int) -> Headers:
        """What the backend of an attempt is told: who its parent is, or that nobody records it."""
        context = self.context
        if not self.recorded:
            if context is not None:
                return context.headers
            digits = self.operation_id.hex()
            return [(TRACEPARENT, f"00-{digits}-{digits[16:]}-{RANDOM:02x}".encode("ascii"))]
        place = self.place
        span_id = attempt_id(place.span_id, ordinal)
        parent = b"00-%b-%016x-%02x" % (place.trace_id, span_id, place.flags)
        if place.state:
            return [(TRACEPARENT, parent), (TRACESTATE, place.state)]
        return [(TRACEPARENT, parent)]


def attempt_id(span_id: int, ordinal: int) -> int:
    """The span of an attempt of the request that has `span_id`."""
    return (span_id + 1 + ordinal) % _SPAN_IDS or 1


def passed_on(request: ClientRequest) -> Trace | None:
    """The trace of a request where none is recorded: what came passes."""
    context = read_trace_context(request)
    return None if context is None else Trace(b"", context, False)
