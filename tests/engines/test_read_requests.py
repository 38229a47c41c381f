"""What metering reads of each route's requests, and what it refuses to pass unread."""

from __future__ import annotations

import json
from typing import get_type_hints

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import image_generate_params
from openai.types.audio import (
    speech_create_params,
    transcription_create_params,
    translation_create_params,
)
from openai.types.responses import response_create_params

from billing.admission.route import Route
from billing.engines.audio_request import FIELDS
from billing.engines.capabilities import engine_named
from billing.engines.engine_request import upstream_body
from billing.engines.messages_request import passed_betas
from billing.engines.read_request import RunIds, read_request
from billing.engines.request_members import OPENAI_MEMBERS
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import InvalidInput, NotFound
from billing.metering.unit_meter import UnitMeter
from tests.engines.test_multipart import TYPE, Field, body_of

MESSAGE = {"model": "m", "max_tokens": 5, "messages": []}


def read(route: Route, **members: object):
    return read_request(json.dumps({"model": "m", **members}).encode(), route)


@pytest.mark.parametrize(
    ("route", "parameters"),
    [
        (Route.MESSAGES, message_create_params.MessageCreateParamsBase),
        (Route.COUNT_TOKENS, message_count_tokens_params.MessageCountTokensParams),
        (Route.RESPONSES, response_create_params.ResponseCreateParamsBase),
        (Route.SPEECH, speech_create_params.SpeechCreateParams),
        (Route.IMAGES, image_generate_params.ImageGenerateParamsBase),
    ],
)
def test_documented_members_of_the_official_clients_are_all_known(route, parameters):
    assert set(get_type_hints(parameters)) <= OPENAI_MEMBERS[route]


def test_documented_fields_of_forms_are_all_known():
    for parameters in (
        transcription_create_params.TranscriptionCreateParamsBase,
        translation_create_params.TranslationCreateParams,
    ):
        assert set(get_type_hints(parameters)) <= FIELDS


@pytest.mark.parametrize(
    ("route", "member"),
    [
        (Route.CHAT_COMPLETIONS, "max_completion_tokens"),
        (Route.CHAT_COMPLETIONS, "max_tokens"),
        (Route.COMPLETIONS, "max_tokens"),
        (Route.RESPONSES, "max_output_tokens"),
        (Route.MESSAGES, "max_tokens"),
    ],
)
def test_the_bound_on_output_is_read_by_its_name(route, member):
    assert read(route, **{"max_tokens": 9, member: 7}).max_tokens == 7


def test_messages_need_a_bound_and_counts_of_them_do_not():
    with pytest.raises(InvalidInput) as refused:
        read(Route.MESSAGES, messages=[])
    assert refused.value.field == "max_tokens"
    assert read(Route.COUNT_TOKENS, messages=[]).max_tokens is None
    assert not read(Route.COUNT_TOKENS, messages=[], stream=True).stream
    assert read(Route.MESSAGES, max_tokens=1, messages=[], stream=True).stream


@pytest.mark.parametrize(
    ("route", "members", "field"),
    [
        (Route.RESPONSES, {"background": True}, "background"),
        (Route.RESPONSES, {"conversation": "conv_1"}, "conversation"),
        (Route.RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        (Route.RESPONSES, {"tools": [{"type": "web_search"}]}, "tools"),
        (Route.RESPONSES, {"tools": [{"type": "file_search", "x": 1}]}, "tools"),
        (Route.RESPONSES, {"tools": [{"type": "functional"}]}, "tools"),
        (Route.MESSAGES, {"max_tokens": 1, "container": "c"}, "container"),
        (Route.MESSAGES, {"max_tokens": 1, "tools": [{"type": "web_search_20250305"}]}, "tools"),
        (Route.COUNT_TOKENS, {"tools": [{"type": "code_execution_20250522"}]}, "tools"),
        (Route.IMAGES, {"stream": True}, "stream"),
        (Route.SPEECH, {"input": "x", "stream_format": "sse"}, "stream_format"),
    ],
)
def test_what_would_run_or_stay_unwatched_is_refused(route, members, field):
    with pytest.raises(UnsupportedParameter) as refused:
        read(route, **members)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("route", "members"),
    [
        (Route.RESPONSES, {"background": False, "conversation": None, "prompt": None}),
        (Route.RESPONSES, {"tools": [{"type": "function", "name": "f"}, {"type": "custom"}]}),
        (Route.MESSAGES, {"max_tokens": 1, "tools": [{"name": "f"}, {"type": "bash_20250124"}]}),
        (Route.IMAGES, {"stream": False, "prompt": "p"}),
        (Route.SPEECH, {"input": "x", "stream_format": "audio"}),
    ],
)
def test_what_the_client_runs_itself_passes(route, members):
    assert read(route, **members).model == "m"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"type": None, "id": "msg_1"},
        {"type": "item_reference", "role": "user", "id": "rs_1"},
    ],
)
def test_items_that_a_backend_keeps_are_not_found(item):
    with pytest.raises(NotFound) as refused:
        read(Route.RESPONSES, input=[{"role": "user", "content": "x"}, item])
    assert "msg_1" not in str(refused.value)


