"""W3C trace context: what is valid, and what a backend is told."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.proxy.client_request import ClientRequest
from api.proxy.headers import Headers
from api.proxy.ids import Mint
from api.proxy.telemetry.trace_context import Trace, attempt_id, read_trace_context

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


class Nowhere:
    """A connection that nothing is sent on."""

    lost = False
    blocked = False

    def send(self, content: bytes) -> bool:
        raise AssertionError(content)

    async def drained(self) -> None:
        await asyncio.sleep(0)

    def resume(self) -> None: ...

    def pause(self) -> None: ...

    def complete(self, request: ClientRequest) -> None: ...


def asked(*headers: tuple[str, str]) -> ClientRequest:
    fields: Headers = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return ClientRequest(Nowhere(), b"POST", b"/", fields, chunks=True, keeps_alive=True)


def test_a_valid_parent_is_read():
    context = read_trace_context(asked(("traceparent", VALID)))
    assert context is not None
    assert (context.trace_id, context.parent_id) == (TRACE.encode(), PARENT.encode())
    assert context.sampled
    assert context.headers == [(b"traceparent", VALID.encode())]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-x",
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-01\x00",
        f"00-{TRACE}-{PARENT}-01\n",
        f"01-{TRACE}-{PARENT}-01x",
        "x" * 8000,
    ],
)
def test_a_malformed_parent_is_as_good_as_none(value):
    assert read_trace_context(asked(("traceparent", value), ("tracestate", "a=1"))) is None


def test_a_later_version_may_carry_more():
    context = read_trace_context(asked(("traceparent", f"cc-{TRACE}-{PARENT}-09-what.else")))
    assert context is not None
    assert context.flags == 1  # of a later version only the flags that are known


def test_two_parents_are_none():
    assert read_trace_context(asked(("traceparent", VALID), ("traceparent", VALID))) is None


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (["a=1"], b"a=1"),
        (["a=1,b=2"], b"a=1,b=2"),
        (["a=1", "b=2"], b"a=1,b=2"),
        (["a=1 , b=2"], b"a=1 , b=2"),
        (["tenant@vendor=x:y/z"], b"tenant@vendor=x:y/z"),
        (["a=1,,b=2"], b"a=1,,b=2"),
        (["a=1,a=2"], b""),
        (["A=1"], b""),
        (["a"], b""),
        (["a="], b""),
        (["a=b=c"], b""),
        (["a=\u00fc"], b""),
        (["a=\t1"], b""),
        ([",".join(f"k{number}=1" for number in range(32))], b"".join(
            b"k%d=1," % number for number in range(32))[:-1]),
        ([",".join(f"k{number}=1" for number in range(33))], b""),
        ([f"a={'x' * 257}"], b""),
        (["," * 9000], b""),
        ([""], b""),
    ],
)  # fmt: skip
def test_a_state_passes_whole_or_not_at_all(values, state):
    headers = [("tracestate", value) for value in values]
    context = read_trace_context(asked(("traceparent", VALID), *headers))
    assert context is not None  # it takes no more than itself away
    assert context.state == state
    assert len(context.headers) == (2 if state else 1)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_nothing_that_a_client_can_send_is_an_error(parent, state):
    headers: Headers = [(b"traceparent", parent), (b"tracestate", state)]
    request = ClientRequest(Nowhere(), b"POST", b"/", headers, chunks=True, keeps_alive=True)
    assert read_trace_context(request) is None


def test_attempts_have_spans_of_their_own_under_the_requests():
    operation = Mint()(1_700_000_000_000_000)
    context = read_trace_context(asked(("traceparent", VALID), ("tracestate", "a=1")))
    assert context is not None
    trace = Trace(operation, context, True)
    told = [dict(trace.for_backend(ordinal)) for ordinal in range(3)]
    assert len({headers[b"traceparent"] for headers in told}) == 3
    for ordinal, headers in enumerate(told):
        version, trace_id, parent, flags = headers[b"traceparent"].split(b"-")
        assert (version, trace_id, flags) == (b"00", TRACE.encode(), b"01")
        assert int(parent, 16) == attempt_id(trace.place.span_id, ordinal)
        assert int(parent, 16) != trace.place.span_id
        assert headers[b"tracestate"] == b"a=1"


def test_the_last_id_of_a_span_is_followed_by_the_first():
    last = Trace(b"\xff" * 16, None, True).place.span_id
    assert attempt_id(last, 0) == 1  # 0 is no id


def test_a_trace_that_its_client_does_not_record_passes_as_it_came():
    unsampled = VALID[:-2] + "00"
    context = read_trace_context(asked(("traceparent", unsampled), ("tracestate", "a=1")))
    assert context is not None
    trace = Trace(Mint()(0), context, context.sampled)
    assert not trace.recorded
    assert trace.for_backend(0) == context.headers


@pytest.mark.parametrize("recorded", [False, True])
def test_a_trace_that_begins_here_has_the_operations_id(*, recorded):
    operation = Mint()(1_700_000_000_000_000)
    trace = Trace(operation, None, recorded)
    ((_, parent),) = trace.for_backend(0)
    told = read_trace_context(asked(("traceparent", parent.decode())))
    assert told is not None
    assert told.trace_id == operation.hex().encode()
    assert told.sampled is recorded
