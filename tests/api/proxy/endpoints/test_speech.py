"""Speech: text in, sound out."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from billing.admission.route import Route
from tests.api.proxy.conftest import until
from tests.api.proxy.endpoints.asks import ASKS, body

ASK = next(ask for ask in ASKS if ask.route is Route.SPEECH)


async def test_characters_are_billed_before_the_sound_leaves(desk):
    desk.journal.gate.clear()
    asking = asyncio.create_task(desk.ask(ASK))
    await until(lambda: desk.journal.waiting)
    await asyncio.sleep(0.05)
    assert not asking.done()
    desk.journal.gate.set()
    answer = await asking
    assert answer.content == ASK.script.body
    assert answer.headers["content-type"] == "audio/mpeg"
    assert desk.journal.usage.units == {"speech.characters": 6}


async def test_no_sound_leaves_when_its_bill_cannot_be_written(desk):
    desk.journal.refuses = True
    answer = await desk.ask(ASK)
    assert answer.status_code == 503
    assert b"ID3" not in answer.content


async def test_sound_that_breaks_off_is_not_billed(desk):
    answer = await desk.ask(replace(ASK, script=replace(ASK.script, broken=True)))
    assert answer.status_code == 502
    await desk.settled()
    assert desk.journal.usages == []
    assert [void.reason for void in desk.journal.voids] == ["upstream_broke"]


async def test_events_are_refused(desk):
    asked = body(Route.SPEECH, input="x", voice="v", stream_format="sse")
    answer = await desk.ask(ASK, asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream_format")
    assert desk.engine.seen == []


async def test_an_error_in_place_of_sound_passes_and_is_not_billed(desk):
    """Gateways before an engine send its errors on with status 200."""
    error = b'{"error": {"message": "no voice", "code": 500}}'
    script = replace(ASK.script, pieces=(error,), content_type="application/json")
    answer = await desk.ask(replace(ASK, script=script))
    assert (answer.status_code, answer.content) == (200, error)
    await desk.settled()
    assert desk.journal.usages == []
    assert [void.reason for void in desk.journal.voids] == ["upstream_refused"]
