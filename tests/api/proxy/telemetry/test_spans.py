"""The spans that a collector gets, judged by OpenTelemetry's own definitions."""

from __future__ import annotations

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from api.proxy.telemetry.otlp import QUEUED_REQUESTS
from tests.api.proxy.attempts.conftest import DEAD
from tests.api.proxy.conftest import KEY
from tests.api.proxy.telemetry.collector import values
from tests.api.proxy.telemetry.test_trace_context import asked
from tests.fake_engine.shapes import Behaviour

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def headers_of(flags: str = "01", **more: str) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", **more}


async def ask(traced, headers=None, **members):
    return await traced.yard.http.post(
        "/v1/chat/completions",
        json={"model": "pool", "messages": [{"role": "user", "content": "hi"}], **members},
        headers=headers or {},
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_and_its_attempt_are_spans_of_the_clients_trace(traced, *, stream):
    traced.fleet.behave(*[Behaviour(silent_ms=20)] * 2)
    answer = await ask(traced, headers_of(tracestate="vendor=1"), stream=stream)
    await traced.exported()
    span, (attempt,) = traced.collector.request, traced.collector.attempts
    assert {span.trace_id.hex(), attempt.trace_id.hex()} == {TRACE}
    assert span.parent_span_id.hex() == PARENT
    assert attempt.parent_span_id == span.span_id
    assert {span.name, attempt.name} == {"chat pool"}
    assert {span.trace_state, attempt.trace_state} == {"vendor=1"}
    assert span.status.code == attempt.status.code == Status.STATUS_CODE_UNSET
    told = values(span.attributes)
    usage = traced.yard.journal.usage
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "pool"
    assert told["gen_ai.request.stream"] is stream
    assert told["gen_ai.usage.input_tokens"] == 11
    assert told["gen_ai.usage.cache_read.input_tokens"] == 4
    assert told["gen_ai.usage.output_tokens"] == 5
    assert told["http.response.status_code"] == 200
    assert told["steelyard.request_id"] == answer.headers["x-steelyard-request-id"]
    assert told["steelyard.overhead_us"] == usage.raw["steelyard.overhead_us"]
    assert ("gen_ai.response.time_to_first_chunk" in told) is stream
    if stream:
        assert told["gen_ai.response.time_to_first_chunk"] == usage.ttft_us / 1_000_000 >= 0.02
    assert "error.type" not in told
    inner = values(attempt.attributes)
    assert (inner["gen_ai.provider.name"], inner["steelyard.backend"]) == ("vllm", "e0")
    assert (inner["server.address"], inner["server.port"]) == (
        "127.0.0.1",
        traced.fleet.engines[0].port,
    )
    assert span.start_time_unix_nano <= attempt.start_time_unix_nano
    assert attempt.end_time_unix_nano - attempt.start_time_unix_nano >= 20_000_000
    assert attempt.end_time_unix_nano <= span.end_time_unix_nano + 1_000_000


async def test_the_backend_is_told_that_our_attempt_is_its_parent(traced):
    await ask(traced, headers_of(tracestate="vendor=1"))
    await traced.exported()
    seen = traced.fleet.engines[0].last.headers
    (attempt,) = traced.collector.attempts
    assert seen["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert seen["tracestate"] == "vendor=1"


async def test_each_attempt_is_a_span_and_the_parent_of_its_backends(traced):
    traced.fleet.behave(Behaviour(status=503, answer=b"x"), Behaviour())
    await ask(traced, headers_of())
    await traced.exported()
    failed, served = traced.collector.attempts
    assert [values(one.attributes)["steelyard.backend"] for one in (failed, served)] == ["e0", "e1"]
    assert values(failed.attributes)["error.type"] == "refused_503"
    assert values(failed.attributes)["gen_ai.provider.name"] == "vllm"
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert served.status.code == traced.collector.request.status.code == Status.STATUS_CODE_UNSET
    assert failed.end_time_unix_nano <= served.start_time_unix_nano + 1_000_000
    for engine, attempt in zip(traced.fleet.engines, (failed, served), strict=True):
        assert engine.last.headers["traceparent"].split("-")[2] == attempt.span_id.hex()


async def test_a_fallback_is_the_model_that_answers(traced):
    traced.fleet.reconfigure("e0", base_url=DEAD)
    traced.fleet.reconfigure("e1", base_url=DEAD)
    traced.fleet.change("pool", fallbacks=("tiny",))
    answer = await ask(traced, headers_of())
    assert answer.headers["x-steelyard-served-model"] == "tiny"
    await traced.exported()
    told = values(traced.collector.request.attributes)
    assert (told["gen_ai.request.model"], told["gen_ai.response.model"]) == ("pool", "tiny")
    assert [
        (values(one.attributes)["gen_ai.request.model"], values(one.attributes).get("error.type"))
        for one in traced.collector.attempts
    ] == [("pool", "unreached"), ("pool", "unreached"), ("tiny", None)]


@pytest.mark.parametrize(
    ("behaviour", "status", "error", "code"),
    [
        (Behaviour(status=400, answer=b"{}"), 400, "400", Status.STATUS_CODE_UNSET),
        (Behaviour(status=500, answer=b"{}"), 500, "500", Status.STATUS_CODE_ERROR),
        (Behaviour(status=401, answer=b"{}"), 502, "upstream_error", Status.STATUS_CODE_ERROR),
        (Behaviour(drops=True), 502, "upstream_unavailable", Status.STATUS_CODE_ERROR),
    ],
)
async def test_an_error_is_told_by_its_code(traced, behaviour, status, error, code):
    traced.fleet.behave(behaviour, behaviour)
    answer = await ask(traced, headers_of())
    await traced.exported()
    span = traced.collector.request
    told = values(span.attributes)
    assert told["http.response.status_code"] == answer.status_code == status
    assert told["error.type"] == error
    assert span.status.code == code
    assert span.status.message == ""
    assert "gen_ai.usage.output_tokens" not in told


async def test_what_is_refused_before_it_has_a_backend_is_a_span_without_attempts(traced):
    await ask(traced, headers_of(), model="not-there")
    await ask(traced, headers_of(authorization="Bearer sk-sy-unknown-0123456789abcdef0123456789"))
    await traced.exported(2)
    missing, unknown = traced.collector.requests
    assert (missing.name, unknown.name) == ("chat", "chat")  # a client's word is no model's name
    assert values(missing.attributes)["error.type"] == "not_found"
    assert values(unknown.attributes)["error.type"] == "invalid_api_key"
    assert traced.collector.attempts == []


async def test_a_stream_that_breaks_off_is_a_failure_with_what_it_cost(traced):
    traced.fleet.behave(*[Behaviour(tokens=20, break_after=4, pace_ms=1)] * 2)
    client = await traced.yard.stream(model="pool")
    await client.rest()
    await traced.exported()
    span, (attempt,) = traced.collector.request, traced.collector.attempts
    assert span.status.code == attempt.status.code == Status.STATUS_CODE_ERROR
    told = values(span.attributes)
    assert told["error.type"] == told["steelyard.cause"] == "upstream_broke"
    assert told["gen_ai.usage.output_tokens"] == traced.yard.journal.usage.counts.output == 4


async def test_a_client_that_leaves_is_no_failure_of_ours(traced):
    traced.fleet.behave(*[Behaviour(tokens=500, pace_ms=5)] * 2)
    client = await traced.yard.stream(model="pool")
    await client.until(b"data:")
    client.leave()
    await traced.exported()
    span, (attempt,) = traced.collector.request, traced.collector.attempts
    assert values(span.attributes)["error.type"] == "client_left"
    assert span.status.code == attempt.status.code == Status.STATUS_CODE_UNSET


async def test_ids_of_a_run_stand_on_the_span(traced):
    named = {"x-steelyard-run-id": 'r"1', "x-steelyard-agent-id": "bücher"}
    await ask(traced, headers_of() | {name: value.encode() for name, value in named.items()})
    await traced.exported()
    told = values(traced.collector.request.attributes)
    assert (told["steelyard.run_id"], told["steelyard.agent_id"]) == ('r"1', "bücher")
    assert "steelyard.step_id" not in told


async def test_a_trace_that_its_client_does_not_record_is_not_exported(traced):
    await ask(traced, headers_of("00", tracestate="vendor=1"))
    seen = traced.fleet.engines[0].last.headers
    assert (seen["traceparent"], seen["tracestate"]) == (f"00-{TRACE}-{PARENT}-00", "vendor=1")
    await traced.nothing()


async def test_a_malformed_parent_is_replaced(traced):
    answer = await ask(traced, {"traceparent": f"00-{TRACE}-{PARENT}-1", "tracestate": "a=1"})
    assert answer.status_code == 200
    await traced.exported()
    span = traced.collector.request
    assert span.parent_span_id == b""
    assert f"req_{span.trace_id.hex()}" == answer.headers["x-steelyard-request-id"]
    seen = traced.fleet.engines[0].last.headers
    assert seen["traceparent"].split("-")[1] == span.trace_id.hex()
    assert "tracestate" not in seen


async def test_of_the_traces_that_begin_here_a_share_is_recorded(open_traced):
    traced = await open_traced(share="0")
    await ask(traced)
    seen = traced.fleet.engines[0].last.headers
    assert seen["traceparent"].endswith("-02")  # the backend begins none of its own
    await traced.nothing()
    await ask(traced, headers_of())
    await traced.exported()


async def test_a_share_is_met_by_the_random_part_of_the_ids(open_traced):
    traced = await open_traced(share="0.25")
    recorder = traced.export.recorder
    found = [
        recorder.trace(bytes(8) + bytes([0x80, first]) + bytes(6), asked()).recorded
        for first in range(256)
    ]
    assert found == [False] * 192 + [True] * 64


async def test_without_a_collector_a_valid_parent_passes_and_a_malformed_one_does_not(fleet):
    await fleet.yard.http.post(
        "/v1/chat/completions",
        json={"model": "pool", "messages": []},
        headers=headers_of(tracestate="vendor=1"),
    )
    seen = fleet.engines[0].last.headers
    assert (seen["traceparent"], seen["tracestate"]) == (f"00-{TRACE}-{PARENT}-01", "vendor=1")
    for broken in (f"00-{TRACE}-{PARENT}", "x"):
        answer = await fleet.yard.http.post(
            "/v1/chat/completions",
            json={"model": "pool", "messages": []},
            headers={"traceparent": broken, "tracestate": "vendor=1"},
        )
        assert answer.status_code == 200
    for engine in fleet.engines:
        for served in engine.served:
            if served.headers.get("traceparent") != f"00-{TRACE}-{PARENT}-01":
                assert "traceparent" not in served.headers
                assert "tracestate" not in served.headers


async def test_the_trace_of_a_request_for_stored_objects_passes_where_none_is_recorded(keep):
    valid = headers_of(tracestate="vendor=1")
    await keep.upload(**valid)
    file_id = (await keep.upload()).json()["id"]
    await keep.mine.get(f"/v1/files/{file_id}", headers=valid)
    await keep.mine.get(f"/v1/files/{file_id}", headers={"traceparent": "x", "tracestate": "a=1"})
    told = [
        (asked.headers.get("traceparent"), asked.headers.get("tracestate"))
        for engine in (keep.first, keep.second)
        for asked in engine.asked
    ]
    passed = (valid["traceparent"], "vendor=1")
    assert told.count(passed) == 2
    assert set(told) == {passed, (None, None)}


async def test_no_key_and_no_text_is_in_any_export(traced):
    canary = "canary-5b1f0e"
    bodies = [
        {"messages": [{"role": "user", "content": canary}], "user": canary},
        {"messages": [], "metadata": {"note": canary}, "tools": [{"name": canary}]},
        {"model": canary, "messages": []},
        {"messages": canary},
    ]
    for behaviour in (
        Behaviour(),
        Behaviour(status=400, answer=canary.encode()),
        Behaviour(status=500, answer=canary.encode()),
        Behaviour(answer=b'{"id":"%b"}' % canary.encode()),
    ):
        traced.fleet.behave(behaviour, behaviour)
        for body in bodies:
            await ask(traced, {"user-agent": canary, "cookie": canary}, **body)
    await traced.exported(16)
    for _, body in traced.collector.bodies:
        assert canary.encode() not in body
        assert KEY.encode() not in body
        assert b"backend-secret" not in body
    assert traced.export.exporter.queued < QUEUED_REQUESTS
