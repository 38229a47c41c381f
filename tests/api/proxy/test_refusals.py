"""Requests that are refused: in OpenAI's shape, before a backend hears of them, without a trace."""

from __future__ import annotations

import asyncio
import json

import pytest

from api.proxy.limits import Limits
from billing.admission.snapshot import KeyGrant
from tests.api.proxy.conftest import BLIND_KEY, EXPIRED_KEY, KEY, digest
from tests.fake_engine.shapes import Behaviour

CHAT = "/v1/chat/completions"
SECRET = "do-not-repeat-me"

BAD_BODIES = [
    (b"", 400, None),
    (b"{", 400, None),
    (b"[]", 400, None),
    (b'"text"', 400, None),
    (b'{"messages":[]}', 400, "model"),
    (b'{"model":5,"messages":[]}', 400, "model"),
    (b'{"model":"tiny","model":"tiny"}', 400, None),
    (b'{"model":"tiny","mod\\u0065l":"unpriced"}', 400, None),
    (b'{"model":"tiny","stream":"yes"}', 400, "stream"),
    (b'{"model":"tiny","stream_options":[1]}', 400, "stream_options"),
    (
        b'{"model":"tiny","stream_options":{"include_usage":"do-not-repeat-me"}}',
        400,
        "stream_options",
    ),
    (b'{"model":"tiny","max_tokens":"do-not-repeat-me"}', 400, "max_tokens"),
    (b'{"model":"tiny","max_tokens":-1}', 400, "max_tokens"),
    (b'{"model":"tiny","n":0}', 400, "n"),
    (b'{"model":"tiny","grammar_of_mine":"do-not-repeat-me"}', 400, "grammar_of_mine"),
    (b'{"model":"tiny","<script>":1}', 400, None),
    (b'{"model":"do-not-repeat-me\\n","messages":[]}', 404, "model"),
    (b'{"model":"unpriced","messages":[]}', 403, "model"),
    (b'{"model":"embed","messages":[]}', 400, "model"),
    (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400, None),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD_BODIES)
