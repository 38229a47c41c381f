"""Images, counted where they come from: in the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from billing.admission.route import Route
from billing.journal.records import Counts
from tests.api.proxy.endpoints.asks import ASKS, body, whole

ASK = next(ask for ask in ASKS if ask.route is Route.IMAGES)
TOKENS = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 60,
    "total_tokens": 110,
}


@pytest.mark.parametrize("came", [0, 1, 2])
async def test_images_are_counted_from_the_answer(desk, came):
    await desk.ask(replace(ASK, script=whole({"data": [{"b64_json": "AA=="}] * came})))
    assert desk.journal.usage.units == {"images": came}
    assert desk.journal.usage.counts == Counts()


async def test_tokens_are_counted_where_they_are_told(desk):
    await desk.ask(replace(ASK, script=whole({"data": [{}], "usage": TOKENS})))
    usage = desk.journal.usage
    assert usage.units == {"images": 1}
    assert usage.counts == Counts(input=50, output=60)
    assert usage.raw["input_tokens_details.image_tokens"] == 40


async def test_an_answer_without_images_is_flagged(desk):
    await desk.ask(replace(ASK, script=whole({"ok": True})))
    assert desk.journal.usage.estimated
    assert desk.app.tally.anomalies["usage_missing"] == 1


async def test_streams_of_images_are_refused(desk):
    answer = await desk.ask(ASK, body(Route.IMAGES, prompt="p", stream=True))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")
    assert desk.engine.seen == []
