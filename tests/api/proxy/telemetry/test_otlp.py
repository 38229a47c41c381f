"""Export to a collector: what nobody takes is dropped and counted, and no request ever waits."""

from __future__ import annotations

import asyncio
import itertools
import logging
import tracemalloc

import msgspec
import pytest

from api.proxy.app import system_clock
from api.proxy.ids import Mint
from api.proxy.telemetry.conventions import OPERATION_OF
from api.proxy.telemetry.course import Course
from api.proxy.telemetry.otlp import (
    BATCH_REQUESTS,
    QUEUED_REQUESTS,
    Collector,
    Exporter,
    checked_endpoint,
    exporting,
    read_headers,
)
from api.proxy.telemetry.spans import TracedAttempt, TracedRequest, spans_of
from api.proxy.telemetry.trace_context import Trace
from billing.admission.route import Route
from billing.engines.read_request import RunIds
from billing.errors import ConfigurationError
from billing.journal.records import Attribution, Counts, Usage
from tests.api.proxy.attempts.conftest import DEAD
from tests.api.proxy.conftest import until
from tests.api.proxy.telemetry.collector import fake_collector, values
from tests.api.proxy.telemetry.conftest import FAST

MINT = Mint()


def a_request(run: str = "") -> TracedRequest:
    operation = MINT(1_700_000_000_000_000)
    return TracedRequest(
        trace=Trace(operation, None, True),
        began_at_us=1_700_000_000_000_000,
        duration_us=1_000,
        route="/v1/chat/completions",
        model="m",
        served="m",
        stream=False,
        status=200,
        error="",
        failed=False,
        told=None,
        run=RunIds(run),
        attempts=(TracedAttempt("m", "b", "vllm", "http://h:1", 1_700_000_000_000_010, 900, ""),),
    )


def an_exporter(endpoint: str) -> Exporter:
    return Exporter(Collector(endpoint=endpoint), clock=system_clock, pace=FAST)


async def test_a_collector_that_is_away_costs_no_request_anything(open_traced):
    traced = await open_traced()
    traced.collector.status = 503
    for _ in range(20):
        assert (await traced.fleet.chat()).status_code == 200
    assert len(traced.yard.journal.usages) == 20
    await until(lambda: len(traced.collector.bodies) >= 3)
    assert not traced.export.exporter.dropped
    # It comes back: nothing was lost, however often it had been asked in vain.
    traced.collector.bodies.clear()
    traced.collector.status = 200
    await traced.exported(20)
    assert len({span.trace_id for span in traced.collector.requests}) == 20


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_a_busy_collector_does_not_take_is_sent_again(traced, status):
    traced.collector.status = status
    await traced.fleet.chat()
    await until(lambda: len(traced.collector.bodies) >= 2)
    traced.collector.status = 200
    await until(lambda: traced.export.exporter.queued == 0)
    sent = {body for path, body in traced.collector.bodies if path == "/v1/traces"}
    assert len(sent) == 1  # the same bytes


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 500])
async def test_what_a_collector_refuses_is_dropped_and_counted(traced, status):
    traced.collector.status = status
    await traced.fleet.chat()
    await until(lambda: traced.export.exporter.dropped["refused"] == 1)
    told = traced.yard.app.tally.render().decode()
    assert 'steelyard_proxy_telemetry_dropped_total{reason="refused"} 1.0' in told
    assert (await traced.fleet.chat()).status_code == 200


async def test_spans_that_a_collector_rejects_are_counted(traced):
    traced.collector.answer = b'{"partialSuccess":{"rejectedSpans":"1","errorMessage":"no"}}'
    await traced.fleet.chat()
    await until(lambda: traced.export.exporter.dropped["refused"] == 1)


