"""Counts of streams that report as they go: cumulative, never summed, never falling."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.engines.mark import Ending, Mark
from billing.engines.messages_stream import MessagesReading
from billing.engines.responses_stream import ResponsesReading
from tests.strategies import PATIENT

TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}


def event(payload: dict[str, object]) -> bytes:
    text = json.dumps(payload).encode()
    return b"event: %b\ndata: %b\n\n" % (str(payload["type"]).encode(), text)


def start(**usage: int | None) -> bytes:
    return event({"type": "message_start", "message": {"id": "msg_1", "usage": usage}})


def delta(**usage: int | None) -> bytes:
    return event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})


STOP = event({"type": "message_stop"})


@PATIENT
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=20))
def test_counts_never_fall_and_cumulative_is_never_summed(steps):
    reading = MessagesReading(prompt_floor=0)
    before = Mark()
    for prompt, output in steps:
        text = json.loads(json.dumps(TEXT)) | {
            "usage": {"input_tokens": prompt, "output_tokens": output}
        }
        reading.feed(event(text))
        assert all(new >= old for new, old in zip(reading.mark, before, strict=True))
        before = reading.mark
    events = len(steps)
    assert reading.mark.prompt == max(prompt for prompt, _ in steps)
    told = max(output for _, output in steps)
    assert told <= reading.mark.completion <= max(events, told)


def test_messages_prompt_is_said_at_the_start_and_output_at_the_end():
    reading = MessagesReading(prompt_floor=4)
    reading.feed(start(input_tokens=10, cache_read_input_tokens=5, output_tokens=1))
    assert reading.mark == Mark(prompt=15, cached=5)
    reading.feed(event(TEXT) * 3)
    assert (reading.mark.completion, reading.exact) == (3, False)
    reading.feed(delta(output_tokens=9))
    assert reading.mark == Mark(prompt=15, cached=5, completion=9)
    assert reading.feed(STOP) == b""
    assert (reading.exact, reading.ending, reading.held()) == (True, Ending.DONE, STOP)
    assert reading.raw() == {
        "input_tokens": 10,
        "cache_read_input_tokens": 5,
        "output_tokens": 9,
    }


def test_what_a_message_says_in_the_end_counts_though_more_events_came():
    """Events may be pieces of a token; only until the engine has counted do they stand for one."""
    reading = MessagesReading(prompt_floor=0)
    reading.feed(start(input_tokens=10, output_tokens=1) + event(TEXT) * 3)
    assert reading.passed.completion == 3
    reading.feed(delta(output_tokens=2))
    assert (reading.passed, reading.exact) == (Mark(prompt=10, completion=2), True)
    reading.feed(event(TEXT))
    assert (reading.passed.completion, reading.exact) == (4, False)


@PATIENT
@given(st.lists(st.tuples(*[st.integers(0, 90)] * 3), min_size=1, max_size=6))
def test_parts_of_a_prompt_never_exceed_it_however_they_are_said_again(said):
    reading = MessagesReading(prompt_floor=0)
    most = 0
    for fresh, read, new in said:
        usage = {"cache_read_input_tokens": read, "cache_creation_input_tokens": new}
        reading.feed(delta(input_tokens=fresh, output_tokens=1, **usage))
        most = max(most, fresh + read + new)
        assert reading.mark.prompt == most
        assert min(classes_of(reading.mark)) >= 0


def classes_of(mark: Mark) -> tuple[int, ...]:
    counts = mark.counts()
    return counts.input, counts.cached_input, counts.cache_write, counts.output


def test_a_message_that_counts_its_cache_otherwise_in_the_end_is_split_as_it_says_there():
    reading = MessagesReading(prompt_floor=0)
    reading.feed(start(input_tokens=10, cache_creation_input_tokens=100))
    usage = {"cache_read_input_tokens": 90, "cache_creation_input_tokens": 15}
    reading.feed(delta(input_tokens=5, output_tokens=2, **usage))
    assert reading.mark == Mark(prompt=110, cached=90, cache_write=15, completion=2)


def test_the_floor_stands_for_a_prompt_that_was_not_said():
    reading = MessagesReading(prompt_floor=4)
    reading.feed(start())
    assert reading.mark == Mark()
    reading.feed(event(TEXT))
    assert reading.mark == Mark(prompt=4, completion=1)
    reading.feed(delta(input_tokens=2, output_tokens=3) + STOP)
    assert (reading.mark, reading.exact) == (Mark(prompt=2, completion=3), True)


@pytest.mark.parametrize("usage", [{"output_tokens": 0}, {}, {"output_tokens": None}])
def test_a_last_usage_that_says_nothing_leaves_a_lower_bound(usage):
    reading = MessagesReading(prompt_floor=0)
    reading.feed(start(input_tokens=10) + event(TEXT) * 2 + delta(**usage) + STOP)
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=2), False)


def test_an_error_ends_a_message():
    reading = MessagesReading(prompt_floor=0)
    error = event({"type": "error", "error": {"type": "overloaded_error", "message": "x"}})
    assert reading.feed(start(input_tokens=3) + error + STOP) == start(input_tokens=3)
    assert (reading.ending, reading.exact) == (Ending.ERROR, False)
    assert reading.held() == error + STOP


def response(kind: str, usage: object = None) -> bytes:
    return event({"type": kind, "response": {"id": "resp_1", "usage": usage}})


USED = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
WORD = event({"type": "response.output_text.delta", "delta": "x"})


@pytest.mark.parametrize("outcome", ["completed", "incomplete", "failed", "cancelled"])
def test_every_outcome_of_a_response_bills_what_it_reports(outcome):
    reading = ResponsesReading(prompt_floor=3)
    last = response(f"response.{outcome}", USED)
    assert reading.feed(response("response.created") + WORD * 2 + last).endswith(WORD)
    assert reading.passed == Mark(prompt=3, completion=2)
    assert reading.mark == Mark(prompt=7, completion=5)
    assert (reading.ending, reading.exact, reading.object_ids) == (Ending.DONE, True, ["resp_1"])
    assert reading.held() == last


@pytest.mark.parametrize(
    ("outcome", "ending"), [("failed", Ending.ERROR), ("completed", Ending.DONE)]
)
def test_a_response_without_usage_is_a_lower_bound(outcome, ending):
    reading = ResponsesReading(prompt_floor=0)
    reading.feed(WORD * 2 + response(f"response.{outcome}"))
    assert (reading.ending, reading.exact) == (ending, False)
    assert reading.mark == Mark(completion=2)


def test_arguments_and_reasoning_count_as_content_but_empty_deltas_do_not():
    reading = ResponsesReading(prompt_floor=0)
    for kind in ("function_call_arguments", "reasoning_text", "refusal", "output_text"):
        reading.feed(event({"type": f"response.{kind}.delta", "delta": "x"}))
    reading.feed(event({"type": "response.output_text.delta", "delta": ""}))
    reading.feed(event({"type": "response.output_text.done", "text": "x"}))
    assert reading.mark == Mark(completion=4)


def test_an_error_event_ends_a_response():
    for text in (
        event({"type": "error", "message": "x"}),
        b'data: {"error":{"message":"x"}}\n\n',
        b'data: {"error": "not "escaped" text"}\n\n',
    ):
        reading = ResponsesReading(prompt_floor=0)
        assert reading.feed(WORD + text) == WORD
        assert (reading.ending, reading.held()) == (Ending.ERROR, text)


def test_the_usage_of_a_transcript_is_on_its_last_event():
    reading = ResponsesReading(prompt_floor=0)
    last = event({"type": "transcript.text.done", "text": "x", "usage": USED | {"type": "tokens"}})
    reading.feed(event({"type": "transcript.text.delta", "delta": "x"}) + last)
    assert (reading.mark, reading.exact) == (Mark(prompt=7, completion=5), True)
    assert reading.held() == last


@PATIENT
@given(st.integers(1, 40), st.booleans())
def test_tearing_changes_nothing(size, responses):
    if responses:
        text = response("response.created") + WORD * 3 + response("response.completed", USED)
        readings = [ResponsesReading(prompt_floor=2) for _ in range(2)]
    else:
        text = start(input_tokens=4) + event(TEXT) * 3 + delta(output_tokens=6) + STOP
        readings = [MessagesReading(prompt_floor=2) for _ in range(2)]
    whole, torn = readings
    expected = whole.feed(text) + whole.finish() + whole.held()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    got = b"".join(torn.feed(piece) for piece in pieces) + torn.finish() + torn.held()
    assert expected == got == text
    assert (whole.mark, whole.exact, whole.raw()) == (torn.mark, torn.exact, torn.raw())
