"""The Responses API."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from billing.admission.route import Route
from billing.journal.records import Counts
from tests.api.proxy.endpoints.asks import ASKS, response, response_stream, whole

WHOLE, STREAM = (ask for ask in ASKS if ask.route is Route.RESPONSES)
COUNTED = Counts(input=7, cached_input=4, output=5, reasoning=2)


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_incomplete_failed_and_cancelled_bill_what_they_report(desk, status, streamed):
    if streamed:
        ask = replace(STREAM, script=response_stream(f"response.{status}"))
    else:
        ask = replace(WHOLE, script=whole(response(status)))
    answer = await desk.ask(ask)
    assert answer.content == ask.script.body
    await desk.settled()
    usage = desk.journal.usage
    assert usage.counts == COUNTED
    assert not usage.estimated


async def test_the_end_is_held_until_the_usage_is_durable(desk):
    desk.journal.gate.clear()
    client = await desk.raw()
    desk.engine.script = STREAM.script
    await client.post(STREAM.body, STREAM.route.value)
    desk.journal.gate.set()
    await client.until(b" 3")
    desk.journal.gate.clear()
    got = b""
    while b" 4" not in got:
        got += await client.reader.read(100)
    assert b"response.completed" not in got
    assert not desk.journal.usages
    desk.journal.gate.set()
    await client.until(b"response.completed")
    assert desk.journal.usage.counts == COUNTED


async def test_nothing_is_spliced_in_for_usage(desk):
    await desk.ask(STREAM)
    assert desk.engine.seen[0].body == STREAM.body


@pytest.mark.parametrize(
    ("members", "status", "field"),
    [
        ({"background": True}, 400, "background"),
        ({"conversation": "conv_1"}, 400, "conversation"),
        ({"previous_response_id": "resp_1"}, 404, "previous_response_id"),
        ({"input": [{"role": "user", "content": [{"file_id": "f"}]}]}, 404, "file_id"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, 404, "input"),
        ({"tools": [{"type": "code_interpreter"}]}, 400, "tools"),
        ({"new_thing": 1}, 400, "new_thing"),
    ],
)
async def test_what_would_run_or_stay_unwatched_goes_no_further(desk, members, status, field):
    body = json.dumps({**json.loads(WHOLE.body), **members}).encode()
    answer = await desk.ask(WHOLE, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field)
    assert desk.engine.seen == []
    assert desk.journal.records == []