def test_stored_objects_are_named():
    parts = [{"type": "input_file", "file_id": "file-1"}, {"type": "input_image", "file_id": None}]
    request = read(
        Route.RESPONSES,
        previous_response_id="resp_1",
        store=False,
        input=[{"role": "user", "content": parts}, {"type": "reasoning", "id": "rs_1"}],
    )
    assert request.references.previous_response_id == "resp_1"
    assert request.references.file_ids == ("file-1",)
    assert request.references.store is False
    deep = {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-2"}}]}
    assert read(Route.CHAT_COMPLETIONS, messages=[deep]).references.file_ids == ("file-2",)
    source = {"type": "document", "source": {"type": "file", "file_id": "file-3"}}
    messages = [{"role": "user", "content": [source]}]
    found = read(Route.MESSAGES, max_tokens=1, messages=messages).references
    assert found.file_ids == ("file-3",)


def test_a_file_id_cannot_be_hidden_behind_escapes():
    body = b'{"model":"m","messages":[{"role":"user","content":[{"f\\u0069le_id":"file-4"}]}]}'
    assert read_request(body, Route.CHAT_COMPLETIONS).references.file_ids == ("file-4",)


def test_text_about_file_ids_is_no_file_id():
    messages = [{"role": "user", "content": 'what is {"file_id": "file-5"} ü?'}]
    assert read(Route.CHAT_COMPLETIONS, messages=messages).references.file_ids == ()


@pytest.mark.parametrize("given", [7, [7], {"a": 1}])
def test_file_ids_of_other_types_are_refused(given):
    with pytest.raises(InvalidInput):
        read(Route.CHAT_COMPLETIONS, messages=[{"file_id": given}])


def test_what_an_answer_can_cost_beside_tokens():
    assert read(Route.SPEECH, input="ü\U0001f600a").most_units == {UnitMeter.CHARACTERS: 3}
    assert read(Route.SPEECH, input="ab").characters == 2
    assert read(Route.IMAGES, prompt="p", n=4).most_units == {UnitMeter.IMAGES: 4}
    assert read(Route.IMAGES, prompt="p").most_units == {UnitMeter.IMAGES: 1}
    few = read(Route.RERANK, query="q", documents=["d"] * 3)
    assert few.most_units == {UnitMeter.SEARCHES: 1}
    many = read(Route.RERANK, query="q", documents=["d" * 1_000] * 100)
    assert many.most_units[UnitMeter.SEARCHES] >= 3
    assert read(Route.CHAT_COMPLETIONS, messages=[]).most_units == {}


@pytest.mark.parametrize(
    ("route", "members", "field"),
    [
        (Route.RERANK, {"documents": []}, "query"),
        (Route.RERANK, {"query": "q"}, "documents"),
        (Route.RERANK, {"query": "q", "documents": "d"}, "documents"),
        (Route.SPEECH, {}, "input"),
        (Route.SPEECH, {"input": ["x"]}, "input"),
        (Route.IMAGES, {"n": 0}, "n"),
        (Route.RESPONSES, {"input": [1]}, "input"),
        (Route.RESPONSES, {"tools": "x"}, "tools"),
        (Route.RESPONSES, {"previous_response_id": 1}, "previous_response_id"),
    ],
)
def test_wrong_types_name_the_field(route, members, field):
    with pytest.raises(InvalidInput) as refused:
        read(route, **members)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("metadata", "ids"),
    [
        ({"run_id": "r", "step_id": "s", "agent_id": "a"}, RunIds("r", "s", "a")),
        ({"run_id": "r", "other": "x"}, RunIds("r")),
        ({"run_id": 5}, RunIds()),
        ("text", RunIds()),
        (None, RunIds()),
    ],
)
def test_ids_of_runs_in_metadata(metadata, ids):
    assert read(Route.CHAT_COMPLETIONS, metadata=metadata).run == ids


