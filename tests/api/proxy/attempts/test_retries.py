"""One operation, several attempts: who takes over from whom, and what is written."""

from __future__ import annotations

import httpx
import pytest

from api.proxy.limits import Limits
from billing.journal.records import UNREACHED, Counts, Usage
from tests.api.proxy.attempts.conftest import DEAD
from tests.api.proxy.conftest import until
from tests.fake_engine.shapes import Behaviour

OVERLOADED = b'{"error":{"message":"busy","code":429}}'

TAKEN_OVER = {
    "drops": (Behaviour(drops=True), "upstream_broke"),
    "headless": (Behaviour(headless=True), "upstream_broke"),
    "empty": (Behaviour(empty=True), "empty_answer"),
    "429": (Behaviour(status=429, answer=OVERLOADED), "refused_429"),
    "502": (Behaviour(status=502, answer=b"x"), "refused_502"),
    "503": (Behaviour(status=503, answer=b"x"), "refused_503"),
    "504": (Behaviour(status=504, answer=b"x"), "refused_504"),
}


@pytest.mark.parametrize("kind", TAKEN_OVER)
async def test_a_backend_that_dies_before_a_byte_is_left_for_another(fleet, kind):
    failing, reason = TAKEN_OVER[kind]
    fleet.behave(failing, Behaviour(tokens=3))
    answer = await fleet.chat(stream=True)
    assert answer.status_code == 200
    assert answer.content.count(b"[DONE]") == 1
    assert fleet.served == [1, 1]
    usage = fleet.journal.usage
    assert (usage.attribution.backend, usage.counts.output) == ("e1", 3)
    assert [(failed.ordinal, failed.backend, failed.reason) for failed in usage.attempts] == [
        (0, "e0", reason)
    ]
    assert fleet.journal.voids == []


@pytest.mark.parametrize("kind", ["drops", "429", "502", "503", "504"])
async def test_whole_answers_are_taken_over_too(fleet, kind):
    failing, reason = TAKEN_OVER[kind]
    fleet.behave(failing, Behaviour(tokens=3))
    answer = await fleet.chat()
    assert (answer.status_code, answer.content) == (200, fleet.engines[1].last.sent)
    usage = fleet.journal.usage
    assert [failed.reason for failed in usage.attempts] == [reason]
    # A crash before the end keeps the row: the intent says what has failed.
    assert [intent.attempts for intent in fleet.journal.intents] == [usage.attempts]


async def test_no_retry_after_the_first_byte(fleet):
    fleet.behave(Behaviour(tokens=20, break_after=4, pace_ms=1), Behaviour())
    with pytest.raises(httpx.RemoteProtocolError):
        await fleet.chat(stream=True)
    await fleet.yard.settled()
    assert fleet.served == [1, 0]
    usage = fleet.journal.usage
    assert (usage.cause, usage.counts, usage.attempts) == (
        "upstream_broke",
        Counts(input=11, output=4),
        (),
    )


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500, 501])
async def test_client_errors_are_not_retried(fleet, status):
    refusal = Behaviour(status=status, answer=b'{"error":{"message":"no"}}')
    fleet.behave(refusal, Behaviour())
    answer = await fleet.chat()
    assert answer.status_code == (502 if status in {401, 403} else status)
    assert fleet.served == [1, 0]
    (void,) = fleet.journal.voids
    assert (void.reason, void.attempts) == ("upstream_refused", ())


@pytest.mark.parametrize("stream", [True, False])
async def test_one_operation_one_bill_and_a_row_per_attempt(open_fleet, stream):
    fleet = await open_fleet(4)
    fleet.change("pool", attempts=4)
    fleet.behave(
        Behaviour(drops=True),
        Behaviour(status=503, answer=b"{}"),
        Behaviour(status=429, answer=OVERLOADED),
        Behaviour(tokens=6),
    )
    answer = await fleet.chat(stream=stream)
    assert answer.status_code == 200
    assert fleet.served == [1, 1, 1, 1]
    usage = fleet.journal.usage
    assert [record for record in fleet.journal.records if isinstance(record, Usage)] == [usage]
    assert fleet.journal.voids == []
    assert [(failed.ordinal, failed.backend) for failed in usage.attempts] == [
        (0, "e0"),
        (1, "e1"),
        (2, "e2"),
    ]
    assert {failed.model_id for failed in usage.attempts} == {70}
    assert all(failed.duration_us >= 0 for failed in usage.attempts)
    assert {intent.id for intent in fleet.journal.intents} == {usage.id}
    assert max(len(intent.attempts) for intent in fleet.journal.intents) == 3
    assert answer.headers["x-steelyard-request-id"] == "req_" + usage.id.hex()


