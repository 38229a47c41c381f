"""Ids that backends issue: nobody reaches an object by an id that is not its tenant's (T1)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from api.proxy.holds import Holds
from billing.admission.binding import ObjectKind
from billing.admission.route import ROUTES, Serving
from tests.api.proxy.conftest import TENANT, until
from tests.api.proxy.limits.conftest import BookedHolds, limit_of
from tests.fake_engine.files_shapes import KeepingEngine

UNKNOWN = ("resp_1", "file-1", "batch_1", "resp_" + "0" * 48)
BY_ID = [
    (spec.method, spec.path) for spec in ROUTES if spec.stored is not None and "{" in spec.path
]
MADE = {"file": "file-theirs", "batch": "batch_theirs", "response": "resp_theirs"}


async def made_by_another(keep, kind: str) -> str:
    """An object of the other tenant."""
    if kind == "response":
        return (await keep.respond(keep.theirs)).json()["id"]
    file_id = (await keep.upload(client=keep.theirs)).json()["id"]
    if kind == "file":
        return file_id
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    return (await keep.theirs.post("/v1/batches", json=body)).json()["id"]


def everything_asked(keep) -> int:
    return len(keep.asked)


@pytest.mark.parametrize(("method", "path"), BY_ID)
async def test_T1_a_foreign_id_is_404_before_dispatch_in_a_path(keep, method, path):
    kind = path.partition("{")[2].partition("}")[0]
    theirs = await made_by_another(keep, kind)
    await keep.settled()
    asked, records = everything_asked(keep), len(keep.journal.records)
    answers = [
        await keep.mine.request(method, path.format(**{kind: name})) for name in (theirs, *UNKNOWN)
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1  # no id looks different from another
    assert {frozenset(answer.headers) for answer in answers} == {frozenset(answers[0].headers)}
    assert keep.bindings.found[-5:] == [theirs, *UNKNOWN]  # one look-up each, whatever it finds
    assert everything_asked(keep) == asked
    assert len(keep.journal.records) == records
    own = await keep.theirs.request(method, path.format(**{kind: theirs}))
    assert own.status_code == 200


@pytest.mark.parametrize(("method", "path"), BY_ID)
async def test_T1_without_a_place_for_bindings_there_is_no_object(yard, method, path):
    kind = path.partition("{")[2].partition("}")[0]
    answers = [await yard.http.request(method, path.format(**{kind: name})) for name in UNKNOWN]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert yard.engine.served == []


REFERENCES = {
    "previous_response_id": ("response", lambda name: {"previous_response_id": name}),
    "input_file": (
        "file",
        lambda name: {
            "input": [{"role": "user", "content": [{"type": "input_file", "file_id": name}]}]
        },
    ),
    "input_image": (
        "file",
        lambda name: {
            "input": [{"role": "user", "content": [{"type": "input_image", "file_id": name}]}]
        },
    ),
}


@pytest.mark.parametrize("member", REFERENCES)
async def test_T1_a_foreign_id_is_404_before_dispatch_in_a_body(keep, member):
    kind, reference = REFERENCES[member]
    theirs = await made_by_another(keep, kind)
    await keep.settled()
    asked, records = everything_asked(keep), len(keep.journal.records)
    names = (theirs, *UNKNOWN, "../x", "a\0b", "ü", "x" * 500)
    answers = [await keep.respond(**reference(name)) for name in names]
    assert {answer.status_code for answer in answers} == {404}, [each.text for each in answers]
    assert len({answer.content for answer in answers}) == 1
    assert keep.bindings.found[-5:] == [theirs, *UNKNOWN]  # no text that can be no id is looked up
    assert everything_asked(keep) == asked
    assert len(keep.journal.records) == records
    assert (await keep.respond(keep.theirs, **reference(theirs))).status_code == 200


async def test_T1_a_foreign_input_file_id_is_404_before_dispatch(keep):
    theirs = await made_by_another(keep, "file")
    asked = everything_asked(keep)
    answers = [await keep.submit(name) for name in (theirs, *UNKNOWN, "../x", "a\0b")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert everything_asked(keep) == asked


async def test_T1_a_file_in_a_chat_is_404_before_dispatch(keep):
    theirs = await made_by_another(keep, "file")
    asked = everything_asked(keep)
    content = [{"type": "file", "file": {"file_id": theirs}}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    assert (await keep.mine.post("/v1/chat/completions", json=body)).status_code == 404
    assert everything_asked(keep) == asked
    assert (await keep.theirs.post("/v1/chat/completions", json=body)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_id_is_bound_before_the_client_sees_it(keep, stream):
    keep.bindings.gate.clear()
    asking = asyncio.create_task(keep.respond(stream=stream))
    await until(lambda: keep.bindings.waiting)
    await asyncio.sleep(0.1)
    assert not asking.done()
    assert keep.journal.usages == []
    keep.bindings.gate.set()
    answer = await asking
    assert answer.status_code == 200
    ((kind, name),) = keep.bindings.bound
    assert kind is ObjectKind.RESPONSE
    assert name in answer.text
    await keep.settled()
    assert keep.journal.usage.counts.output == 4
    assert (await keep.mine.get(f"/v1/responses/{name}")).status_code == 200
    assert len(keep.journal.usages) == 1


async def test_no_byte_of_a_stream_leaves_before_its_id_is_bound(keep):
    keep.bindings.gate.clear()
    client = await keep.raw()
    body = json.dumps({"model": "tiny", "input": "hi", "stream": True}).encode()
    await client.post(body, "/v1/responses")
    await until(lambda: keep.bindings.waiting)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.reader.readexactly(1)
    keep.bindings.gate.set()
    assert b"response.created" in await client.until(b"response.completed")


@pytest.mark.parametrize("made", ["file", "batch"])
async def test_an_id_of_a_file_or_batch_is_bound_before_the_client_sees_it(keep, made):
    file_id = (await keep.upload()).json()["id"]
    count = len(keep.bindings.bound)
    asking = asyncio.create_task(keep.upload() if made == "file" else keep.submit(file_id))
    await until(lambda: len(keep.asked) > 1 and keep.first.issued == 2)
    assert (await asking).status_code == 200
    assert len(keep.bindings.bound) == count + 1
    keep.bindings.gate.clear()
    asking = asyncio.create_task(keep.upload())
    await until(lambda: keep.bindings.waiting)
    await asyncio.sleep(0.1)
    assert not asking.done()
    keep.bindings.gate.set()
    assert (await asking).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_id_that_cannot_be_bound_does_not_leave(keep, stream):
    keep.bindings.away = True
    answer = await keep.respond(stream=stream)
    assert answer.status_code == 503
    assert "resp_" not in answer.text
    await keep.settled()
    assert keep.journal.usages == []
    assert len(keep.journal.voids) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_T1_an_id_of_another_tenant_that_a_backend_issues_again_does_not_leave(keep, stream):
    theirs = await made_by_another(keep, "response")
    keep.first.issues = keep.second.issues = theirs
    answer = await keep.respond(stream=stream)
    assert answer.status_code == 502
    assert theirs not in answer.text
    assert (await keep.mine.get(f"/v1/responses/{theirs}")).status_code == 404
    file_id = await made_by_another(keep, "file")
    keep.first.issues = file_id
    answer = await keep.upload()
    assert answer.status_code == 502
    assert file_id not in answer.text


async def test_a_stream_that_changes_its_id_is_cut_before_the_new_one_leaves(keep):
    for engine in (keep.first, keep.second):
        engine.second_id, engine.pace = True, 0.02
    client = await keep.raw()
    body = json.dumps({"model": "tiny", "input": "hi", "stream": True}).encode()
    await client.post(body, "/v1/responses")
    seen = await client.rest()
    ((_, name),) = keep.bindings.bound
    assert b"five" in seen
    assert f"{name}x".encode() not in seen
    assert not seen.endswith(b"0\r\n\r\n"), "the client has to see that it broke off"
    await keep.settled()
    assert keep.journal.usage.cause == "upstream_broke"


async def test_what_is_not_stored_is_not_bound(keep):
    assert (await keep.respond(store=False)).status_code == 200
    assert (await keep.respond(model="chat", store=True)).status_code == 200
    assert keep.bindings.bound == {}


async def test_while_nobody_can_bind_inference_goes_on(keep):
    made = (await keep.respond()).json()["id"]
    keep.bindings.away, keep.bindings.healthy = True, False
    asked = everything_asked(keep)
    for answer in (
        await keep.mine.get(f"/v1/responses/{made}"),
        await keep.mine.get("/v1/files"),
        await keep.upload(),
        await keep.submit("file-1"),
        await keep.respond(store=True),
        await keep.respond(previous_response_id=made),
    ):
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "service_unavailable"
        assert answer.headers["retry-after"] == "1"
    assert everything_asked(keep) == asked
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    assert (await keep.mine.post("/v1/chat/completions", json=body)).status_code == 200
    assert (await keep.respond()).status_code == 200
    stored = [json.loads(each.body)["store"] for each in last_responses(keep)]
    assert stored[-1] is False


def last_responses(keep):
    """Requests for responses, at the backend that got the newest."""
    engines: list[KeepingEngine] = [keep.first, keep.second]
    return [
        asked
        for engine in engines
        for asked in engine.asked
        if asked.path == "/v1/responses" and b'"store"' in asked.body
    ]


async def test_a_request_goes_to_the_backend_that_keeps_what_it_names(keep):
    for model, engine in (("solo", "b"), ("tiny", None)):
        first = await keep.respond(model=model)
        made, kept_by = first.json()["id"], first.headers["x-engine"]
        assert engine in {None, kept_by}
        for _ in range(4):
            answer = await keep.respond(model="tiny", previous_response_id=made)
            assert answer.headers["x-engine"] == kept_by
        assert (await keep.mine.get(f"/v1/responses/{made}")).headers["x-engine"] == kept_by
    refused = await keep.respond(model="chat", previous_response_id=made)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "previous_response_id"


async def test_objects_at_two_backends_cannot_be_named_together(keep):
    ids = [
        (await keep.upload(**{"x-steelyard-model": model})).json()["id"]
        for model in ("tiny", "solo")
    ]
    assert ids[0][:6] != ids[1][:6]
    content = [{"type": "input_file", "file_id": name} for name in ids]
    answer = await keep.respond(input=[{"role": "user", "content": content}])
    assert answer.status_code == 400


async def test_looking_a_hundred_times_bills_nothing_and_counts_in_no_limit(keep):
    made = (await keep.respond()).json()["id"]
    file_id = (await keep.upload()).json()["id"]
    batch_id = (await keep.submit(file_id)).json()["id"]
    ids = {"response": made, "file": file_id, "batch": batch_id}
    await keep.settled()
    records = list(keep.journal.records)
    port, limit = BookedHolds(), limit_of(2)
    port.lease(limit)
    keep.app._inference._holds = keep.app._stored._holds = Holds(port, keep.app._clock)
    snapshot = keep.control.snapshot
    limited = replace(snapshot.terms[TENANT], limits=(limit,))
    keep.control.snapshot = replace(snapshot, terms={TENANT: limited})
    for spec in ROUTES:
        if spec.serving is Serving.STORED and spec.method == "GET":
            for _ in range(100):
                answer = await keep.mine.get(spec.path.format(**ids))
                assert answer.status_code == 200, spec.path
    await keep.settled()
    assert keep.journal.records == records
    assert [*keep.bindings.batches] == [batch_id]
    assert port.held == {"budget": (0, 0)}


async def test_a_query_reaches_a_backend_only_as_it_is_known(keep):
    made = (await keep.respond()).json()["id"]
    await keep.mine.get(f"/v1/responses/{made}/input_items?limit=5&order=asc&include[]=a.b")
    target = next(
        asked.target
        for asked in keep.first.asked + keep.second.asked
        if asked.path.endswith("/input_items")
    )
    assert target.partition("?")[2] in {
        "limit=5&order=asc&include[]=a.b",
        "limit=5&order=asc&include%5B%5D=a.b",
    }
    for query in ("x=1", "limit=5&x=1", "limit=a/b", "limit=5%0d%0a", "limit=1&after=a b"):
        client = await keep.raw()
        await client.send(
            b"GET /v1/responses/%b?%b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"authorization: %b\r\n\r\n"
            % (made.encode(), query.encode(), keep.mine.headers["authorization"].encode())
        )
        status = (await client.rest()).split(b" ", 2)[1]
        assert status == (b"200" if query == "limit=5%0d%0a" else b"400"), query


async def test_backends_are_told_to_keep_no_response_where_nobody_binds(yard):
    """What nobody can ask for again is not to lie there."""
    for asked in ({}, {"store": True}, {"store": False}):
        await yard.http.post("/v1/responses", json={"model": "tiny", "input": "hi", **asked})
    assert [served.body["store"] for served in yard.engine.served] == [False] * 3
