"""Answers that are not streams."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid

import pytest

from billing.journal.records import Counts
from tests.api.proxy.conftest import PRICE_VERSION, PROJECT, TENANT, engine_figures, until
from tests.fake_engine.shapes import Behaviour

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_bytes_pass_unchanged_and_usage_is_exact(yard):
    answer = await yard.chat(seed=3)
    assert answer.status_code == 200
    assert answer.content == yard.engine.last.sent
    usage = yard.journal.usage
    assert usage.counts == Counts(input=7, cached_input=4, output=5)
    assert engine_figures(usage) == {
        "prompt_tokens": 11,
        "total_tokens": 16,
        "completion_tokens": 5,
        "prompt_tokens_details.cached_tokens": 4,
    }
    assert (usage.cause, usage.estimated) == ("completed", False)
    assert answer.headers["x-steelyard-request-id"] == f"req_{usage.id.hex()}"
    assert uuid.UUID(bytes=usage.id).version == 7
    attribution = usage.attribution
    assert (attribution.tenant_id, attribution.project_id, attribution.key_id) == (
        TENANT,
        PROJECT,
        9,
    )
    assert (attribution.price_version_id, attribution.backend) == (PRICE_VERSION, "b1")
    assert (attribution.route, attribution.stream) == ("/v1/chat/completions", False)
    assert yard.journal.intents == []
    assert usage.duration_us >= usage.ttft_us > 0


async def test_request_body_reaches_the_engine_unchanged(yard):
    text = '{ "model" : "tiny",\n "messages":[{"role":"user","content":"\\u00fc\\n"}], "seed":1.50}'
    answer = await yard.http.post("/v1/chat/completions", content=text)
    assert answer.status_code == 200
    assert yard.engine.last.text == text.encode()


async def test_client_headers_that_could_steer_the_engine_do_not_pass(yard):
    await yard.http.post(
        "/v1/chat/completions",
        json={"model": "tiny", "messages": []},
        headers={
            "x-data-parallel-rank": "3",
            "cookie": "a=b",
            "traceparent": TRACEPARENT,
            "accept-encoding": "gzip",
        },
    )
    seen = yard.engine.last.headers
    assert seen["authorization"] == "Bearer backend-secret"
    assert seen["accept-encoding"] == "identity"
    assert seen["traceparent"] == TRACEPARENT
    assert "cookie" not in seen
    assert "x-data-parallel-rank" not in seen


async def test_model_is_spliced_to_the_engines_own_name(yard):
    answer = await yard.http.post(
        "/v1/completions", content='{"prompt":"hi", "model":"renamed", "max_tokens":2}'
    )
    assert answer.status_code == 200
    assert yard.engine.last.text == b'{"prompt":"hi", "model":"up/real-name", "max_tokens":2}'
    assert yard.journal.usage.attribution.served_model == "up/real-name"


async def test_operator_members_are_cut_out(yard):
    await yard.chat(priority=-5, cache_salt="x", top_k=4)
    assert set(yard.engine.last.body) == {"model", "messages", "top_k"}


async def test_embeddings_count_input_only(yard):
    answer = await yard.http.post("/v1/embeddings", json={"model": "embed", "input": "a b"})
    assert answer.content == yard.engine.last.sent
    assert yard.journal.usage.counts == Counts(input=11)
    assert not yard.journal.usage.estimated


async def test_classes_the_model_lacks_are_plain_input(yard):
    await yard.chat(model="uncached")
    assert yard.journal.usage.counts == Counts(input=11, output=5)


async def test_answer_waits_for_the_durable_event(yard):
    yard.journal.gate.clear()
    asking = asyncio.create_task(yard.chat())
    await until(lambda: yard.journal.waiting)
    await asyncio.sleep(0.05)
    assert not asking.done()
    yard.journal.gate.set()
    assert (await asking).status_code == 200


async def test_no_answer_leaves_when_the_event_cannot_be_written(yard):
    yard.journal.refuses = True
    answer = await yard.chat()
    assert answer.status_code == 503
    assert b"w0" not in answer.content
    assert answer.json()["error"]["code"] == "service_unavailable"
    assert yard.journal.records == []
    yard.journal.refuses = False
    yard.app._probed_us = 0
    assert (await yard.chat()).status_code == 200


async def test_missing_usage_is_a_flagged_lower_bound(yard):
    yard.engine.behaviour = Behaviour(usage=False)
    answer = await yard.chat()
    assert answer.content == yard.engine.last.sent
    assert yard.journal.usage.estimated
    assert yard.journal.usage.counts == Counts()
    assert yard.app.tally.anomalies["usage_missing"] == 1


@pytest.mark.parametrize(
    ("usage", "estimated"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, False),
        ({"prompt_tokens": 3, "completion_tokens": None}, True),
        ({"prompt_tokens": 3}, True),
        ({"prompt_tokens": -3, "completion_tokens": 1}, True),
        ({"prompt_tokens": "3", "completion_tokens": 1}, True),
        ("text", True),
        (None, True),
    ],
)
async def test_zero_null_and_absent_are_three_values(yard, usage, estimated):
    yard.engine.behaviour = Behaviour(answer=json.dumps({"usage": usage}).encode())
    await yard.chat()
    assert yard.journal.usage.estimated is estimated


async def test_cached_beyond_prompt_is_clamped_and_seen(yard):
    yard.engine.behaviour = Behaviour(prompt=10, cached=60)
    await yard.chat()
    assert yard.journal.usage.counts == Counts(cached_input=10, output=5)
    assert yard.app.tally.anomalies["cached_exceeds_prompt"] == 1


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_engine_refusals_pass_unchanged_and_are_not_billed(yard, status):
    yard.engine.behaviour = Behaviour(
        status=status, answer=b'{"detail": "no"}', headers=("retry-after: 9",)
    )
    answer = await yard.chat()
    assert (answer.status_code, answer.content) == (status, b'{"detail": "no"}')
    assert answer.headers["retry-after"] == "9"
    assert "x-steelyard-request-id" in answer.headers
    assert yard.journal.usages == []
    assert [void.reason for void in yard.journal.voids] == ["upstream_refused"]


async def test_response_headers_pass_but_for_those_of_the_hop(yard):
    yard.engine.behaviour = Behaviour(
        headers=(
            "x-steelyard-simulated: true",
            "connection: x-hop",
            "x-hop: 1",
            "keep-alive: timeout=5",
            "x-steelyard-request-id: req_forged",
        )
    )
    answer = await yard.chat()
    assert answer.headers["x-steelyard-simulated"] == "true"
    assert "x-hop" not in answer.headers
    assert "keep-alive" not in answer.headers
    assert answer.headers.get_list("x-steelyard-request-id") == [
        f"req_{yard.journal.usage.id.hex()}"
    ]


async def test_body_that_ends_with_the_connection(yard):
    yard.engine.behaviour = Behaviour(close_delimited=True)
    answer = await yard.chat()
    assert answer.content == yard.engine.last.sent
    assert not yard.journal.usage.estimated


async def test_informational_answers_are_skipped(yard):
    yard.engine.behaviour = Behaviour(informational=True)
    assert (await yard.chat()).status_code == 200
    assert (await yard.chat()).status_code == 200
    assert yard.engine.connections == 1


async def test_broken_answer_is_502_and_void(yard):
    yard.engine.behaviour = Behaviour(break_after=0)
    answer = await yard.chat()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unavailable"
    assert [void.reason for void in yard.journal.voids] == ["upstream_broke"]
    assert yard.journal.usages == []


async def test_backend_down_is_502(yard):
    answer = await yard.chat(model="dead")
    assert answer.status_code == 502
    assert "127.0.0.1" not in answer.text


async def test_stale_connection_is_tried_again_once(yard):
    await yard.chat()
    yard.engine.drop_connections()
    answers = await asyncio.gather(*(yard.chat() for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len(yard.journal.usages) == 6


async def test_connections_are_reused(yard):
    for _ in range(5):
        assert (await yard.chat()).status_code == 200
    assert yard.engine.connections == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_answer_that_nobody_can_meter_is_not_passed(yard, stream):
    yard.engine.behaviour = Behaviour(
        answer=gzip.compress(b'{"usage":{"prompt_tokens":2,"completion_tokens":1}}'),
        headers=("content-encoding: gzip",),
    )
    answer = await yard.chat(stream=stream)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"
    assert [void.reason for void in yard.journal.voids] == ["encoded_answer"]
    assert yard.journal.usages == []


@pytest.mark.parametrize("status", [302, 307, 401, 403, 407])
async def test_refusal_of_the_proxy_itself_shows_no_credential_and_no_address(yard, status):
    yard.engine.behaviour = Behaviour(
        status=status,
        answer=b'{"error":{"message":"Incorrect API key provided: backend-secret"}}',
        headers=("location: http://10.0.0.5:8000/v1/chat/completions", "www-authenticate: Bearer"),
    )
    answer = await yard.chat()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"
    assert b"backend-secret" not in answer.content
    assert not {"location", "www-authenticate"} & set(answer.headers)
    assert [void.reason for void in yard.journal.voids] == ["upstream_refused"]
