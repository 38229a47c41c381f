"""What leaves a stream of chunks, and when, wherever its bytes are torn."""

from __future__ import annotations

import json
from typing import Any

import pytest

from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.chunk_stream import ChunkReading
from billing.engines.mark import NOTHING, Ending, Mark
from billing.engines.read_request import read_request
from billing.engines.reading import StreamReading, stream_reading

FINAL = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def reading_for(engine: str, *, floor: int = 0, **members: object) -> StreamReading:
    body = json.dumps({"model": "m", "stream": True, **members}).encode()
    chat = Route.CHAT_COMPLETIONS
    return stream_reading(chat, engine_named(engine), read_request(body, chat), prompt_floor=floor)


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(text: str, *, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return event({"choices": [choice], **more})


DONE = b"data: [DONE]\n\n"
CONTENT = chunk("a") + chunk("b")
LAST = event({"choices": [], "usage": FINAL})


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_the_end_and_all_behind_it_is_held(size):
    reading = reading_for("vllm", stream_options={"include_usage": True})
    text = CONTENT + LAST + DONE + b": ping\n\n: torn"
    passed = b"".join(
        reading.feed(text[start : start + size]) for start in range(0, len(text), size)
    )
    passed += reading.finish()
    assert passed == CONTENT + LAST
    assert (reading.ending, reading.exact, reading.holding) == (Ending.DONE, True, True)
    assert reading.held() == DONE + b": ping\n\n: torn"
    assert (reading.held(), reading.holding) == (b"", False)
    assert reading.passed == reading.mark == Mark(prompt=9, completion=2)


def test_usage_that_only_the_meter_asked_for_never_leaves():
    reading = reading_for("vllm")
    assert reading.feed(CONTENT + LAST) == CONTENT
    assert reading.passed == Mark(prompt=9, completion=2)


def test_a_finish_reason_waits_where_no_end_mark_may_follow():
    reading = reading_for("generic", stream_options={"include_usage": True})
    finish = chunk("", finish="stop")
    assert reading.feed(CONTENT + finish) == CONTENT
    assert (reading.ending, reading.holding) == (None, True)
    assert reading.feed(LAST + b": ping\n\n") == b""
    assert (reading.passed, reading.mark) == (Mark(completion=2), Mark(prompt=9, completion=2))
    assert reading.finish() == b""
    assert reading.ending is Ending.BODY
    assert reading.held() == finish + LAST + b": ping\n\n"


def test_a_finish_reason_leaves_when_another_choice_goes_on():
    reading = reading_for("generic", n=2)
    finish = chunk("", finish="stop")
    reading.feed(finish)
    assert reading.feed(CONTENT) == finish + CONTENT


def test_what_is_held_is_not_counted_as_passed():
    reading = reading_for("transformers")
    reading.feed(CONTENT + chunk("c", finish="stop", usage=FINAL | {"completion_tokens": 3}))
    assert reading.passed == Mark(completion=2)
    assert reading.mark == Mark(prompt=9, completion=3)
    assert reading.finish() == b""
    assert reading.exact


def test_blanks_behind_the_last_event_do_not_let_it_out():
    reading = reading_for("transformers")
    finish = chunk("", finish="stop")
    assert reading.feed(CONTENT + finish + b"\n") + reading.finish() == CONTENT
    assert reading.held() == finish + b"\n"


def test_an_event_without_its_blank_line_is_read_at_the_end():
    reading = reading_for("vllm")
    assert reading.feed(CONTENT + DONE.strip()) == CONTENT
    assert reading.finish() == b""
    assert (reading.ending, reading.held()) == (Ending.DONE, DONE.strip())


def test_an_error_ends_a_stream_and_concludes_nothing():
    reading = reading_for("vllm")
    error = event({"error": {"message": "died"}})
    early = chunk("a", finish="stop", usage={"prompt_tokens": 9, "completion_tokens": 1})
    reading.feed(early + error + DONE)
    assert (reading.ending, reading.exact) == (Ending.ERROR, False)
    assert reading.held() == error + DONE


def test_nothing_in_nothing_out():
    reading = reading_for("vllm")
    assert reading.finish() == b""
    assert (reading.mark, reading.ending, reading.raw()) == (NOTHING, Ending.BODY, {})
    assert isinstance(reading, ChunkReading)


def test_the_prompt_counts_its_floor_until_the_engine_says_more_or_less():
    for said in (3, 90):
        reading = reading_for("generic", floor=5)
        assert reading.passed == NOTHING
        reading.feed(CONTENT)
        assert reading.passed == Mark(prompt=5, completion=2)
        reading.feed(event({"choices": [], "usage": FINAL | {"prompt_tokens": said}}))
        assert reading.passed == Mark(prompt=said, completion=2)
        assert "counts_fell" not in reading.anomalies