def test_bytes_and_media_of_the_prompt():
    messages = [{"role": "user", "content": 'say "image_url" ü'}]
    request = read(Route.CHAT_COMPLETIONS, messages=messages, seed=3)
    assert request.prompt_bytes == len(json.dumps(messages))
    assert request.media_parts == 0
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [{"role": "user", "content": [picture, picture]}]
    assert read(Route.CHAT_COMPLETIONS, messages=messages).media_parts >= 2
    both = read(Route.MESSAGES, max_tokens=1, system="abc", messages=[])
    assert both.prompt_bytes == len('"abc"') + len("[]")


def audio(*fields: Field, model: str | None = None, engine: str = "vllm") -> bytes:
    request = read_request(body_of(list(fields)), Route.TRANSCRIPTIONS, TYPE)
    return upstream_body(request, engine_named(engine), upstream_model=model)


SOUND = Field("file", b"RIFF\r\n\0" * 3, "a.wav")
MODEL = Field("model", b"m")


def test_forms_pass_byte_for_byte_but_for_the_model():
    lists = Field("timestamp_granularities[]", b"word")
    assert audio(MODEL, SOUND, lists, lists) == body_of([MODEL, SOUND, lists, lists])
    seeded = Field("seed", b"1")
    assert audio(MODEL, SOUND, seeded) == body_of([MODEL, SOUND, seeded])
    with pytest.raises(UnsupportedParameter):
        audio(MODEL, SOUND, seeded, engine="openai")
    assert audio(SOUND, MODEL, model="m") == body_of([SOUND, MODEL])
    assert audio(SOUND, MODEL, model="up/name") == body_of([SOUND, Field("model", b"up/name")])


def test_forms_are_read():
    request = read_request(
        body_of([SOUND, MODEL, Field("prompt", b"abc")]), Route.TRANSLATIONS, TYPE
    )
    assert (request.model, request.stream, request.prompt_bytes) == ("m", False, 3)
    assert request.content_type == TYPE
    assert request.most_units[UnitMeter.AUDIO_MS] > 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ([SOUND], "model"),
        ([MODEL], "file"),
        ([MODEL, Field("file", b"text")], "file"),
        ([MODEL, SOUND, Field("stream", b"true")], "stream"),
        ([MODEL, SOUND, Field("response_format", b"srt")], "response_format"),
        ([MODEL, SOUND, Field("response_format", b"text")], "response_format"),
        ([MODEL, SOUND, Field("vllm_xargs", b"{}")], "vllm_xargs"),
        ([MODEL, SOUND, Field("new[]", b"x")], "new[]"),
    ],
)
def test_forms_that_cannot_be_metered_are_refused(fields, field):
    with pytest.raises(InvalidInput) as refused:
        audio(*fields)
    assert refused.value.field == field


def test_no_beta_passes_unjudged():
    assert passed_betas([]) is None
    assert passed_betas([b"context-1m-2025-08-07, code-execution-2025-05-22"]) is None


@pytest.mark.parametrize(
    ("asked", "tier"),
    [
        ("flex", "flex"),
        ("priority", "priority"),
        ("scale", "scale"),
        # A batch is one by how it was sent; any other word is the default of whoever knows it.
        *((word, "") for word in ("default", "auto", "batch", "", "my own words", "Flex", None)),
    ],
)
@pytest.mark.parametrize("route", [Route.CHAT_COMPLETIONS, Route.RESPONSES])
def test_P1_a_service_tier_is_one_of_a_closed_list(route, asked, tier):
    assert read(route, messages=[], service_tier=asked).service_tier == tier
    assert not read(route, messages=[]).service_tier


def test_a_service_tier_that_is_no_text_is_refused():
    with pytest.raises(InvalidInput) as refused:
        read(Route.CHAT_COMPLETIONS, messages=[], service_tier=5)
    assert refused.value.field == "service_tier"
