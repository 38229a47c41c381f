"""What only the operator may decide about a request, and what never reaches an engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.route import Dialect, Route
from billing.engines.capabilities import ENGINE_NAMES, ENGINES, engine_named
from billing.engines.engine_request import tenant_cache_salt, upstream_body, without_injection
from billing.engines.read_request import read_request
from billing.engines.unsupported import UnsupportedParameter
from tests.strategies import PATIENT

CHAT = Route.CHAT_COMPLETIONS
HOSTS = frozenset({"media.example.com"})


def sent(body: object, engine: str = "vllm", *, route: Route = CHAT, **more: Any) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = read_request(text, route)
    return upstream_body(request, engine_named(engine), upstream_model=None, **more)


def asking(*parts: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}


SALTED = [name for name, engine in ENGINES.items() if engine.cache_salt]


@pytest.mark.parametrize("engine", [name for name in ENGINE_NAMES if name != "anthropic"])
@pytest.mark.parametrize("name", ["priority", "nvext", "cache_salt", "kv_transfer_params"])
def test_a_clients_own_is_cut_out_whatever_the_engine(engine, name):
    assert json.loads(sent({"model": "m", name: "x"}, engine)) == {"model": "m"}


@pytest.mark.parametrize("engine", SALTED)
@pytest.mark.parametrize("own", [{}, {"cache_salt": "stolen"}, {"priority": 1}])
def test_the_tenants_salt_takes_the_place_of_a_clients(engine, own):
    got = json.loads(sent({"model": "m", **own}, engine, cache_salt=tenant_cache_salt(7)))
    assert got == {"model": "m", "cache_salt": tenant_cache_salt(7)}


def test_salts_are_equal_everywhere_and_differ_between_tenants():
    assert tenant_cache_salt(7) == "6XN8rpmqbZFKG99cXCxSeE"
    assert len({tenant_cache_salt(tenant) for tenant in range(1_000)}) == 1_000
    assert all(len(tenant_cache_salt(tenant)) == 22 for tenant in range(50))


def test_salt_goes_nowhere_where_nobody_takes_it():
    salt = tenant_cache_salt(7)
    for engine in sorted(set(ENGINE_NAMES) - set(SALTED) - {"anthropic"}):
        assert b"salt" not in sent({"model": "m"}, engine, cache_salt=salt)
    embed = {"model": "m", "input": "x"}
    assert b"salt" not in sent(embed, route=Route.EMBEDDINGS, cache_salt=salt)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "image_url", "image_url": {"url": "http://10.0.0.5/x"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": "https://evil.example/x"}, ".image_url"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, ".image_url.url"),
        ({"type": "video_url", "video_url": {"url": "ftp://h/x"}}, ".video_url.url"),
        ({"type": "audio_url", "audio_url": {"url": "//h/x"}}, ".audio_url.url"),
        ({"type": "input_audio", "input_audio": {"url": "http://h/x"}}, ".input_audio.url"),
        ({"type": "file", "file": {"file_url": "http://h/x"}}, ".file.file_url"),
        ({"type": "image", "url": "http://h/x"}, ".url"),
    ],
)
def test_media_come_with_the_request_or_not_at_all(part, field):
    with pytest.raises(UnsupportedParameter) as refused:
        sent(asking({"type": "text", "text": "x"}, part))
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.field == f"messages[0].content[1]{field}"
    assert "10.0.0.5" not in str(refused.value)
    assert "passwd" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://media.example.com.evil.example/x",
        "https://user@media.example.com/x",
        "https://evil.example\\@media.example.com/x",
        "https://evil.example#@media.example.com",
        "https://media.example.com\t.evil.example/",
        "https:media.example.com/x",
        "https:///media.example.com/x",
        "//media.example.com/x",
        "HTTPS://[::1]/x",
        "https://media.example.com/a b",
        "file://media.example.com/x",
        " https://media.example.com/x",
    ],
)
def test_no_disguise_is_taken_for_an_allowed_host(address):
    with pytest.raises(UnsupportedParameter):
        sent(asking({"type": "image_url", "image_url": {"url": address}}), media_hosts=HOSTS)


@pytest.mark.parametrize(
    "address",
    [
        "data:image/png;base64,AAAA",
        "DATA:image/png;base64,AAAA",
        "https://media.example.com/x.png?a=1#b",
        "http://Media.Example.com:8080/x",
        "https://media.example.com",
    ],
)
def test_data_and_allowed_hosts_pass_unchanged(address):
    body = asking({"type": "image_url", "image_url": {"url": address}})
    assert sent(body, media_hosts=HOSTS) == json.dumps(body).encode()


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        (
            Route.RESPONSES,
            {"input": [{"content": [{"type": "input_image", "image_url": "http://h/x"}]}]},
            "input[0].content[0].image_url",
        ),
        (
            Route.RESPONSES,
            {"input": [{"content": [{"type": "input_file", "file_url": "http://h/x"}]}]},
            "input[0].content[0].file_url",
        ),
        (
            Route.RESPONSES,
            {"input": [{"type": "computer_call_output", "output": {"image_url": "http://h/x"}}]},
            "input[0].output.image_url",
        ),
        (
            Route.MESSAGES,
            {"messages": [{"content": [{"source": {"type": "url", "url": "http://h/x"}}]}]},
            "messages[0].content[0].source.url",
        ),
        (
            Route.MESSAGES,
            {
                "messages": [
                    {
                        "content": [
                            {
                                "type": "tool_result",
                                "content": [{"source": {"type": "url", "url": "http://h/x"}}],
                            }
                        ]
                    }
                ]
            },
            "messages[0].content[0].content[0].source.url",
        ),
    ],
)
def test_every_protocols_media_are_found(route, body, field):
    bound = {"max_tokens": 5} if route is Route.MESSAGES else {}
    with pytest.raises(UnsupportedParameter) as refused:
        sent({"model": "m", **bound, **body}, route=route)
    assert refused.value.field == field


def test_addresses_in_prose_arguments_and_schemas_are_no_media():
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": 'fetch "url": http://h/x, see {"image_url": 1}'},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "input": {"url": "http://h/x"}}],
                "tool_calls": [{"function": {"arguments": '{"url":"http://h/x"}'}}],
            },
        ],
        "tools": [{"function": {"parameters": {"properties": {"url": {"type": "string"}}}}}],
    }
    assert sent(body) == json.dumps(body).encode()


def test_a_member_whose_name_is_escaped_is_found():
    body = (
        b'{"model":"m","messages":[{"content":[{"\\u0069mage_url":'
        b'{"\\u0075rl":"http:\\/\\/h\\/x"}}]}]}'
    )
    assert b'url"' not in body.replace(b'_url"', b"")
    with pytest.raises(UnsupportedParameter):
        sent(body)


def test_names_without_url_matter_where_the_engine_takes_them():
    body = asking({"type": "image", "image": "/etc/passwd"})
    for engine in ("transformers", "generic"):
        with pytest.raises(UnsupportedParameter):
            sent(body, engine)
    assert sent(body, "vllm") == json.dumps(body).encode()


parts = st.recursive(
    st.sampled_from([{"text": "x"}, {"image_url": {"url": "data:x"}}]),
    lambda inner: st.lists(inner, max_size=3).map(lambda nested: {"content": nested}),
    max_leaves=6,
)


@PATIENT
@given(st.lists(parts, max_size=4), st.data())
def test_one_address_anywhere_in_the_content_is_enough(content, data):
    bad = {"image_url": {"url": "http://h/x"}}
    holder = content
    while data.draw(st.booleans()):
        deeper = [piece["content"] for piece in holder if isinstance(piece.get("content"), list)]
        if not deeper:
            break
        holder = data.draw(st.sampled_from(deeper))
    assert sent(asking(*content))
    holder.insert(data.draw(st.integers(0, len(holder))), bad)
    with pytest.raises(UnsupportedParameter):
        sent(asking(*content))


def test_endless_nesting_is_refused():
    part: dict[str, object] = {"image_url": {"url": "data:x"}}
    for _ in range(50):
        part = {"content": [part]}
    with pytest.raises(UnsupportedParameter):
        sent(asking(part))


def test_only_known_template_arguments_pass():
    body = {"model": "m", "chat_template_kwargs": {"enable_thinking": False, "thinking": True}}
    assert sent(body) == json.dumps(body).encode()
    for wrong, field in (
        ({"tools": "{{ x }}"}, "chat_template_kwargs.tools"),
        ({"a b": 1}, "chat_template_kwargs"),
        ([], "chat_template_kwargs"),
    ):
        with pytest.raises(UnsupportedParameter) as refused:
            sent({"model": "m", "chat_template_kwargs": wrong})
        assert refused.value.field == field


@pytest.mark.parametrize(
    ("route", "engine", "member"),
    [
        (CHAT, "vllm", "max_tokens"),
        (CHAT, "openai", "max_completion_tokens"),
        (Route.COMPLETIONS, "openai", "max_tokens"),
        (Route.RESPONSES, "vllm", "max_output_tokens"),
    ],
)
def test_an_answer_without_a_bound_gets_what_the_hold_covers(route, engine, member):
    kept = {} if route is not Route.RESPONSES else {"store": False}
    for own in ({}, {member: None}):
        got = json.loads(sent({"model": "m", **own}, engine, route=route, cover=77))
        assert got == {"model": "m", member: 77, **kept}
    got = json.loads(sent({"model": "m", member: 5}, engine, route=route, cover=77))
    assert got[member] == 5


def test_embeddings_are_not_bounded():
    body = {"model": "m", "input": "x"}
    assert sent(body, route=Route.EMBEDDINGS, cover=77) == json.dumps(body).encode()


def test_of_two_bounds_the_one_that_was_held_for_counts_everywhere():
    body = {"model": "m", "max_completion_tokens": 5, "max_tokens": 900}
    got = json.loads(sent(body))
    assert got["max_completion_tokens"] == got["max_tokens"]
    equal = {"model": "m", "max_completion_tokens": 5, "max_tokens": 5}
    assert sent(equal) == json.dumps(equal).encode()


def test_llama_cpp_takes_no_second_name_for_the_bound():
    with pytest.raises(UnsupportedParameter):
        sent({"model": "m", "max_tokens": 5, "n_predict": 10**6}, "llama_cpp")


@pytest.mark.parametrize("own", [{}, {"store": True}, {"store": None}])
def test_responses_are_kept_only_where_the_backend_keeps_them_for_us(own):
    body = {"model": "m", "input": "x", **own}
    assert json.loads(sent(body, route=Route.RESPONSES))["store"] is False
    kept = sent(body, route=Route.RESPONSES, keeps_responses=True)
    assert kept == json.dumps(body).encode()


def test_a_response_that_is_not_to_be_kept_passes_unchanged():
    body = {"model": "m", "store": False, "input": "x"}
    assert sent(body, route=Route.RESPONSES) == json.dumps(body).encode()


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("route", [CHAT, Route.RESPONSES, Route.MESSAGES])
def test_an_engine_is_asked_only_in_a_protocol_that_it_speaks(engine, route):
    speaks = route.spec.dialect in engine_named(engine).dialects
    body = {"model": "m", "stream": True, "max_tokens": 5}
    if route is Route.RESPONSES:
        body.pop("max_tokens")
    try:
        got = json.loads(sent(body, engine, route=route))
    except UnsupportedParameter:
        assert not speaks
    else:
        assert speaks
        assert "stream_options" not in got or route.spec.dialect is Dialect.CHUNKS


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize(
    "options", [None, {"include_usage": False}, {"include_usage": True}, {"include_obfuscation": 0}]
)
def test_what_the_meter_asked_for_can_be_taken_back(engine, options):
    known = engine_named(engine)
    if Dialect.CHUNKS not in known.dialects:
        return
    own = {"model": "m", "stream": True, "n": 1}
    if options is not None:
        own["stream_options"] = options
    text = json.dumps(own).encode()
    request = read_request(text, CHAT)
    asked = upstream_body(request, known, upstream_model="up")
    plain = without_injection(asked, request, known)
    if json.loads(asked).get("stream_options") == options:
        assert plain is None
    else:
        assert plain is not None
        assert json.loads(plain) == own | {"model": "up"}
        unasked = upstream_body(request, known.unasked, upstream_model="up")
        assert json.loads(unasked) == json.loads(plain)
