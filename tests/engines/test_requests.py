"""Requests as engines get them."""

from __future__ import annotations

import json

import pytest

from billing.admission.route import Dialect, Route
from billing.engines.capabilities import ENGINE_NAMES, engine_named
from billing.engines.engine_request import upstream_body
from billing.engines.read_request import read_request
from billing.engines.request_members import OPENAI_MEMBERS, OPERATOR_CONTROLLED
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import ConfigurationError, InvalidInput

CHAT = Route.CHAT_COMPLETIONS


def sent(body: object, engine: str = "vllm", model: str | None = None, route: Route = CHAT):
    text = json.dumps(body).encode()
    return upstream_body(read_request(text, route), engine_named(engine), upstream_model=model)


def test_reads_what_metering_needs():
    body = {"model": "m", "stream": True, "max_tokens": 5, "max_completion_tokens": 3, "n": 2}
    request = read_request(json.dumps(body).encode(), CHAT)
    assert (request.model, request.stream, request.max_tokens, request.choices) == ("m", True, 3, 2)
    assert not request.wants_usage


@pytest.mark.parametrize("null", ["stream", "stream_options", "max_tokens", "n"])
def test_null_is_absent(null):
    request = read_request(json.dumps({"model": "m", null: None}).encode(), CHAT)
    assert (request.stream, request.max_tokens, request.choices) == (False, None, 1)


@pytest.mark.parametrize(
    ("engine", "added"),
    [
        ("vllm", {"include_usage": True, "continuous_usage_stats": True}),
        ("sglang", {"include_usage": True, "continuous_usage_stats": True}),
        ("llama_cpp", {"include_usage": True}),
        ("generic", {"include_usage": True}),
        ("transformers", None),
    ],
)
def test_a_stream_is_asked_for_usage_as_its_engine_can(engine, added):
    got = json.loads(sent({"model": "m", "stream": True}, engine))
    assert got.get("stream_options") == added


def test_client_options_are_kept_and_overridden():
    options = {"include_usage": False, "include_obfuscation": False}
    got = json.loads(sent({"model": "m", "stream": True, "stream_options": options}, "openai"))
    assert got["stream_options"] == {"include_usage": True, "include_obfuscation": False}


def test_whole_answers_are_not_asked_with_stream_options():
    assert sent({"model": "m"}) == b'{"model": "m"}'
    assert sent({"model": "m", "stream": False}) == b'{"model": "m", "stream": false}'


def test_equal_names_of_a_model_are_not_spliced():
    assert sent({"model": "m"}, model="m") == b'{"model": "m"}'
    assert sent({"model": "m"}, model='o/"q"') == b'{"model": "o/\\"q\\""}'


@pytest.mark.parametrize("name", sorted(OPERATOR_CONTROLLED))
def test_operator_members_never_pass(name):
    for engine in ENGINE_NAMES:
        if Dialect.CHUNKS not in engine_named(engine).dialects:
            continue
        assert sent({"model": "m", name: 1, "seed": 2}, engine) == b'{"model": "m","seed": 2}'


def test_operator_members_are_on_no_list():
    for engine in ENGINE_NAMES:
        assert not engine_named(engine).request_members & OPERATOR_CONTROLLED
    for members in OPENAI_MEMBERS.values():
        assert not members & OPERATOR_CONTROLLED


def test_unknown_members_are_refused_and_named():
    with pytest.raises(UnsupportedParameter) as refused:
        sent({"model": "m", "new_thing": "secret"})
    assert (refused.value.code, refused.value.field) == ("unsupported_parameter", "new_thing")
    assert "secret" not in str(refused.value)


def test_engines_differ_in_what_they_take():
    assert b"top_k" in sent({"model": "m", "top_k": 1}, "vllm")
    with pytest.raises(UnsupportedParameter):
        sent({"model": "m", "top_k": 1}, "transformers")
    with pytest.raises(UnsupportedParameter):
        sent({"model": "m", "stream": True, "input": "x"}, route=Route.EMBEDDINGS)


def test_documented_members_of_the_official_client_are_all_known():
    from typing import get_type_hints

    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_params

    for route, parameters in (
        (CHAT, chat_params.CompletionCreateParamsBase),
        (Route.COMPLETIONS, completion_create_params.CompletionCreateParamsBase),
        (Route.EMBEDDINGS, embedding_create_params.EmbeddingCreateParams),
    ):
        assert set(get_type_hints(parameters)) <= OPENAI_MEMBERS[route], route


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": None}, "model"),
        ({"model": "m", "stream": 1}, "stream"),
        ({"model": "m", "n": 1.5}, "n"),
        ({"model": "m", "n": True}, "n"),
        ({"model": "m", "max_tokens": "5"}, "max_tokens"),
        ({"model": "m", "stream_options": "x"}, "stream_options"),
    ],
)
def test_wrong_types_name_the_field(body, field):
    with pytest.raises(InvalidInput) as refused:
        read_request(json.dumps(body).encode(), CHAT)
    assert refused.value.field == field


def test_unknown_engine_is_a_configuration_error():
    with pytest.raises(ConfigurationError):
        engine_named("abacus")
