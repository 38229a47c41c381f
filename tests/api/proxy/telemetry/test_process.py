"""The export as a deployment has it: a process of the data plane, told where by its environment."""

from __future__ import annotations

import asyncio

from tests.api.proxy.telemetry.collector import fake_collector, values
from tests.faults.conftest import open_plant
from tests.faults.fleet import ProxyFleet
from tests.faults.stream_client import Ask
from tests.system import eventually

__all__ = ["open_plant"]


async def test_a_process_exports_what_it_has_before_it_ends(open_plant):
    async with fake_collector() as collector, open_plant(pace_ms=1) as plant:
        told = {
            "STEELYARD_OTLP_ENDPOINT": collector.endpoint,
            "STEELYARD_OTLP_HEADERS": "authorization=Basic%20c2VjcmV0",
        }
        fleet = ProxyFleet(plant.system, 1, told)
        await asyncio.to_thread(fleet.start)
        answers = [
            await fleet.client(Ask(model="engine-vllm", prompt=3, tokens=4, stream=stream)).run()
            for stream in (False, True)
        ]
        await asyncio.to_thread(fleet.stop)
        assert {values(span.attributes)["steelyard.request_id"] for span in collector.requests} == {
            answer.request_id for answer in answers
        }
        assert all(one["authorization"] == "Basic c2VjcmV0" for one in collector.headers)
        assert collector.metrics()["gen_ai.client.token.usage"].histogram.data_points
        spans = {
            values(span.attributes)["steelyard.request_id"]: values(span.attributes)
            for span in collector.requests
        }
        events = await asyncio.to_thread(
            eventually, plant.system.events, lambda found: len(found) == 2
        )
    for event in events:
        span = spans[f"req_{event.id.hex}"]
        assert span["steelyard.overhead_us"] == event.raw["steelyard.overhead_us"] > 0
        assert span["steelyard.queue_us"] == event.raw["steelyard.queue_us"] > 0
