"""Streams as engines vary them, and what each event boundary costs, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.mark import Ending, Mark
from billing.engines.read_request import read_request
from billing.engines.reading import StreamReading, stream_reading

ASKED: dict[str, Any] = {"stream_options": {"include_usage": True}}
DONE = b"data: [DONE]\n\n"
FLOOR = 4


def reading_for(engine: str, route: Route = Route.CHAT_COMPLETIONS, **more: Any) -> StreamReading:
    body = json.dumps({"model": "m", "stream": True, **more}).encode()
    request = read_request(body, route)
    return stream_reading(route, engine_named(engine), request, prompt_floor=FLOOR)


def event(payload: dict[str, Any], *, spaced: bool = False) -> bytes:
    separators = None if spaced else (",", ":")
    return b"data: " + json.dumps(payload, separators=separators).encode() + b"\n\n"


def used(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


def chunk(text: str, usage: Any = None, *, index: int = 0, finish: str | None = None) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return event({"choices": [choice]} | ({} if usage is None else {"usage": usage}))


def written(text: str, usage: Any = None, *, index: int = 0) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": None}
    return event({"choices": [choice]} | ({} if usage is None else {"usage": usage}))


def total(prompt: int, completion: int, **more: Any) -> bytes:
    return event({"choices": [], "usage": used(prompt, completion, **more)})


def outputs(reading: StreamReading, *events: bytes) -> list[int]:
    """Output tokens that what has left after each event is billed for, were it cut there."""
    found = []
    for each in events:
        reading.feed(each)
        found.append(reading.passed.completion)
    reading.finish()
    return found


@pytest.mark.parametrize("details", [{}, {"prompt_tokens_details": None}])
@pytest.mark.parametrize("first", [True, False])
def test_cached_tokens_in_timings_count_wherever_they_stand(first, details):
    usage, timings = {"usage": used(10, 5, **details)}, {"timings": {"cache_n": 7, "prompt_n": 3}}
    last = event({"choices": []} | (timings | usage if first else usage | timings))
    reading = reading_for("llama_cpp", **ASKED)
    outputs(reading, chunk("a"), last, DONE)
    assert (reading.mark, reading.exact) == (Mark(prompt=10, cached=7, completion=5), True)


@pytest.mark.parametrize("engine", ["generic", "dynamo", "llama_cpp", "vllm", "sglang"])
@pytest.mark.parametrize("usage", [used(0, 0), used(10, 0), {"prompt_tokens": "9"}, "x"])
def test_counts_that_say_nothing_take_nothing_back(engine, usage):
    """They stood on every chunk, and what was delivered cost nothing: not when it was cut, and
    not in the end, where the last of them was taken for the whole answer's."""
    reading = reading_for(engine, **ASKED)
    finish = chunk("", usage, finish="stop")
    assert outputs(reading, chunk("a", usage), chunk("b", usage), finish, DONE)[:2] == [1, 2]
    prompt = 10 if usage == used(10, 0) else FLOOR
    assert (reading.mark, reading.exact) == (Mark(prompt=prompt, completion=2), False)


def test_zero_on_the_finish_chunk_is_corrected_by_the_total():
    reading = reading_for("llama_cpp", **ASKED)
    steps = chunk("a"), chunk("b"), chunk("", used(0, 0), finish="stop"), total(10, 5), DONE
    assert outputs(reading, *steps) == [1, 2, 2, 5, 5]
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=5), True)


@pytest.mark.parametrize("engine", ["generic", "llama_cpp", "vllm"])
def test_usage_behind_the_finish_reason_is_the_whole_answers(engine):
    """On a chunk of a choice that says nothing more: it may be less than events were counted."""
    reading = reading_for(engine, **ASKED)
    events = [chunk("a"), chunk("b"), chunk("c", finish="stop")]
    outputs(reading, *events, chunk("", used(10, 2)), DONE)
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=2), True)


def test_content_behind_the_finish_reason_counts():
    reading = reading_for("vllm", **ASKED)
    outputs(
        reading,
        chunk("a", used(10, 1)),
        chunk("b", used(10, 2), finish="stop"),
        chunk("c", used(10, 3)),
        DONE,
    )
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=3), True)


def test_usage_on_the_last_of_several_finish_chunks_is_of_all_of_them():
    reading = reading_for("generic", n=2, **ASKED)
    steps = chunk("a"), chunk("b", index=1), chunk("", finish="stop")
    outputs(reading, *steps, chunk("", used(10, 7), index=1, finish="stop"), DONE)
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=7), True)


def test_counts_of_each_chunk_alone_are_not_the_answers():
    """806 deltas were streamed, and one token recorded: each chunk had said one."""
    reading = reading_for("generic", **ASKED)
    steps = [chunk("a", used(10, 1)) for _ in range(6)]
    found = outputs(reading, *steps, chunk("", used(10, 1), finish="stop"), DONE)
    assert found[:6] == [1, 1, 3, 4, 5, 6]
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=6), False)