async def test_bad_requests_leave_no_trace(yard, body, status, param):
    answer = await yard.http.post(CHAT, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert SECRET not in answer.text
    assert answer.headers["x-steelyard-request-id"].startswith("req_")
    assert yard.engine.served == []
    assert yard.journal.records == []


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "invalid_api_key"),
        ({"authorization": "Bearer"}, 401, "invalid_api_key"),
        ({"authorization": f"Basic {KEY}"}, 401, "invalid_api_key"),
        ({"authorization": "Bearer sk-other"}, 401, "invalid_api_key"),
        ({"authorization": f"Bearer {KEY}x"}, 401, "invalid_api_key"),
        ({"authorization": f"Bearer {EXPIRED_KEY}"}, 401, "invalid_api_key"),
        ({"x-api-key": f"{KEY}x"}, 401, "invalid_api_key"),
        ({"authorization": "Bearer sk-sy-" + "a" * 5_000}, 401, "invalid_api_key"),
        ({"authorization": f"Bearer {BLIND_KEY}"}, 403, "forbidden"),
    ],
)
async def test_keys(yard, headers, status, code):
    del yard.http.headers["authorization"]
    answer = await yard.http.post(CHAT, json={"model": "tiny", "messages": []}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert yard.engine.served == []
    assert yard.journal.records == []


async def test_either_header_carries_the_key(yard):
    del yard.http.headers["authorization"]
    body = {"model": "tiny", "messages": []}
    for headers in ({"x-api-key": KEY}, {"authorization": f"bearer {KEY}"}):
        assert (await yard.http.post(CHAT, json=body, headers=headers)).status_code == 200


async def test_revoked_key_is_refused_with_the_next_snapshot(yard):
    from dataclasses import replace

    assert (await yard.chat()).status_code == 200
    yard.control.snapshot = replace(yard.control.snapshot, keys={}, version=2)
    assert (await yard.chat()).status_code == 401


async def test_new_key_is_looked_up_once_for_all_who_wait(yard):
    key = "sk-sy-newnewne-0123456789abcdef"
    grant = KeyGrant(key_id=1, tenant_id=7, project_id=1, may_infer=True)
    yard.control.new_keys[digest(key)] = grant
    yard.http.headers["authorization"] = f"Bearer {key}"
    answers = await asyncio.gather(*(yard.chat() for _ in range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert yard.control.asked == [digest(key)]


async def test_flood_of_one_bad_key_asks_once_per_ttl(open_yard):
    yard = await open_yard(limits=Limits(unknown_key_ms=60_000))
    yard.http.headers["authorization"] = f"Bearer {KEY}x"
    for _ in range(20):
        assert (await yard.chat()).status_code == 401
    assert len(yard.control.asked) == 1
    unknown = yard.app._keys._unknown
    assert list(unknown) == [digest(f"{KEY}x")]
    unknown[digest(f"{KEY}x")] -= 60_000_000  # what a minute does
    await yard.chat()
    assert len(yard.control.asked) == 2


async def test_flood_of_many_bad_keys_is_bounded(open_yard):
    yard = await open_yard(limits=Limits(look_ups_per_second=5, unknown_keys=3))

    async def ask(number: int) -> int:
        headers = {"authorization": f"Bearer sk-sy-flood-{number}"}
        return (await yard.http.post(CHAT, json={}, headers=headers)).status_code

    assert set(await asyncio.gather(*(ask(number) for number in range(60)))) == {401}
    assert len(yard.control.asked) <= 10
    assert len(yard.app._keys._unknown) <= 3


async def test_oversized_body_is_413(open_yard):
    yard = await open_yard(limits=Limits(body_bytes=1_000))
    answer = await yard.http.post(CHAT, content=b" " * 1_001)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

    async def chunks():
        for _ in range(20):
            yield b" " * 100

    assert (await yard.http.post(CHAT, content=chunks())).status_code == 413
    assert yard.engine.served == []


async def test_compressed_body_is_refused(yard):
    answer = await yard.http.post(CHAT, content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", CHAT),
        ("POST", "/v1/models"),
        ("POST", "/v1/images/edits"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/../v1/tokenize"),
        ("POST", "/tokenize"),
        ("GET", "/v1/files"),
        ("DELETE", "/v1/models/tiny"),
    ],
)
async def test_no_other_route_reaches_a_backend(yard, method, path):
    answer = await yard.http.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"
    assert yard.engine.served == []


async def test_models_are_what_key_and_contract_allow(yard):
    answer = await yard.http.get("/v1/models")
    names = [model["id"] for model in answer.json()["data"]]
    assert names == ["dead", "embed", "renamed", "tiny", "uncached"]
    assert answer.json()["object"] == "list"
    blind = await yard.http.get("/v1/models", headers={"authorization": f"Bearer {BLIND_KEY}"})
    assert blind.json()["data"] == []
    assert (await yard.http.get("/v1/models", headers={"authorization": ""})).status_code == 401


class Poisoned:
    """A snapshot that cannot be read, by a defect whose message quotes a secret."""

    def __getattr__(self, name: str) -> object:
        raise ZeroDivisionError(f"{name} of {KEY}")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny"])
async def test_a_defect_behind_the_models_is_a_500_that_says_nothing(yard, path, caplog):
    sound, yard.control.snapshot = yard.control.snapshot, Poisoned()
    answer = await yard.http.get(path)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text
    assert KEY not in answer.text + caplog.text
    yard.control.snapshot = sound
    assert (await yard.http.get(path)).status_code == 200
    counted = {status for route, status in yard.app.tally.answers if route.startswith("/v1/models")}
    assert counted == {200, 500}


async def test_a_defect_behind_the_state_is_a_500(yard):
    del yard.journal.healthy
    answer = await yard.http.get("/readyz")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"


async def test_in_flight_limit_is_503(open_yard):
    yard = await open_yard(limits=Limits(in_flight=2))
    yard.engine.behaviour = Behaviour(silent_ms=300)
    answers = await asyncio.gather(*(yard.chat() for _ in range(4)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 503, 503]
    assert len(yard.journal.records) == 2


async def test_health_readiness_metrics(yard):
    await yard.chat()
    await yard.chat(stream=True)
    assert (await yard.http.get("/healthz")).status_code == 200
    assert (await yard.http.get("/health")).status_code == 200
    assert (await yard.http.get("/readyz")).status_code == 200
    assert (await yard.http.get("/metrics")).status_code == 404
    text = yard.app.tally.render().decode()
    assert 'steelyard_proxy_tokens_total{class="output"} 10.0' in text
    assert 'steelyard_proxy_usage_events_total{cause="completed",estimated="false"} 2.0' in text
    assert "tenant" not in text
    series = 'count{model="tiny",route="/v1/chat/completions"}'
    for name in ("queue", "time_to_first_token", "duration"):
        assert f"steelyard_proxy_{name}_seconds_{series} 2.0" in text
    assert f"steelyard_proxy_inter_token_seconds_{series} 1.0" in text
    yard.journal.healthy = False
    assert (await yard.http.get("/readyz")).status_code == 503


async def test_prompt_text_is_never_logged(yard, caplog):
    caplog.set_level(0)
    yard.engine.behaviour = Behaviour(break_after=0)
    await yard.http.post(CHAT, content=b'{"model":"tiny","messages":"do-not-repeat-me"')
    await yard.chat(messages=[{"role": "user", "content": SECRET}])
    yard.control.snapshot = None  # a failure nobody foresaw
    answer = await yard.http.post(CHAT, content=json.dumps({"model": SECRET}))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert any("AttributeError" in record.getMessage() for record in caplog.records)
    assert SECRET not in caplog.text
    assert KEY not in caplog.text
