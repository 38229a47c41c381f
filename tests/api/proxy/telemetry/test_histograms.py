"""Durations by route and model, and no label that a client could fill."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.proxy.tally import Tally
from api.proxy.telemetry.histograms import Durations, Histogram
from billing.journal.records import Attempted
from tests.fake_engine.shapes import Behaviour

BASE = {"route": "/v1/completions", "model": "m"}


def samples(histogram: Histogram) -> dict[str, float]:
    """Values by the bound of their bucket, beside `count` and `sum`."""
    found = {}
    for sample in histogram.collect().samples:
        found[sample.labels.get("le", sample.name.rsplit("_", 1)[1])] = sample.value
        assert {name: sample.labels[name] for name in BASE} == BASE
    return found


@pytest.mark.parametrize(
    ("duration_us", "le", "below"),
    [(0, "0.0001", None), (100, "0.0001", None), (101, "0.00025", "0.0001"),
     (600_000_001, "+Inf", "600.0")],
)  # fmt: skip
def test_a_duration_is_in_every_bucket_that_it_does_not_exceed(duration_us, le, below):
    histogram = Histogram("a_seconds", "A.")
    histogram.observe((BASE["route"], BASE["model"]), duration_us)
    found = samples(histogram)
    assert found[le] == 1
    assert below is None or found[below] == 0
    assert found["+Inf"] == found["count"] == 1
    assert found["sum"] == duration_us / 1_000_000


def test_buckets_are_cumulative():
    histogram = Histogram("a_seconds", "A.")
    for duration_us in (50, 200, 200, 3_000, 10**12):
        histogram.observe((BASE["route"], BASE["model"]), duration_us)
    found = samples(histogram)
    assert [found[le] for le in ("0.0001", "0.00025", "0.0025", "0.005", "600.0", "+Inf")] == [
        1, 3, 3, 4, 4, 5,
    ]  # fmt: skip


def test_the_time_between_tokens_is_the_streams_alone():
    durations = Durations()
    durations.add(("r", "m"), queue_us=10, ttft_us=20, total_us=1_030, inter_token_us=100)
    durations.add(("r", "m"), queue_us=10, ttft_us=20, total_us=1_030, inter_token_us=None)
    durations.add(("r", "m"), queue_us=10, ttft_us=0, total_us=1_030, inter_token_us=None)
    by_name = {metric.name: metric for metric in durations.collect()}
    figures = {
        name: {
            sample.name.rsplit("_", 1)[1]: sample.value
            for sample in metric.samples
            if "le" not in sample.labels
        }
        for name, metric in by_name.items()
    }
    assert figures["steelyard_proxy_inter_token_seconds"] == {"count": 1, "sum": 0.0001}
    assert figures["steelyard_proxy_time_to_first_token_seconds"]["count"] == 2
    assert figures["steelyard_proxy_queue_seconds"]["count"] == 3


async def test_what_prometheus_reads_names_routes_and_models_only(yard):
    yard.engine.behaviour = Behaviour(silent_ms=60)
    await yard.chat(stream=True)
    await yard.chat(model="not-there")
    families = text_string_to_metric_families(yard.app.tally.render().decode())
    seen = {family.name: family for family in families}
    names = [
        f"steelyard_proxy_{name}_seconds"
        for name in ("queue", "duration", "inter_token", "overhead")
    ]
    for name in [*names, "steelyard_proxy_time_to_first_token_seconds"]:
        for sample in seen[name].samples:
            assert {key: sample.labels[key] for key in sample.labels if key != "le"} == {
                "route": "/v1/chat/completions",
                "model": "tiny",
            }
    first = {
        sample.labels.get("le"): sample.value
        for sample in seen["steelyard_proxy_time_to_first_token_seconds"].samples
    }
    assert (first["0.05"], first["+Inf"]) == (0, 1)


def test_failed_attempts_are_counted_by_backend_and_reason():
    tally = Tally()
    failed = Attempted(0, 1, "b1", 5, 6, "refused_503")
    tally.add_attempts((failed, failed))
    line = 'steelyard_proxy_failed_attempts_total{backend="b1",reason="refused_503"} 2.0'
    assert line in tally.render().decode()
