"""A chunk that is read by its form alone means what it means when it is decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.chunk_stream import ChunkReading
from billing.engines.read_request import read_request
from billing.engines.sse import read_event
from billing.engines.steady_chunk import steady_chunk
from tests.engines.golden import STREAMS

ENGINES = ("vllm", "sglang", "llama_cpp", "generic")
WISHES = (
    {},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
)


def reading_for(engine: str, wishes: dict[str, Any], *, decodes: bool) -> ChunkReading:
    body = json.dumps({"model": "m", "stream": True, **wishes}).encode()
    request = read_request(body, Route.CHAT_COMPLETIONS)
    reading = ChunkReading(engine_named(engine), request, prompt_floor=3)
    if decodes:
        reading._forms = 0  # it learns no form, so it decodes every chunk
    return reading


def seen(reading: ChunkReading, events: list[bytes]) -> list[Any]:
    """All that can be seen of a reading after each event."""
    states: list[Any] = []
    for text in events:
        shown = reading.feed(text)
        states.append(
            (
                shown,
                reading.passed,
                reading.mark,
                reading.exact,
                reading.raw(),
                sorted(reading.anomalies),
                reading.ending,
            )
        )
    return [*states, reading.finish(), reading.mark, reading.exact, reading.raw()]


usages = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "prompt_tokens": st.sampled_from([0, 42, 43]),
            "total_tokens": st.integers(0, 60),
            "completion_tokens": st.one_of(st.integers(0, 8), st.none()),
        },
        optional={
            "prompt_tokens_details": st.sampled_from([None, {"cached_tokens": 32}]),
        },
    ),
)
deltas = st.one_of(
    st.fixed_dictionaries({"content": st.text(max_size=8)}),
    st.fixed_dictionaries({"reasoning_content": st.sampled_from(["so", '"', "\\", "\u2028"])}),
    st.just({"role": "assistant", "content": ""}),
    st.just({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":"b'}}]}),
)


@st.composite
def odd_chunks(draw: st.DrawFn) -> bytes:
    """A chunk of any form, compact as engines write them or not."""
    choice = {
        "index": draw(st.sampled_from([0, 0, 0, 1])),
        "delta": draw(deltas),
        "finish_reason": draw(st.sampled_from([None, None, None, "stop"])),
    }
    payload: dict[str, Any] = {"id": "c", "choices": draw(st.sampled_from([[choice], []]))}
    usage = draw(usages)
    if usage is not None or draw(st.booleans()):
        payload["usage"] = usage
    separators = draw(st.sampled_from([(",", ":"), (",", ":"), (", ", ": ")]))
    ascii_only = draw(st.booleans())
    text = json.dumps(payload, separators=separators, ensure_ascii=ascii_only)
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


@st.composite
def steady_streams(draw: st.DrawFn) -> list[bytes]:
    """Chunks like each other, with counts as engines write them, and odd ones between them."""
    counted = draw(st.booleans())
    total_first, details = draw(st.booleans()), draw(st.booleans())
    completion = 0
    events: list[bytes] = []
    for text in draw(st.lists(st.text(max_size=6), max_size=12)):
        completion += draw(st.sampled_from([1, 1, 1, 0, 3, -1]))
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        payload: dict[str, Any] = {"id": "50%d", "choices": [choice]}
        if counted:
            counts = {"completion_tokens": completion, "total_tokens": 42 + completion}
            if total_first:
                counts = dict(reversed(counts.items()))
            parts = {"prompt_tokens_details": {"cached_tokens": 32}} if details else {}
            payload["usage"] = {"prompt_tokens": 42, **counts, **parts}
        form = json.dumps(payload, separators=(",", ":"), ensure_ascii=draw(st.booleans()))
        events.append(b"data: " + form.encode("utf-8", "replace") + b"\n\n")
        if draw(st.integers(0, 5)) == 0:
            events.append(draw(st.one_of(odd_chunks(), st.just(b": ping\n\n"))))
    return [*events, *draw(st.sampled_from([[], [b"data: [DONE]\n\n"]]))]


@given(
    st.sampled_from(ENGINES),
    st.sampled_from(WISHES),
    st.one_of(steady_streams(), st.lists(odd_chunks(), max_size=8)),
)
def test_a_form_says_what_decoding_says(engine, wishes, events):
    quick = reading_for(engine, wishes, decodes=False)
    slow = reading_for(engine, wishes, decodes=True)
    assert seen(quick, events) == seen(slow, events)


@given(st.sampled_from(ENGINES), st.sampled_from(WISHES), steady_streams())
def test_reads_of_several_chunks_are_read_alike(engine, wishes, events):
    quick = reading_for(engine, wishes, decodes=False)
    slow = reading_for(engine, wishes, decodes=True)
    shown = quick.feed(b"".join(events)) + quick.finish()
    assert shown == b"".join(map(slow.feed, events)) + slow.finish()
    assert (quick.mark, quick.exact, quick.raw()) == (slow.mark, slow.exact, slow.raw())
    assert (quick.passed, quick.anomalies) == (slow.passed, slow.anomalies)
    assert quick.held() == slow.held()


COMPACT = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],'
    b'"usage":{"prompt_tokens":42,"total_tokens":%b,"completion_tokens":%b}}\n\n'
)
SHOWN = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)


def test_only_text_and_counts_may_differ():
    steady = steady_chunk(read_event(COMPACT % (b"a", b"43", b"1")), SHOWN % b"a")
    assert steady is not None
    assert steady.read(COMPACT % (b"b%d", b"44", b"2")) == SHOWN % b"b%d"
    assert steady.completion == 2
    assert steady.usage == b'{"prompt_tokens":42,"total_tokens":44,"completion_tokens":2}'
    assert steady.read(COMPACT % (rb"\"\u00e9\n", b"49", b"7")) == SHOWN % rb"\"\u00e9\n"
    assert steady.completion == 7


@pytest.mark.parametrize(
    ("text", "total", "completion"),
    [
        (b"", b"44", b"2"),  # no text
        (b'a","b":"', b"44", b"2"),  # a string that ends before the place where it should
        (b"\\", b"44", b"2"),  # one that does not end there
        (b"\\x", b"44", b"2"),  # no JSON
        (b"a\nb", b"44", b"2"),  # another line of the event
        (b"a\r", b"44", b"2"),
        (b"a", b"44", b"02"),  # numbers that can be read in two ways
        (b"a", b"+44", b"2"),
        (b"a", b"45", b"2"),  # a total that contradicts
        (b"a", b"42", b"0"),  # a count that falls
        (b"a", b"42.0", b"1"),
        (b"a", b"1" + b"0" * 40, b"2"),
    ],
)
def test_what_is_not_certain_is_decoded(text, total, completion):
    steady = steady_chunk(read_event(COMPACT % (b"a", b"43", b"1")), SHOWN % b"a")
    assert steady is not None
    assert steady.read(COMPACT % (text, total, completion)) is None
    assert steady.completion == 1
    assert steady.read(COMPACT % (b"b", b"44", b"2")) is not None


@pytest.mark.parametrize("vector", STREAMS, ids=lambda vector: vector.name)
def test_recorded_streams(vector):
    quick, slow = vector.reading(), vector.reading()
    if not isinstance(quick, ChunkReading) or not isinstance(slow, ChunkReading):
        assert vector.route is not Route.CHAT_COMPLETIONS
        return
    slow._forms = 0
    events = [text + b"\n\n" for text in vector.wire.split(b"\n\n")]
    assert seen(quick, events) == seen(slow, events)
