"""Another model answers in place of the one that was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.proxy.answer_head import shown_name
from api.proxy.limits import Limits
from billing.admission.backend import Backend, ServedModel
from billing.metering.token_class import TokenClass
from tests.api.proxy.attempts.conftest import Fleet
from tests.api.proxy.conftest import TENANT
from tests.fake_engine.shapes import Behaviour

FAILS = Behaviour(status=503, answer=b"{}")
PLAIN = frozenset({TokenClass.INPUT, TokenClass.OUTPUT})


def with_fallback(fleet: Fleet, **members: object) -> None:
    """Engine 0 serves `pool`, engine 1 `small`, which takes its place."""
    first = fleet.yard.control.snapshot.models["pool"].backends[0]
    second = Backend(
        name="s0", base_url=fleet.engines[1].base_url, engine="vllm", model="org/small"
    )
    small = ServedModel(id=71, name="small", backends=(second,), classes=PLAIN)
    fleet.serve(small)
    fleet.change("pool", backends=(first,), fallbacks=("small",), **members)


@pytest.mark.parametrize("stream", [True, False])
async def test_price_is_of_the_model_served_and_the_model_asked_is_kept(fleet, stream):
    with_fallback(fleet)
    fleet.behave(FAILS, Behaviour(tokens=3, cached=4))
    answer = await fleet.chat(stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-steelyard-served-model"] == "small"
    assert fleet.engines[1].last.body["model"] == "org/small"
    usage = fleet.journal.usage
    assert (usage.attribution.model_id, usage.attribution.backend) == (71, "s0")
    assert usage.attribution.served_model == "org/small"
    # The classes are those of the model that served: it has no price for cached tokens.
    assert (usage.counts.input, usage.counts.cached_input) == (11, 0)
    assert [(failed.model_id, failed.backend) for failed in usage.attempts] == [(70, "e0")]
    served = await fleet.chat(model="small")
    assert "x-steelyard-served-model" not in served.headers


async def test_a_fallback_without_a_price_is_not_tried(fleet):
    with_fallback(fleet)
    snapshot = fleet.yard.control.snapshot
    terms = snapshot.terms[TENANT]
    priced = {name: classes for name, classes in terms.priced.items() if name != "small"}
    fleet.yard.control.snapshot = replace(snapshot, terms={TENANT: replace(terms, priced=priced)})
    fleet.behave(FAILS, Behaviour())
    assert (await fleet.chat()).status_code == 503
    assert fleet.served == [1, 0]


async def test_a_silent_backend_is_followed_by_a_fallback(open_fleet):
    fleet = await open_fleet(limits=Limits(first_byte_ms=300))
    with_fallback(fleet)
    fleet.behave(Behaviour(hang=True), Behaviour(tokens=3))
    answer = await fleet.chat(stream=True)
    assert answer.headers["x-steelyard-served-model"] == "small"
    (failed,) = fleet.journal.usage.attempts
    assert failed.reason == "timeout"


async def test_a_full_pool_is_relieved_by_a_fallback_and_without_one_nothing_is_written(fleet):
    with_fallback(fleet)
    fleet.reconfigure("e0", max_in_flight=1)
    fleet.behave(Behaviour(hang=True), Behaviour())
    waiting = await fleet.yard.stream(model="pool")
    while not fleet.engines[0].served:
        await fleet.chat(model="small")
    answer = await fleet.chat()
    assert answer.headers["x-steelyard-served-model"] == "small"
    fleet.change("pool", fallbacks=())
    before = len(fleet.journal.records)
    refused = await fleet.chat()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "service_unavailable"
    assert len(fleet.journal.records) == before
    waiting.leave()


async def test_attempts_are_counted_over_all_models(fleet):
    with_fallback(fleet, attempts=1)
    fleet.behave(FAILS, Behaviour())
    assert (await fleet.chat()).status_code == 503
    assert fleet.served == [1, 0]


async def test_a_backend_cannot_say_which_model_served(fleet):
    fleet.behave(*[Behaviour(headers=("x-steelyard-served-model: other",))] * 2)
    assert "x-steelyard-served-model" not in (await fleet.chat()).headers


def test_names_in_headers_begin_no_line():
    assert shown_name("org/m:7b") == b"org/m:7b"
    assert shown_name("a\r\nset-cookie: x\u00fc") == b"a??set-cookie:?x?"
