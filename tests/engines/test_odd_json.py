"""Answers that a strict reader refuses, or of other types, are counted all the same."""

from __future__ import annotations

import json

import pytest

from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.mark import Ending, Mark
from billing.engines.read_request import read_request
from billing.engines.reading import StreamReading, stream_reading
from billing.engines.sse import EventKind, read_event, without_usage
from billing.engines.whole_answer import Reading, read_whole
from billing.metering.token_class import TokenCounts

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
WRITTEN = json.dumps(USAGE).encode()
ODD_TEXTS = (
    rb'{"choices":[{"text":"a","logprob":NaN}],"usage":%b}',
    rb'{"choices":[{"text":"a","logprob":-Infinity}],"usage":%b}',
    rb'{"choices":[{"text":"NaN \\ud83d","logprob":Infinity}],"usage":%b}',
    rb'{"choices":[{"text":"a\ud83d"}],"usage":%b}',
    rb'{"choices":[{"text":"\uDE00a"}],"usage":%b}',
    b"\xef\xbb\xbf" + rb'{"choices":[{"text":"a"}],"usage":%b}',
    rb'{"choices":[{"text":"a","index":null}],"usage":%b}',
    rb'{"choices":[{"text":"a","index":"0"}],"usage":%b}',
    rb'{"choices":[{"text":"a","finish_reason":7}],"usage":%b}',
    rb'{"choices":["a"],"usage":%b}',
)


def whole(answer: bytes, route: Route = Route.CHAT_COMPLETIONS) -> Reading:
    members = {"model": "m", "max_tokens": 9, "messages": []}
    if route is Route.RESPONSES:
        members = {"model": "m", "input": "x"}
    request = read_request(json.dumps(members).encode(), route)
    engine = engine_named("vllm")
    return read_whole(answer, route=route, engine=engine, request=request, prompt_floor=0)


def stream(engine: str) -> StreamReading:
    route = Route.CHAT_COMPLETIONS
    request = read_request(b'{"model":"m","stream":true}', route)
    return stream_reading(route, engine_named(engine), request, prompt_floor=0)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_usage_of_an_answer_is_read_whatever_is_odd_beside_it(text):
    reading = whole(text % WRITTEN)
    assert (reading.counts, reading.exact) == (TokenCounts(input=9, output=2), True)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_so_is_that_of_a_chunk_and_nobody_sees_it(text):
    event = read_event(b"data: " + text % WRITTEN + b"\n\n")
    assert event.kind is EventKind.MIXED
    assert event.usage is not None
    assert json.loads(bytes(event.usage)) == USAGE


@pytest.mark.parametrize("text", ODD_TEXTS[6:])
def test_a_chunk_of_odd_types_loses_its_usage_only(text):
    event = read_event(b"data: " + text % WRITTEN + b" \n\n")
    assert b"usage" not in without_usage(event)
    assert b'"choices"' in without_usage(event)


def test_a_response_and_a_message_are_read_too():
    answer = rb'{"id":"resp_1","output":[NaN],"usage":{"input_tokens":9,"output_tokens":2}}'
    reading = whole(answer, Route.RESPONSES)
    assert (reading.counts, reading.exact) == (TokenCounts(input=9, output=2), True)
    assert reading.object_ids == ("resp_1",)
    reading = whole(answer.replace(b"NaN", rb'"\udc00"'), Route.MESSAGES)
    assert (reading.counts, reading.exact) == (TokenCounts(input=9, output=2), True)


ODD_EVENTS = (
    rb'"output":[{"logprob":NaN}]',
    rb'"output":[{"text":"\ud83d"}]',
    rb'"output":["NaN","\udc00",-Infinity]',
)


def typed(route: Route) -> StreamReading:
    members = b"" if route is Route.RESPONSES else b',"max_tokens":9,"messages":[]'
    body = b'{"model":"m","input":"x"%b,"stream":true}' % members
    return stream_reading(route, engine_named("vllm"), read_request(body, route), prompt_floor=0)