@pytest.mark.parametrize("stream", [True, False])
async def test_when_all_fail_the_last_answer_is_the_clients_and_one_void_names_the_others(
    fleet, stream
):
    busy = b'{"error":{"message":"all my slots are taken"}}'
    fleet.behave(Behaviour(drops=True), Behaviour(status=503, answer=busy))
    answer = await fleet.chat(stream=stream)
    assert (answer.status_code, answer.content) == (503, busy)
    assert fleet.journal.usages == []
    (void,) = fleet.journal.voids
    assert (void.reason, void.attribution.backend) == ("upstream_refused", "e1")
    assert [(failed.backend, failed.reason) for failed in void.attempts] == [
        ("e0", "upstream_broke")
    ]


async def test_attempts_are_bounded(open_fleet):
    fleet = await open_fleet(4)
    fleet.behave(*[Behaviour(drops=True)] * 4)
    answer = await fleet.chat()
    assert answer.status_code == 502
    assert sorted(fleet.served) == [0, 1, 1, 1]
    (void,) = fleet.journal.voids
    assert len(void.attempts) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_backend_that_nobody_reached_is_no_scrap(fleet, stream):
    fleet.reconfigure("e0", base_url=DEAD)
    answer = await fleet.chat(stream=stream)
    assert answer.status_code == 200
    assert [failed.reason for failed in fleet.journal.usage.attempts] == [UNREACHED]
    fleet.reconfigure("e1", base_url=DEAD)
    answer = await fleet.chat(stream=stream)
    assert answer.status_code == 502
    (void,) = fleet.journal.voids
    assert void.reason == UNREACHED


async def test_a_stale_pooled_connection_is_no_attempt(fleet):
    fleet.reconfigure("e1", draining=True)
    for _ in range(3):
        assert (await fleet.chat()).status_code == 200
        fleet.engines[0].drop_connections()
    assert [usage.attempts for usage in fleet.journal.usages] == [()] * 3


async def test_a_silent_backend_is_not_followed_by_another_of_its_pool(open_fleet):
    fleet = await open_fleet(limits=Limits(first_byte_ms=300))
    fleet.behave(Behaviour(hang=True), Behaviour())
    answer = await fleet.chat()
    assert answer.status_code == 504
    assert fleet.served == [1, 0]


async def test_a_request_that_one_engine_does_not_take_goes_to_one_that_does(fleet):
    fleet.reconfigure("e0", engine="openai")
    answer = await fleet.chat(top_k=4)
    assert answer.status_code == 200
    assert fleet.served == [0, 1]
    assert fleet.journal.usage.attempts == ()
    fleet.reconfigure("e1", engine="openai")
    refused = await fleet.chat(top_k=4)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "top_k")


async def test_a_client_that_leaves_during_the_second_attempt_stops_it(fleet):
    fleet.behave(Behaviour(status=503, answer=b"{}"), Behaviour(hang=True))
    client = await fleet.yard.stream(model="pool")
    await until(lambda: fleet.served == [1, 1])
    client.leave()
    await fleet.engines[1].last.left.wait()
    await fleet.yard.settled()
    (void,) = fleet.journal.voids
    assert void.reason == "client_left"
    assert [failed.backend for failed in void.attempts] == ["e0"]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_void_is_the_last_attempt_that_reached_a_backend(fleet, stream):
    fleet.behave(Behaviour(drops=True), Behaviour())
    fleet.reconfigure("e1", base_url=DEAD)
    assert (await fleet.chat(stream=stream)).status_code == 502
    (void,) = fleet.journal.voids
    assert (void.reason, void.attribution.backend) == ("upstream_broke", "e0")
    assert void.attempts == ()
