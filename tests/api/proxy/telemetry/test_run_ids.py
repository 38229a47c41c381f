"""Ids of an agent's run go with the usage, whole, streamed, refused by the engine or cut."""

from __future__ import annotations

import json

import pytest

from billing.journal.records import Attribution
from tests.fake_engine.shapes import Behaviour

CHAT = "/v1/chat/completions"
RUN = {"x-steelyard-run-id": "run-1", "x-steelyard-step-id": "s/2", "x-steelyard-agent-id": "ag"}
SECRET = "do-not-repeat-me"


def ids(attribution: Attribution) -> tuple[str, str, str]:
    return attribution.run_id, attribution.step_id, attribution.agent_id


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_go_with_every_record(yard, stream):
    body = {"model": "tiny", "messages": [], "stream": stream}
    answer = await yard.http.post(CHAT, json=body, headers=RUN)
    assert answer.status_code == 200
    assert yard.journal.records
    for record in yard.journal.records:
        if hasattr(record, "attribution"):
            assert ids(record.attribution) == ("run-1", "s/2", "ag")


async def test_a_void_has_them(yard):
    yard.engine.behaviour = Behaviour(status=500)
    await yard.http.post(CHAT, json={"model": "tiny", "messages": []}, headers=RUN)
    (void,) = yard.journal.voids
    assert ids(void.attribution) == ("run-1", "s/2", "ag")


async def test_a_header_wins_over_metadata(yard):
    metadata = {"run_id": "of-the-body", "agent_id": "Grüße"}
    body = {"model": "tiny", "messages": [], "metadata": metadata}
    headers = {"x-steelyard-run-id": "of-the-header"}
    assert (await yard.http.post(CHAT, json=body, headers=headers)).status_code == 200
    assert ids(yard.journal.usage.attribution) == ("of-the-header", "", "Grüße")


async def test_requests_without_ids_have_none(yard):
    assert (await yard.chat()).status_code == 200
    assert ids(yard.journal.usage.attribution) == ("", "", "")


@pytest.mark.parametrize(
    "value", [b"", b"a" * 257, SECRET.encode() + b"\tx", b"\xff" + SECRET.encode()]
)
async def test_what_is_no_id_is_refused_and_not_repeated(yard, value):
    body = {"model": "tiny", "messages": []}
    headers = [(b"x-steelyard-step-id", value)]
    answer = await yard.http.post(CHAT, json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-steelyard-step-id")
    assert SECRET not in answer.text
    assert yard.engine.served == []
    assert yard.journal.records == []


@pytest.mark.parametrize("value", ["a" * 257, "ü" * 129, "a\nb", "a\u0000b"])
async def test_what_is_no_id_in_metadata_is_refused(yard, value):
    content = json.dumps({"model": "tiny", "messages": [], "metadata": {"run_id": value}})
    answer = await yard.http.post(CHAT, content=content)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata.run_id")
    assert yard.engine.served == []


async def test_one_id_twice_is_refused(yard):
    headers = [(b"x-steelyard-run-id", b"a"), (b"x-steelyard-run-id", b"b")]
    answer = await yard.http.post(CHAT, json={"model": "tiny", "messages": []}, headers=headers)
    assert answer.status_code == 400