@pytest.mark.parametrize("odd", [*ODD_EVENTS, b'"id":null', b'"id":7', b'"created_at":"x"'])
def test_so_is_the_event_that_ends_a_response_and_it_waits_for_its_record(odd):
    usage = b'{"input_tokens":9,"output_tokens":2,"total_tokens":11}'
    text = b'data: {"type":"response.completed","response":{%b,"usage":%b}}\n\n' % (odd, usage)
    reading = typed(Route.RESPONSES)
    assert reading.feed(text) == b""
    assert (reading.mark, reading.exact) == (Mark(prompt=9, completion=2), True)
    assert (reading.ending, reading.held()) == (Ending.DONE, text)


@pytest.mark.parametrize("odd", ODD_EVENTS)
def test_so_are_events_of_a_message(odd):
    reading = typed(Route.MESSAGES)
    reading.feed(
        b'data: {"type":"message_start","message":{"usage":{"input_tokens":9},%b}}\n\n' % odd
    )
    delta = b'data: {"type":"content_block_delta","delta":{"text":"a"},%b}\n\n' % odd
    reading.feed(delta)
    assert reading.passed == Mark(prompt=9, completion=1)
    reading.feed(b'data: {"type":"message_delta","usage":{"output_tokens":2},%b}\n\n' % odd)
    assert (reading.mark, reading.exact) == (Mark(prompt=9, completion=2), True)
    assert reading.feed(b'data: {"type":"message_stop",%b}\n\n' % odd) == b""
    assert reading.ending is Ending.DONE


@pytest.mark.parametrize(
    "error",
    [
        b'{"message":"x","type":"error"}',
        b'{"request_id":null,"error":{"message":"x"},"type":"error"}',
        b'{"code":500,"error":{"message":"x"}}',
    ],
)
@pytest.mark.parametrize("route", [Route.MESSAGES, Route.RESPONSES])
def test_an_error_is_told_by_what_it_says_wherever_it_says_it(route, error):
    reading = typed(route)
    assert reading.feed(b"data: " + error + b"\n\n") == b""
    assert reading.ending is Ending.ERROR


def test_what_is_no_json_stays_unread():
    reading = whole(b'{"usage":' + WRITTEN + b',"logprob":nan}')
    assert (reading.counts, reading.anomalies) == (TokenCounts(), ("usage_missing",))


@pytest.mark.parametrize("written", [b"9.0", b"9.000"])
def test_whole_numbers_may_be_written_with_a_point(written):
    reading = whole(b'{"usage":' + WRITTEN.replace(b"9", written) + b"}")
    assert (reading.counts, reading.exact) == (TokenCounts(input=9, output=2), True)


@pytest.mark.parametrize("written", [b"9.5", b"9e0", b'"9"', b"-9.0", b"true"])
def test_other_numbers_are_no_counts(written):
    reading = whole(b'{"usage":' + WRITTEN.replace(b"9", written) + b"}")
    assert (reading.counts, reading.anomalies) == (TokenCounts(), ("usage_unreadable",))


def test_an_empty_finish_reason_ends_nothing():
    """Else each chunk would wait for the one behind it."""
    reading = stream("generic")
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}\n\n'
    assert reading.feed(chunk) == chunk
    counted = chunk.replace(b"}]}", b'}],"usage":' + WRITTEN + b"}")
    assert reading.feed(counted) != b""
    assert not reading.holding


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_lines_may_end_with_a_carriage_return_alone(size):
    reading = stream("vllm")
    content = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\r\r'
    last = b'data: {"choices":[],"usage":' + WRITTEN + b"}\r\r"
    text = content + content + last + b"data: [DONE]\r\r"
    passed = b"".join(reading.feed(text[at : at + size]) for at in range(0, len(text), size))
    passed += reading.finish()
    assert passed == content + content
    assert (reading.ending, reading.mark) == (Ending.DONE, Mark(prompt=9, completion=2))
    assert reading.held() == b"data: [DONE]\r\r"


def test_usage_is_cut_out_of_an_event_of_several_lines():
    lines = json.dumps(
        {"choices": [{"index": 0}], "usage": USAGE, "id": "c"}, indent=1
    ).splitlines()
    text = "id: 7\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
    shown = without_usage(read_event(text.encode())).decode()
    assert shown.endswith("\n\n")
    assert shown.startswith("id: 7\n")
    assert all(line.startswith("data: ") for line in shown.strip().splitlines()[1:])
    payload = "".join(line.removeprefix("data: ") for line in shown.strip().splitlines()[1:])
    assert json.loads(payload) == {"choices": [{"index": 0}], "id": "c"}
