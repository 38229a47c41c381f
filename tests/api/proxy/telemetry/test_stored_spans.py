"""Requests about stored objects: their spans, judged by OpenTelemetry's own definitions, and how
long they took."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from prometheus_client.parser import text_string_to_metric_families

from api.proxy.telemetry.stored_spans import MOST_CALLS, route_of
from billing.admission.route import ROUTES, Serving
from tests.api.proxy.conftest import KEY, until
from tests.api.proxy.stored.conftest import file_of, request_line
from tests.api.proxy.telemetry.collector import values
from tests.api.proxy.telemetry.test_spans import PARENT, TRACE, headers_of


async def test_a_request_and_its_call_are_spans_of_the_clients_trace(traced_keep):
    keep, collector = traced_keep.keep, traced_keep.collector
    answer = await keep.upload(**headers_of(tracestate="vendor=1"))
    await traced_keep.exported()
    span, (call,) = collector.request, collector.attempts
    assert {span.trace_id.hex(), call.trace_id.hex()} == {TRACE}
    assert (span.parent_span_id.hex(), call.parent_span_id) == (PARENT, span.span_id)
    assert {span.name, call.name} == {"POST /v1/files"}
    assert {span.trace_state, call.trace_state} == {"vendor=1"}
    assert span.status.code == call.status.code == Status.STATUS_CODE_UNSET
    assert values(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/files",
        "http.response.status_code": 200,
        "steelyard.request_id": answer.headers["x-steelyard-request-id"],
    }
    assert values(call.attributes) == {
        "http.request.method": "POST",
        "url.template": "/v1/files",
        "http.response.status_code": 200,
        "gen_ai.provider.name": "vllm",
        "steelyard.backend": "a",
        "server.address": "127.0.0.1",
        "server.port": keep.first.port,
    }
    assert span.start_time_unix_nano <= call.start_time_unix_nano
    assert call.end_time_unix_nano <= span.end_time_unix_nano + 1_000_000
    seen = keep.first.asked[0].headers
    assert seen["traceparent"] == f"00-{TRACE}-{call.span_id.hex()}-01"
    assert seen["tracestate"] == "vendor=1"


async def test_every_call_of_a_request_is_a_span_and_the_parent_of_its_backends(traced_keep):
    keep, collector = traced_keep.keep, traced_keep.collector
    file_id = (await keep.upload()).json()["id"]
    await keep.upload(**{"x-steelyard-model": "solo"})
    batch_id = (await keep.submit(file_id)).json()["id"]
    await keep.mine.get("/v1/files")
    await keep.mine.post(f"/v1/batches/{batch_id}/cancel")
    await keep.mine.get(f"/v1/files/{file_id}/content")
    await keep.mine.delete(f"/v1/files/{file_id}")
    await traced_keep.exported(7)
    calls = {
        request.name: sorted(
            call.name for call in collector.attempts if call.parent_span_id == request.span_id
        )
        for request in collector.requests
    }
    assert calls == {
        "POST /v1/files": ["POST /v1/files"],
        "POST /v1/batches": ["GET /v1/files/{file}/content", "POST /v1/batches"],
        "GET /v1/files": ["GET /v1/files/{file}"] * 2,
        "POST /v1/batches/{batch}/cancel": ["POST /v1/batches/{batch}/cancel"],
        "GET /v1/files/{file}/content": ["GET /v1/files/{file}/content"],
        "DELETE /v1/files/{file}": ["DELETE /v1/files/{file}"],
    }
    parents = [
        asked.headers["traceparent"].split("-")[2]
        for engine in (keep.first, keep.second)
        for asked in engine.asked
    ]
    assert sorted(parents) == sorted(call.span_id.hex() for call in collector.attempts)
    for _, body in collector.bodies:
        for secret in (file_id, batch_id, KEY, "custom_id"):
            assert secret.encode() not in body


async def test_what_is_refused_before_a_backend_is_asked_is_a_span_without_calls(traced_keep):
    mine, collector = traced_keep.keep.mine, traced_keep.collector
    await mine.get("/v1/files/file-canary")
    await mine.get("/v1/files", headers={"authorization": "Bearer sk-sy-unknown"})
    await mine.get("/v1/files?canary=1")
    await traced_keep.exported(3)
    told = [values(span.attributes) for span in collector.requests]
    assert [each["error.type"] for each in told] == [
        "not_found",
        "invalid_api_key",
        "unsupported_parameter",
    ]
    assert {span.status.code for span in collector.requests} == {Status.STATUS_CODE_UNSET}
    assert collector.attempts == []
    assert all(b"canary" not in body for _, body in collector.bodies)


@pytest.mark.parametrize(
    ("status", "answered", "error", "failure"),
    [(500, 500, "500", "500"), (404, 404, "404", "404"), (401, 502, "upstream_error", None)],
)
async def test_an_error_is_told_by_its_code(traced_keep, status, answered, error, failure):
    keep, collector = traced_keep.keep, traced_keep.collector
    file_id = (await keep.upload()).json()["id"]
    keep.first.status = status
    assert (await keep.mine.get(f"/v1/files/{file_id}")).status_code == answered
    await traced_keep.exported(2)
    span, call = collector.requests[-1], collector.attempts[-1]
    assert values(span.attributes)["error.type"] == error
    assert values(call.attributes)["error.type"] == (failure or error)
    assert values(call.attributes)["http.response.status_code"] == status
    assert call.status.code == Status.STATUS_CODE_ERROR
    assert (span.status.code == Status.STATUS_CODE_ERROR) is (answered >= 500)


async def test_a_content_that_breaks_off_is_a_failure(traced_keep):
    keep, collector = traced_keep.keep, traced_keep.collector
    file_id = (await keep.upload(b"x" * 100_000)).json()["id"]
    keep.first.breaks_at = 70_000
    with pytest.raises(httpx.RemoteProtocolError):
        await keep.mine.get(f"/v1/files/{file_id}/content")
    await traced_keep.exported(2)
    for span in (collector.requests[-1], collector.attempts[-1]):
        assert values(span.attributes)["error.type"] == "upstream_unavailable"
        assert values(span.attributes)["http.response.status_code"] == 200
        assert span.status.code == Status.STATUS_CODE_ERROR


async def test_a_client_that_leaves_is_no_failure_of_anybody(traced_keep):
    keep, collector = traced_keep.keep, traced_keep.collector
    file_id = (await keep.upload()).json()["id"]
    keep.first.delay = 30
    asking = asyncio.create_task(keep.mine.get(f"/v1/files/{file_id}"))
    await until(lambda: len(keep.first.asked) == 2)
    asking.cancel()
    await traced_keep.exported(2)
    span, call = collector.requests[-1], collector.attempts[-1]
    assert values(span.attributes)["error.type"] == "client_left"
    assert values(call.attributes)["error.type"] == "abandoned"
    assert span.status.code == call.status.code == Status.STATUS_CODE_UNSET


async def test_a_refused_line_abandons_the_file_that_it_stands_in(traced_keep):
    keep, collector = traced_keep.keep, traced_keep.collector
    content = file_of(request_line(url="/v1/other"), request_line("2"))
    file_id = (await keep.upload(content)).json()["id"]
    assert (await keep.submit(file_id)).status_code == 400
    await traced_keep.exported(2)
    assert collector.attempts[-1].status.code == Status.STATUS_CODE_UNSET


async def test_a_request_has_no_more_spans_than_the_bound(traced_keep):
    keep, collector = traced_keep.keep, traced_keep.collector
    await keep.upload()
    (first,) = keep.bindings.bound.values()
    for number in range(MOST_CALLS):
        one = replace(first, object_id=f"file-{number}")
        keep.first.files[one.object_id] = b""
        keep.bindings.bound[one.kind, one.object_id] = one
    answer = await keep.mine.get("/v1/files?purpose=none")
    assert answer.json()["data"] == []
    await traced_keep.exported(2)
    listing = collector.requests[-1]
    mine = [call for call in collector.attempts if call.parent_span_id == listing.span_id]
    assert len(keep.first.asked) == MOST_CALLS + 2
    assert len(mine) == MOST_CALLS


async def test_durations_are_told_by_method_and_route_and_by_nothing_else(traced_keep):
    keep, collector = traced_keep.keep, traced_keep.collector
    file_id = (await keep.upload()).json()["id"]
    keep.first.delay = 0.06
    await keep.mine.get(f"/v1/files/{file_id}")
    await keep.mine.get("/v1/files/file-nobodys")
    await keep.settled()
    families = text_string_to_metric_families(keep.app.tally.render().decode())
    seen = {family.name: family.samples for family in families}
    for name in ("steelyard_proxy_stored_duration_seconds", "steelyard_proxy_stored_call_seconds"):
        counts = {
            (sample.labels["method"], sample.labels["route"], sample.labels["le"]): sample.value
            for sample in seen[name]
            if "le" in sample.labels
        }
        assert counts["GET", "/v1/files/{file}", "0.05"] == 0
        assert counts["GET", "/v1/files/{file}", "+Inf"] == 1
        assert counts["POST", "/v1/files", "+Inf"] == 1
    await until(lambda: any(path == "/v1/metrics" for path, _ in collector.bodies))
    await until(lambda: "http.client.request.duration" in collector.metrics())
    told = collector.metrics()
    for name, route in (("server", "http.route"), ("client", "url.template")):
        metric = told[f"http.{name}.request.duration"]
        assert metric.unit == "s"
        attributes = [values(point.attributes) for point in metric.histogram.data_points]
        assert all(set(each) == {"http.request.method", route} for each in attributes)


def test_every_route_of_stored_objects_is_told_without_the_ids_in_it():
    stored = [spec for spec in ROUTES if spec.serving is Serving.STORED]
    assert stored
    for spec in stored:
        path = spec.path.format(file="canary", batch="canary", response="canary")
        assert route_of(spec.method, path) == spec.path
    assert "canary" not in route_of("POST", "/v1/batches/not.an.id.canary/cancel")
