"""Backends that refuse what only the meter asks of a stream."""

from __future__ import annotations

import json

import pytest

from tests.api.proxy.attempts.conftest import Fleet
from tests.fake_engine.server import Served
from tests.fake_engine.shapes import Behaviour

REFUSAL = b'{"error":{"message":"stream_options: extra fields not permitted","code":400}}'


@pytest.fixture
async def strict(open_fleet) -> Fleet:
    """One backend whose server answers 400 to `stream_options`."""
    fleet = await open_fleet(1, engine="generic")

    def answer(served: Served) -> Behaviour:
        if "stream_options" in served.body:
            return Behaviour(status=400, answer=REFUSAL)
        return Behaviour(shape="openai", tokens=3)

    fleet.engines[0].decide = answer
    return fleet


async def test_an_engine_that_refuses_the_injected_member_is_asked_without(strict):
    answer = await strict.chat(stream=True)
    assert answer.status_code == 200
    assert answer.content.count(b"[DONE]") == 1
    assert ["stream_options" in served.body for served in strict.engines[0].served] == [True, False]
    usage = strict.journal.usage
    # Without the member it says nothing of usage: what was delivered is a lower bound.
    assert (usage.estimated, usage.counts.output, usage.attempts) == (True, 3, ())
    await strict.chat(stream=True)
    assert len(strict.engines[0].served) == 3
    assert len(strict.journal.usages) == 2


async def test_a_member_that_the_client_set_is_refused_to_the_client(strict):
    answer = await strict.chat(stream=True, stream_options={"include_usage": True})
    assert (answer.status_code, answer.content) == (400, REFUSAL)
    assert len(strict.engines[0].served) == 1


async def test_what_is_refused_without_it_too_is_the_clients(strict):
    strict.engines[0].decide = lambda _: Behaviour(status=400, answer=REFUSAL)
    answer = await strict.chat(stream=True)
    assert (answer.status_code, answer.content) == (400, REFUSAL)
    assert len(strict.engines[0].served) == 2
    (void,) = strict.journal.voids
    assert void.reason == "upstream_refused"
    strict.engines[0].decide = lambda _: Behaviour(shape="openai")
    await strict.chat(stream=True)
    assert "stream_options" in json.loads(strict.engines[0].last.text)
