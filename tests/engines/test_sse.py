"""Events out of bytes, however the bytes are torn."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.engines import sse
from billing.engines.sse import EventKind, EventSplitter, payload_of, read_event, without_usage
from billing.errors import UpstreamUnavailable
from tests.strategies import PATIENT

lines = st.sampled_from(
    [b"data: x", b"data:y", b": comment", b"event: z", b"data: [DONE]", b"\r", b"", b"id: 1"]
)
ends = st.sampled_from([b"\n", b"\r\n"])


@PATIENT
@given(st.lists(st.tuples(lines, ends), max_size=20), st.integers(1, 9))
def test_events_are_the_bytes_and_do_not_depend_on_the_tearing(parts, size):
    text = b"".join(line + end for line, end in parts)
    whole = EventSplitter()
    expected = whole.feed(text)
    torn = EventSplitter()
    got = [
        event
        for start in range(0, len(text), size)
        for event in torn.feed(text[start : start + size])
    ]
    rest, torn_rest = whole.finish(), torn.finish()
    assert b"".join(expected) + rest == text
    assert b"".join(got) + torn_rest == text
    assert [payload_of(event) for event in got if payload_of(event)] == [
        payload_of(event) for event in expected if payload_of(event)
    ]


@PATIENT
@given(st.lists(st.sampled_from([b"x", b"\n", b"\r", b"\r\n", b"y" * 1100])), st.integers(1, 1200))
def test_the_same_events_come_out_of_any_reads(parts, size):
    text = b"".join(parts)
    whole, torn = EventSplitter(), EventSplitter()
    expected = whole.feed(text)
    reads = [text[start : start + size] for start in range(0, len(text), size)]
    assert [event for read in reads for event in torn.feed(read)] == expected
    assert torn.finish() == whole.finish()


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_long_event_ends_wherever_its_end_is_torn(end, size):
    text = b"data: " + b"x" * 3000 + end + b"data: y" + end
    splitter = EventSplitter()
    reads = [text[start : start + size] for start in range(0, len(text), size)]
    got = [event for read in reads for event in splitter.feed(read)]
    rest = splitter.finish()
    assert b"".join(got) + rest == text
    assert got[0] == b"data: " + b"x" * 3000 + end


def test_an_event_without_an_end_is_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    splitter = EventSplitter()
    splitter.feed(b"x" * 100)
    with pytest.raises(UpstreamUnavailable):
        splitter.feed(b"x")


def test_a_long_event_without_an_end_is_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 2000)
    splitter = EventSplitter()
    for _ in range(20):
        assert splitter.feed(b"x" * 100) == []
    with pytest.raises(UpstreamUnavailable):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b'{"choices":[{"index":0,"delta":{"content":"a"}}]}', EventKind.CONTENT),
        (b'{"choices":[{"index":0,"delta":{}}],"usage":null}', EventKind.CONTENT),
        (b'{"choices":[{"index":0,"text":"a"}],"usage":{"prompt_tokens":1}}', EventKind.MIXED),
        (b'{"choices":[],"usage":{"prompt_tokens":1}}', EventKind.USAGE_ONLY),
        (b'{"usage":{"prompt_tokens":1}}', EventKind.USAGE_ONLY),
        (b'{"error":{"message":"x"}}', EventKind.ERROR),
        (b'{"error": "plain text"}', EventKind.ERROR),
        (b'{"error": "not "escaped" text"}', EventKind.ERROR),
        (b'{"error":null,"choices":[{"text":"a"}]}', EventKind.CONTENT),
        (b"[DONE]", EventKind.DONE),
        (b"5", EventKind.OTHER),
        (b"{}", EventKind.OTHER),
        (b'{"choices":5}', EventKind.OTHER),
    ],
)
@pytest.mark.parametrize("form", [b"data: %b\n\n", b"data:%b\r\n\r\n", b"id: 3\ndata: %b\n\n"])
def test_kinds(payload, kind, form):
    assert read_event(form % payload).kind is kind


def test_comments_and_empty_events_are_other():
    for text in (b": ping\n\n", b"\n\n", b"event: x\n\n", b"data: \n\n"):
        assert read_event(text).kind is EventKind.OTHER


@pytest.mark.parametrize(
    ("delta", "content"),
    [
        ({"content": "a"}, True),
        ({"reasoning_content": "a"}, True),
        ({"tool_calls": [{}]}, True),
        ({"content": ""}, False),
        ({"content": None, "role": "assistant"}, False),
        ({"tool_calls": []}, False),
    ],
)
def test_what_counts_as_content(delta, content):
    text = b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"
    assert read_event(text).has_content is content


members = st.dictionaries(
    st.sampled_from(["id", "model", "x_usage", "choices", "error"]), st.none(), max_size=4
)


@PATIENT
@given(members, st.integers(0, 4), st.booleans(), st.sampled_from(["compact", "spaced"]))
def test_cutting_usage_leaves_every_other_member(others, place, null, style):
    others = {**others, "choices": [{"index": 0, "delta": {"content": '"usage":{}'}}]}
    items = list(others.items())
    items.insert(place, ("usage", None if null else {"prompt_tokens": 3, "deep": {"usage": 1}}))
    separators = (",", ":") if style == "compact" else (", ", ": ")
    payload = json.dumps(dict(items), separators=separators).encode()
    cut = without_usage(read_event(b"data: " + payload + b"\n\n"))
    assert cut.endswith(b"\n\n")
    assert json.loads(payload_of(cut)) == others


def test_cut_of_a_last_member_is_exact():
    text = b'data: {"choices":[{"text":"\\u00fc"}], "k" : 1.50,"usage":{"prompt_tokens":1}}\r\n\r\n'
    expected = b'data: {"choices":[{"text":"\\u00fc"}], "k" : 1.50}\r\n\r\n'
    assert without_usage(read_event(text)) == expected


@pytest.mark.parametrize("choices", [b"[]", b'[{"index":0,"delta":{"content":"x"}}]'])
def test_a_member_behind_usage_is_not_taken_for_usage(choices):
    """llama.cpp puts `timings` there, Dynamo `nvext`: read as one, neither would be a count."""
    usage = b'{"completion_tokens":5,"prompt_tokens":7,"total_tokens":12}'
    text = b'data: {"choices":%b,"usage":%b,"timings":{"prompt_n":1}}\n\n' % (choices, usage)
    event = read_event(text)
    assert event.usage is not None
    assert bytes(event.usage) == usage
    rest = b'data: {"choices":%b,"timings":{"prompt_n":1}}\n\n' % choices
    assert json.loads(payload_of(without_usage(event))) == json.loads(payload_of(rest))