@pytest.mark.parametrize(
    "answer", [b"", b"not json", b"[]", b'{"partialSuccess":7}', b"x" * 200_000]
)
async def test_an_answer_that_makes_no_sense_is_an_answer(traced, answer):
    traced.collector.answer = answer
    await traced.fleet.chat()
    await traced.exported()
    await until(lambda: traced.export.exporter.queued == 0)
    assert not traced.export.exporter.dropped["refused"]


async def test_a_collector_that_never_answers_is_asked_again(traced):
    traced.collector.hangs = True
    await traced.fleet.chat()
    await until(lambda: traced.collector.bodies)
    assert (await traced.fleet.chat()).status_code == 200
    traced.collector.hangs = False
    await until(lambda: len({span.trace_id for span in traced.collector.requests}) == 2)


async def test_a_full_queue_drops_and_counts_and_takes_no_more_memory():
    exporter = an_exporter(DEAD)
    run = itertools.count()
    for _ in range(QUEUED_REQUESTS):
        exporter.offer(a_request(f"{next(run):0256}"))
    tracemalloc.start()
    try:
        for _ in range(5_000):
            exporter.offer(a_request(f"{next(run):0256}"))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert exporter.queued == QUEUED_REQUESTS
    assert exporter.dropped == {"queue_full": 5_000}
    assert grown < 256 << 10  # each of them would be 1 KiB


async def test_spans_that_cannot_be_written_stop_no_others(caplog):
    async with fake_collector() as collector:
        exporter = an_exporter(collector.endpoint)
        async with exporting(exporter):
            exporter.offer(a_request())
            exporter.offer(msgspec.structs.replace(a_request(), route="/v1/what-nobody-named"))
            exporter.offer(a_request())
        assert len(collector.requests) == 2
        assert exporter.dropped == {"unwritable": 1}
    assert "spans cannot be written: KeyError" in caplog.text


def test_every_route_has_a_name_as_an_operation():
    assert set(OPERATION_OF) == {route.value for route in Route}


async def test_what_waits_at_the_end_is_sent_once_more_and_no_longer():
    async with fake_collector() as collector:
        exporter = an_exporter(collector.endpoint)
        async with exporting(exporter):
            for _ in range(BATCH_REQUESTS + 3):
                exporter.offer(a_request())
        assert len(collector.requests) == BATCH_REQUESTS + 3
        assert exporter.queued == 0
        assert not exporter.dropped


async def test_the_end_does_not_wait_for_a_collector_that_is_away():
    exporter = an_exporter(DEAD)
    async with asyncio.timeout(30), exporting(exporter):
        for _ in range(BATCH_REQUESTS + 3):
            exporter.offer(a_request())
    assert exporter.dropped == {"collector_away": BATCH_REQUESTS + 3}


async def test_the_end_does_not_wait_for_a_collector_that_hangs(caplog):
    async with fake_collector() as collector:
        collector.hangs = True
        exporter = an_exporter(collector.endpoint)
        async with asyncio.timeout(30), exporting(exporter):
            for _ in range(20 * BATCH_REQUESTS - 500):
                exporter.offer(a_request())
    assert "the last telemetry was dropped" in caplog.text


async def test_trouble_is_logged_once_and_so_is_its_end(traced, caplog):
    caplog.set_level(logging.INFO, "steelyard.proxy")
    traced.collector.status = 503
    await traced.fleet.chat()
    await until(lambda: len(traced.collector.bodies) >= 4)
    traced.collector.status = 200
    await until(lambda: "takes telemetry again" in caplog.text)
    assert caplog.text.count("the collector takes no telemetry: status 503") == 1
    assert traced.collector.endpoint not in caplog.text


async def test_headers_go_to_the_collector_only(traced):
    await traced.fleet.chat()
    await traced.exported()
    assert traced.collector.headers[0]["x-tenant"] == "of the collector"
    assert "x-tenant" not in traced.fleet.engines[0].last.headers
    assert "of the collector" not in repr(traced.export.exporter.collector)