def test_a_token_whose_text_comes_in_two_events_is_one():
    reading = reading_for("generic", **ASKED)
    steps = [chunk("a", used(10, 1)), chunk("b", used(10, 1)), chunk("c", used(10, 2))]
    found = outputs(reading, *steps, chunk("", used(10, 2), finish="stop"), DONE)
    assert found[:3] == [1, 1, 2]
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=2), True)


def test_tensorrt_llm_counts_each_choice():
    """`completion_tokens` on a chunk is `output.length` of its choice, in the final one the sum."""
    reading = reading_for("tensorrt_llm", n=2)
    steps = chunk("a", used(10, 1)), chunk("b", used(10, 2), index=1), chunk("c", used(10, 3))
    assert outputs(reading, *steps, total(10, 6), DONE) == [1, 3, 5, 6, 6]
    assert (reading.mark, reading.exact) == (Mark(prompt=10, completion=6), True)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt_llm"])
def test_of_several_prompts_each_counts_once(engine):
    reading = reading_for(engine, Route.COMPLETIONS, prompt=["a", "b"], n=2)
    # Choices 0 and 1 answer the first prompt, 2 and 3 the second.
    reading.feed(written("x", used(10, 1)))
    reading.feed(written("x", used(10, 2), index=1))
    assert reading.passed == Mark(prompt=10, completion=3)
    reading.feed(written("x", used(20, 1), index=3))
    assert (reading.passed, reading.exact) == (Mark(prompt=30, completion=4), False)


def test_totals_of_several_prompts_are_added():
    """TensorRT-LLM sends one behind each prompt; only all of them are the answer's."""
    reading = reading_for("tensorrt_llm", Route.COMPLETIONS, prompt=[[1, 2], [3]])
    reading.feed(written("x", used(10, 1)) + total(10, 1))
    assert not reading.exact
    reading.feed(written("x", used(20, 2), index=1) + total(20, 2, prompt_tokens_details=None))
    assert (reading.mark, reading.exact) == (Mark(prompt=30, completion=3), True)


@pytest.mark.parametrize(("engine", "usage"), [("generic", None), ("vllm", used(10, 0))])
def test_an_echo_of_the_prompt_is_no_output(engine, usage):
    reading = reading_for(engine, Route.COMPLETIONS, prompt="abc", echo=True)
    reading.feed(written("abc", usage))
    assert reading.passed == Mark(prompt=10 if usage else FLOOR)
    reading.feed(written("d", usage and used(10, 1)))
    assert reading.passed.completion == 1


def test_sound_is_content():
    reading = reading_for("openai")
    reading.feed(event({"choices": [{"index": 0, "delta": {"audio": {"data": "UklG"}}}]}))
    assert reading.passed == Mark(prompt=FLOOR, completion=1)


@pytest.mark.parametrize("none", [False, 0, None, {}, ""])
def test_no_error_is_no_error(none):
    """Some gateways say on every chunk that there is none."""
    reading = reading_for("generic")
    text = json.loads(chunk("a")[6:]) | {"error": none}
    assert reading.feed(event(text)) == event(text)
    assert (reading.ending, reading.passed.completion) == (None, 1)


@pytest.mark.parametrize("engine", ["vllm", "generic"])
@pytest.mark.parametrize("mark", [b"data: [DONE] \n\n", b"data:[DONE]\ndata:\n\n"])
def test_the_end_mark_is_what_clients_take_for_it(engine, mark):
    """They look how the data begins."""
    reading = reading_for(engine)
    assert reading.feed(chunk("a") + mark) == chunk("a")
    assert (reading.ending, reading.held()) == (Ending.DONE, mark)


def test_a_byte_order_mark_hides_no_event():
    reading = reading_for("generic")
    reading.feed(b"\xef\xbb\xbf" + chunk("a"))
    assert reading.passed.completion == 1


@pytest.mark.parametrize(
    ("before", "behind"),
    [({}, {"id": "c"}), ({"id": "c"}, {}), ({"id": "c"}, {"model": "m"}), ({}, {})],
)
def test_only_the_usage_is_cut_and_every_other_byte_is_kept(before, behind):
    bare = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    asked = event(before | {"usage": used(1, 1)} | behind | bare, spaced=True)
    assert reading_for("vllm").feed(asked) == event(before | behind | bare, spaced=True)
    last = event(bare | before | {"usage": None} | behind, spaced=True)[:-2] + b" \n\n"
    shown = event(bare | before | behind, spaced=True)[:-2] + b" \n\n"
    assert reading_for("generic").feed(last) == shown


def test_usage_that_nobody_asked_for_is_the_engines_own_to_send():
    """Nothing was added to the request, so a direct call gets the same bytes."""
    finish = chunk("", used(3, 1), finish="stop")
    plain = engine_named("sglang").unasked
    request = read_request(b'{"model":"m","stream":true}', Route.CHAT_COMPLETIONS)
    refused = stream_reading(Route.CHAT_COMPLETIONS, plain, request, prompt_floor=0)
    for reading in (reading_for("transformers"), refused):
        got = reading.feed(chunk("a") + finish) + reading.finish() + reading.held()
        assert got == chunk("a") + finish
        assert (reading.mark, reading.exact) == (Mark(prompt=3, completion=1), True)
