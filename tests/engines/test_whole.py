"""What complete answers cost, route by route."""

from __future__ import annotations

import json
from typing import Any

import pytest

from billing.admission.route import BodyForm, Route
from billing.engines.capabilities import engine_named
from billing.engines.read_request import InferenceRequest, read_request
from billing.engines.whole_answer import Reading, read_whole
from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nx\r\n--b--'
)
NEEDED: dict[Route, dict[str, Any]] = {
    Route.MESSAGES: {"max_tokens": 50},
    Route.RERANK: {"query": "q", "documents": ["d"]},
    Route.SPEECH: {"input": "x"},
}


def asking(route: Route, **asked: Any) -> InferenceRequest:
    if route.spec.body is BodyForm.MULTIPART:
        return read_request(FORM, route, b"multipart/form-data; boundary=b")
    members = {"model": "m", **NEEDED.get(route, {}), **asked}
    return read_request(json.dumps(members).encode(), route)


def read(route: Route, answer: Any, *, floor: int = 0, engine: str = "vllm", **asked: Any):
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    request = asking(route, **asked)
    return read_whole(
        body, route=route, engine=engine_named(engine), request=request, prompt_floor=floor
    )


@pytest.mark.parametrize("route", [Route.CHAT_COMPLETIONS, Route.COMPLETIONS])
def test_generated_text(route):
    reading = read(route, {"choices": [], "usage": USAGE})
    assert reading == Reading(counts=TokenCounts(input=9, output=4), raw=USAGE, exact=True)


def test_embeddings():
    reading = read(Route.EMBEDDINGS, {"data": [], "usage": {"prompt_tokens": 9}})
    assert (reading.counts, reading.exact) == (TokenCounts(input=9), True)


def test_a_response_keeps_its_id():
    usage = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    for status in ("completed", "incomplete", "failed"):
        answer = {"id": "resp_1", "status": status, "usage": usage}
        reading = read(Route.RESPONSES, answer)
        assert (reading.counts, reading.exact) == (TokenCounts(input=9, output=4), True)
        assert reading.object_ids == ("resp_1",)
    assert not read(Route.RESPONSES, {"id": "resp_1", "usage": None}).exact


def test_a_message():
    usage = {"input_tokens": 9, "cache_read_input_tokens": 30, "output_tokens": 4}
    reading = read(Route.MESSAGES, {"type": "message", "usage": usage})
    assert reading.counts == TokenCounts(input=9, cached_input=30, output=4)
    assert (reading.exact, reading.raw) == (True, usage)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"Internal Server Error", b'{"detail":"Not Found"}', b"[]", b'{"usage":null}'],
)
@pytest.mark.parametrize(
    "route", [Route.CHAT_COMPLETIONS, Route.RESPONSES, Route.MESSAGES, Route.EMBEDDINGS]
)
def test_no_usage_is_flagged_and_costs_nothing(route, body):
    reading = read(route, body, floor=5)
    assert (reading.counts, reading.exact) == (TokenCounts(), False)
    assert reading.anomalies == ("usage_missing",)


def test_usage_that_counts_nothing_is_seen():
    zero = {"prompt_tokens": 0, "completion_tokens": 0}
    assert read(Route.CHAT_COMPLETIONS, {"usage": zero}).anomalies == ("usage_zero",)
    assert read(Route.CHAT_COMPLETIONS, {"usage": 5}).anomalies == ("usage_unreadable",)


WORD = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
LAST = b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(USAGE).encode()
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\r\n",
        b": ping\n\n",
        b": a\r\n\r\n: b\n\n",
        b"id: 1\n",
        b"retry: 9\n",
        b"\xef\xbb\xbf",
    ],
)
def test_a_stream_sent_as_json_is_billed(before):
    reading = read(Route.CHAT_COMPLETIONS, before + WORD * 2 + LAST + DONE, stream=True)
    assert (reading.counts, reading.exact) == (TokenCounts(input=9, output=4), True)
    assert reading.shown == before + WORD * 2 + DONE
    assert reading.raw == USAGE


def test_a_stream_sent_as_json_without_usage_is_a_lower_bound():
    reading = read(Route.CHAT_COMPLETIONS, WORD * 2 + DONE, floor=3)
    assert (reading.counts, reading.exact) == (TokenCounts(input=3, output=2), False)
    assert reading.anomalies == ("usage_missing",)
    assert reading.shown is None


def test_named_events_sent_as_json_are_billed():
    text = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
        b'{"input_tokens":7}}}\n\nevent: message_delta\ndata: {"type":"message_delta","usage":'
        b'{"output_tokens":3}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    reading = read(Route.MESSAGES, text, stream=True)
    assert (reading.counts, reading.exact) == (TokenCounts(input=7, output=3), True)
    assert reading.shown == text