async def test_metrics_are_cumulative_and_name_no_tenant(traced):
    for stream in (False, True):
        await traced.fleet.chat(stream=stream)
    await traced.yard.settled()

    def counted() -> bool:
        if not any(path == "/v1/metrics" for path, _ in traced.collector.bodies):
            return False
        usage = traced.collector.metrics().get("gen_ai.client.token.usage")
        return usage is not None and usage.histogram.data_points[0].count == 2

    await until(counted)
    metrics = traced.collector.metrics()
    assert set(metrics) == {
        "gen_ai.client.token.usage",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "steelyard.proxy.queue.duration",
        "steelyard.proxy.overhead.duration",
    }
    for metric in metrics.values():
        assert metric.histogram.aggregation_temporality == 2
        for point in metric.histogram.data_points:
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            assert sum(point.bucket_counts) == point.count > 0
            assert list(point.explicit_bounds) == sorted(point.explicit_bounds)
            assert point.start_time_unix_nano < point.time_unix_nano
            told = values(point.attributes)
            told.pop("gen_ai.token.type", None)
            assert told == {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "steelyard",
                "gen_ai.request.model": "pool",
                "http.route": "/v1/chat/completions",
            }
    sums = {
        values(point.attributes)["gen_ai.token.type"]: (point.count, point.sum)
        for point in metrics["gen_ai.client.token.usage"].histogram.data_points
    }
    assert sums == {"input": (2, 22), "output": (2, 10)}
    durations = metrics["gen_ai.server.request.duration"].histogram.data_points[0]
    recorded = [record.duration_us + record.raw["steelyard.queue_us"]
                for record in traced.yard.journal.usages]  # fmt: skip
    assert durations.sum == pytest.approx(sum(recorded) / 1_000_000)


async def test_metrics_count_what_no_span_is_made_of(open_traced):
    traced = await open_traced(share="0")
    await traced.fleet.chat()
    await until(lambda: any(b"token.usage" in body for _, body in traced.collector.bodies))
    assert traced.collector.spans == []


def test_spans_of_nothing_but_names_and_numbers_fit_in_a_batch():
    """A batch is to stay under what collectors take, 4 MiB by most defaults."""
    told = Usage(
        id=bytes(16),
        at_us=1,
        attribution=Attribution(
            tenant_id=1,
            project_id=1,
            key_id=1,
            model_id=1,
            price_version_id=1,
            backend="b",
            route="r",
            stream=True,
            served_model="m",
        ),
        counts=Counts(input=10**9, cached_input=10**9, cache_write=10**9, output=10**9),
        raw=Course(received_us=0, dispatched_us=10**12).figures(0, 10**12),
        cause="upstream_broke",
        estimated=True,
        ttft_us=10**12,
        duration_us=10**12,
    )
    one = a_request("r" * 256)
    widest = msgspec.structs.replace(one, told=told, stream=True, attempts=one.attempts * 3)
    assert len(spans_of(widest)) * BATCH_REQUESTS < 4 << 20


@pytest.mark.parametrize(
    "endpoint",
    ["", "collector:4318", "ftp://h", "http://", "http://h:0", "http://h:99999", "http://h/?a=b"],
)
def test_an_endpoint_that_cannot_work_stops_the_start(endpoint):
    with pytest.raises(ConfigurationError) as refused:
        checked_endpoint(endpoint)
    assert refused.value.field == "STEELYARD_OTLP_ENDPOINT"


def test_headers_are_read_as_opentelemetry_writes_them():
    assert read_headers("Authorization=Bearer%20abc%3D, x-a=1,") == {
        "authorization": "Bearer abc=",
        "x-a": "1",
    }


@pytest.mark.parametrize(
    "written", ["secret", "a b=secret", "=secret", "a=secret%0d%0a", "a=%C3%BC"]
)
def test_headers_that_cannot_be_sent_stop_the_start_unseen(written):
    with pytest.raises(ConfigurationError) as refused:
        read_headers(written)
    assert "secret" not in str(refused.value)
