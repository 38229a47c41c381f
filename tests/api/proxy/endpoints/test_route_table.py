"""The table of routes: what is in it is admitted and metered, what is not reaches no backend."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.proxy.holds import Holds
from billing.admission.backend import ModelKind
from billing.admission.route import (
    ROUTES,
    BodyForm,
    Dialect,
    ErrorShape,
    Route,
    Serving,
    find_route,
)
from tests.api.proxy.conftest import BLIND_KEY, KEY
from tests.api.proxy.endpoints.asks import ASKS, MODEL, Ask
from tests.api.proxy.endpoints.conftest import UNPRICED
from tests.api.proxy.limits.conftest import BookedHolds, limit_of

METERED = [(spec.route, spec) for spec in ROUTES if spec.route is not None]
BY_NAME = pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)


def test_every_row_declares_how_it_is_metered_and_admitted():
    assert {route for route, _ in METERED} == set(Route)
    assert len(METERED) == len(Route)
    assert len({(spec.method, spec.path) for spec in ROUTES}) == len(ROUTES)
    for route, spec in METERED:
        assert spec.serving in {Serving.INFERENCE, Serving.UNBILLED}, spec.path
        assert (spec.method, spec.path) == ("POST", route.value)
        assert spec.model_kind is not None
        assert spec.body is not BodyForm.NONE
        assert spec.classes or spec.units
        assert route.generates <= (spec.dialect is not Dialect.PLAIN)
    for spec in ROUTES:
        if spec.route is None:
            assert spec.serving in {Serving.STORED, Serving.LIST, Serving.STATUS}
            stored = spec.serving is Serving.STORED
            assert spec.method == "GET" or stored, "what is not metered changes nothing"
            assert (spec.stored is not None) == stored
            assert not spec.classes
            assert not spec.units
    assert {ask.route for ask in ASKS} == set(Route), "every route has a request here"
    assert {spec.model_kind for _, spec in METERED} == set(ModelKind)


@BY_NAME
async def test_every_metered_route_is_admitted_exactly_once(desk, ask: Ask):
    answer = await desk.ask(ask)
    assert answer.status_code == 200, answer.text
    assert answer.content == ask.script.body
    assert len(desk.engine.seen) == 1
    await desk.settled()
    if ask.route is Route.COUNT_TOKENS:
        assert desk.journal.records == []
        return
    usage = desk.journal.usage
    assert usage.counts == ask.counts
    assert usage.units == ask.units
    assert (usage.cause, usage.estimated) == ("completed", False)
    assert usage.attribution.route == ask.route.value
    assert usage.attribution.tenant_id == 7
    assert desk.journal.voids == []


def refusals(ask: Ask) -> list[tuple[bytes, dict[str, str], int]]:
    """Requests that are not admitted, and with which status."""
    other = "embed" if MODEL[ask.route] != "embed" else "text"
    return [
        (ask.body, {"authorization": ""}, 401),
        (ask.body, {"authorization": f"Bearer {KEY}x"}, 401),
        (ask.body, {"authorization": f"Bearer {BLIND_KEY}"}, 403),
        (ask.renamed(UNPRICED + MODEL[ask.route]), {}, 403),
        (ask.renamed("nobody-serves-this"), {}, 404),
        (ask.renamed(other), {}, 400),
        (b"", {}, 400),
        (b"[]", {}, 400),
        (ask.body, {"content-encoding": "gzip"}, 400),
    ]


@BY_NAME
async def test_no_route_reaches_a_backend_without_admission(desk, ask: Ask):
    for body, headers, status in refusals(ask):
        answer = await desk.ask(ask, body, **headers)
        assert answer.status_code == status, (headers, answer.text)
        error = answer.json()["error"]
        if ask.route.spec.errors is ErrorShape.ANTHROPIC:
            assert answer.json()["type"] == "error"
            assert answer.json()["request_id"] == answer.headers["x-steelyard-request-id"]
            assert set(error) == {"type", "message"}
        else:
            assert set(error) == {"message", "type", "param", "code"}
    desk.control.snapshot = replace(desk.control.snapshot, terms={})
    assert (await desk.ask(ask)).status_code == 403
    desk.journal.healthy = False
    desk.app._inference._probed_us = desk.app._clock() + 10_000_000
    assert (await desk.ask(ask)).status_code == 503
    await desk.app.drain()
    assert (await desk.ask(ask)).status_code == 503
    assert desk.engine.seen == []
    assert desk.journal.records == []


@BY_NAME
async def test_a_unit_without_a_price_is_refused_before_dispatch(desk, ask: Ask):
    terms = desk.control.snapshot.terms[7]
    name = MODEL[ask.route]
    for member in ("priced", "priced_units"):
        needed = getattr(terms, member)[name] & (
            ask.route.classes if member == "priced" else ask.route.units
        )
        for missing in needed:
            kept = {**getattr(terms, member), name: needed - {missing}}
            desk.control.snapshot = replace(
                desk.control.snapshot, terms={7: replace(terms, **{member: kept})}
            )
            answer = await desk.ask(ask)
            assert answer.status_code == 403, missing
            assert "no price" in answer.text
    assert desk.engine.seen == []


SEGMENTS = st.sampled_from(
    ["v1", "V1", "chat", "completions", "responses", "files", "batches", "messages", "models",
     "audio", "speech", "", ".", "..", "%2e", "%2e%2e", "%2F", "embeddings", "a\0b", "ü", "tiny"]
)  # fmt: skip
PATHS = st.one_of(
    st.lists(SEGMENTS, max_size=6).map(lambda parts: "/" + "/".join(parts)),
    st.sampled_from([spec.path for spec in ROUTES]),
    st.sampled_from([spec.path for spec in ROUTES]).flatmap(
        lambda path: st.sampled_from(
            [
                f"/{path}",
                f"{path}/",
                f"{path}//",
                path.upper(),
                path.replace("/v1", "/v1/.", 1),
                path.replace("/v1", "/x/../v1", 1),
                path.replace("/", "%2f"),
                path.replace("o", "%6f"),
                path + "\0",
                path + ";a=b",
                path + "?x=1",
                path + "#x",
                path + " ",
                path[1:],
                "http://x" + path,
            ]
        )
    ),
    st.text(max_size=40),
)
METHODS = st.sampled_from(
    ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "post", ""]
)


@given(method=METHODS, path=PATHS)
@example(method="POST", path="/v1/models/tiny")
@example(method="GET", path="/v1/models/")
@example(method="GET", path="/v1/chat/completions")
def test_unlisted_paths_and_methods_have_no_row(method: str, path: str):
    found = find_route(method.encode(), path.encode())
    if found is None:
        assert (method, path) not in {(spec.method, spec.path) for _, spec in METERED}
        return
    spec, ids = found
    assert method == spec.method
    if not ids:
        assert path == spec.path
        return
    assert spec.serving in {Serving.STORED, Serving.LIST}, "no metered path has a variable part"
    assert path == spec.path.format(**ids)


STORED = {
    ("POST", "/v1/files"), ("GET", "/v1/files"), ("GET", "/v1/files/{file}"),
    ("GET", "/v1/files/{file}/content"), ("DELETE", "/v1/files/{file}"),
    ("POST", "/v1/batches"), ("GET", "/v1/batches"), ("GET", "/v1/batches/{batch}"),
    ("POST", "/v1/batches/{batch}/cancel"),
    ("GET", "/v1/responses/{response}"), ("DELETE", "/v1/responses/{response}"),
    ("GET", "/v1/responses/{response}/input_items"), ("POST", "/v1/responses/{response}/cancel"),
}  # fmt: skip


def test_stored_objects_have_these_routes_and_no_other():
    found = {(spec.method, spec.path) for spec in ROUTES if spec.serving is Serving.STORED}
    assert found == STORED


async def test_unlisted_paths_and_methods_reach_no_backend(desk):
    chat = Route.CHAT_COMPLETIONS.value
    body = json.dumps({"model": "text", "messages": []}).encode()
    lines = [
        f"POST /{chat}", f"POST {chat}/", f"POST {chat}%00", f"POST {chat.upper()}",
        f"POST /x/..{chat}", f"POST /v1/%2e%2e{chat}", f"POST {chat}/../completions",
        "POST /v1//chat/completions", "POST /v1/chat%2fcompletions", f"PUT {chat}",
        f"PATCH {chat}", f"DELETE {chat}", f"GET {chat}", f"OPTIONS {chat}", f"HEAD {chat}",
        "POST /v1/images/edits", "POST /v1/images/variations", "POST /v1/moderations",
        "POST /v1/fine_tuning/jobs", "POST /v1/files", "GET /v1/files", "GET /v1/files/file-1",
        "POST /v1/batches", "GET /v1/responses/resp_1", "DELETE /v1/responses/resp_1",
        "POST /v1/responses/resp_1/cancel", "POST /v1/messages/batches", "POST /tokenize",
        "POST /rerank", "POST /v2/rerank", "POST /v1/completions/render", "POST /pause",
        "POST /v1/load_lora_adapter", "GET /version", "POST /v1/assistants",
        "DELETE /v1/models/text",
    ]  # fmt: skip
    for line in lines:
        client = await desk.raw()
        await client.send(
            b"%b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (line.encode(), KEY.encode(), len(body), body)
        )
        answer = await client.rest()
        assert answer.split(b" ", 2)[1] in {b"404", b"400"}, line
    assert desk.engine.seen == []
    assert desk.journal.records == []


@BY_NAME
async def test_no_route_reaches_a_backend_past_a_limit(desk, ask: Ask):
    port, limit = BookedHolds(), limit_of(0)
    port.lease(limit)
    desk.app._inference._holds = Holds(port, desk.app._clock)
    snapshot = desk.control.snapshot
    limited = replace(snapshot.terms[7], limits=(limit,))
    desk.control.snapshot = replace(snapshot, terms={7: limited})
    answer = await desk.ask(ask)
    assert answer.status_code == 429, answer.text
    assert desk.engine.seen == []
    assert desk.journal.records == []