@pytest.mark.parametrize(
    ("answer", "tokens", "searches", "exact", "anomalies"),
    [
        ({"usage": {"total_tokens": 9}}, 9, 1, True, ()),
        ({"usage": {"prompt_tokens": 9, "total_tokens": 9}}, 9, 1, True, ()),
        ({"meta": {"billed_units": {"input_tokens": 9}}}, 9, 1, True, ()),
        ({"meta": {"tokens": {"input_tokens": 9, "output_tokens": 0}}}, 9, 1, True, ()),
        ({"meta": {"billed_units": {"search_units": 3}}}, 0, 3, True, ()),
        ({"meta": {"billed_units": {"search_units": 2, "input_tokens": 5}}}, 5, 2, True, ()),
        ({"usage": {"total_tokens": 0}}, 0, 1, True, ("usage_zero",)),
        ({}, 0, 1, False, ("usage_missing",)),
        (
            {"usage": {"total_tokens": "x", "prompt_tokens": "x"}},
            0,
            1,
            False,
            ("usage_unreadable",),
        ),
    ],
)
def test_rankings(answer, tokens, searches, exact, anomalies):
    reading = read(Route.RERANK, {"results": [], **answer})
    assert reading.counts == TokenCounts(input=tokens)
    assert reading.units == {UnitMeter.SEARCHES: searches}
    assert (reading.exact, reading.anomalies) == (exact, anomalies)


@pytest.mark.parametrize(
    ("answer", "length_ms"),
    [
        (b'{"text":"x","usage":{"type":"duration","seconds":12}}', 12_000),
        (b'{"usage":{"type":"duration","seconds":0.0001}}', 1),
        (b'{"usage":{"type":"duration","seconds":3.1400000000000001}}', 3_141),
        (b'{"usage":{"seconds":"2.5"}}', 2_500),
        (b'{"duration":8.47,"segments":[]}', 8_470),
    ],
)
def test_the_length_of_the_sound_is_rounded_up(answer, length_ms):
    reading = read(Route.TRANSCRIPTIONS, answer)
    assert reading.units == {UnitMeter.AUDIO_MS: length_ms}
    assert (reading.counts, reading.exact) == (TokenCounts(), True)


def test_transcripts_in_tokens():
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    reading = read(Route.TRANSCRIPTIONS, {"text": "x", "usage": usage})
    assert (reading.counts, reading.units) == (TokenCounts(input=14, output=45), {})
    assert reading.exact


@pytest.mark.parametrize(
    ("answer", "anomaly"),
    [
        (b"1\n00:00 --> 00:01\nhello", "usage_missing"),
        (b'{"text":"x"}', "usage_missing"),
        (b'{"usage":{"type":"duration","seconds":-1}}', "usage_unreadable"),
        (b'{"usage":{"type":"duration","seconds":1e300}}', "usage_unreadable"),
    ],
)
def test_transcripts_that_say_no_length_are_flagged(answer, anomaly):
    reading = read(Route.TRANSLATIONS, answer)
    assert (reading.counts, reading.units) == (TokenCounts(), {})
    assert (reading.exact, reading.anomalies) == (False, (anomaly,))


def test_speech_costs_what_was_asked_to_be_spoken():
    reading = read(Route.SPEECH, b"\x00\xffbinary", input="grüß dich 👋")
    assert reading.units == {UnitMeter.CHARACTERS: 11}
    assert reading.exact


def test_pictures_are_counted_in_the_answer():
    reading = read(Route.IMAGES, {"data": [{"url": "x"}, {"b64_json": "y"}]}, prompt="p")
    assert (reading.units, reading.exact) == ({UnitMeter.IMAGES: 2}, True)
    usage = {"input_tokens": 5, "output_tokens": 40, "total_tokens": 45}
    reading = read(Route.IMAGES, {"data": [{}], "usage": usage}, prompt="p")
    assert reading.units == {UnitMeter.IMAGES: 1}
    assert reading.counts == TokenCounts(input=5, output=40)
    assert not read(Route.IMAGES, {"error": "x"}, prompt="p").exact


@pytest.mark.parametrize("route", [route for route in Route if route is not Route.COUNT_TOKENS])
@pytest.mark.parametrize("error", [{"message": "no", "code": 502}, "no"])
def test_an_error_that_says_it_is_an_answer_is_a_refusal(route, error):
    assert read(route, {"error": error, "user_id": "u"}).refused
    assert read(route, {"error": error, "id": None, "choices": [], "usage": None}).refused


def test_what_was_counted_or_has_an_id_is_no_refusal():
    failed = {"id": "resp_1", "status": "failed", "error": {"message": "no"}, "usage": None}
    assert not read(Route.RESPONSES, failed).refused
    assert not read(Route.CHAT_COMPLETIONS, {"error": "no", "usage": USAGE}).refused
    for none in (None, 0, [], "", False):
        assert not read(Route.CHAT_COMPLETIONS, {"error": none}).refused
    for route, said in (
        (Route.EMBEDDINGS, "data"),
        (Route.RERANK, "results"),
        (Route.IMAGES, "data"),
    ):
        assert not read(route, {"error": "one failed", said: [{"index": 0}]}).refused
    assert not read(Route.TRANSCRIPTIONS, {"error": "no times", "text": "hello"}).refused
    assert not read(Route.CHAT_COMPLETIONS, b"{").refused
    assert not read(Route.SPEECH, b"ID3{").refused
