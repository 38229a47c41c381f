"""A batch runs only if each of its lines would have been admitted, and never unrecorded."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from api.proxy.holds import Holds
from api.proxy.limits import Limits
from billing.admission.amounts import ATTO, PICO, Rates
from billing.admission.bound import TEMPLATE_TOKENS
from tests.api.proxy.conftest import until
from tests.api.proxy.limits.conftest import BookedHolds, limit_of
from tests.api.proxy.stored.conftest import TENANT, Keep, file_of, request_line

PER_PICO = ATTO // PICO


async def submitted(keep: Keep, content: bytes, **members: object):
    """What becomes of a batch of a file."""
    file_id = (await keep.upload(content)).json()["id"]
    return await keep.submit(file_id, **members)


async def test_a_batch_is_recorded_with_what_it_is_billed_by(keep):
    content = file_of(request_line("1"), request_line("2"))
    file_id = (await keep.upload(content)).json()["id"]
    answer = await keep.submit(file_id, metadata={"a": "b"})
    assert answer.status_code == 200, answer.text
    batch = keep.bindings.batches[answer.json()["id"]]
    assert batch.binding.object_id == answer.headers["x-steelyard-request-id"]
    assert (batch.binding.tenant_id, batch.binding.project_id, batch.binding.key_id) == (7, 8, 9)
    assert (batch.binding.backend, batch.binding.model_id) == ("a", 1)
    assert (batch.endpoint, batch.price_version_id) == ("/v1/chat/completions", 31)
    assert batch.input_file_id == file_id
    assert json.loads(keep.first.asked[-1].body)["metadata"] == {"a": "b"}
    assert keep.journal.records == []  # its lines are billed when they have run


async def test_a_batch_runs_where_its_file_lies(keep):
    file_id = (await keep.upload(**{"x-steelyard-model": "solo"})).json()["id"]
    assert (await keep.submit(file_id)).headers["x-engine"] == "b"
    assert keep.first.batches == {}


async def test_models_of_a_batch_that_differ_are_left_to_its_lines(keep):
    keep.control.snapshot = replace(
        keep.control.snapshot,
        models={
            **keep.control.snapshot.models,
            "solo": replace(keep.control.snapshot.models["tiny"], id=2, name="solo"),
        },
    )
    other = request_line("2", body={"model": "solo", "messages": []})
    assert (await submitted(keep, file_of(request_line(), other))).status_code == 200
    (batch,) = keep.bindings.batches.values()
    assert batch.binding.model_id is None


async def test_a_line_names_its_model_as_the_backend_knows_it(keep):
    models = keep.control.snapshot.models
    own = replace(models["tiny"].backends[0], model="up/tiny")
    keep.control.snapshot = replace(
        keep.control.snapshot, models={**models, "tiny": replace(models["tiny"], backends=(own,))}
    )
    by_ours = await submitted(keep, file_of(request_line()))
    assert by_ours.status_code == 400
    line = request_line(body={"model": "up/tiny", "messages": []})
    assert (await submitted(keep, file_of(line))).status_code == 200


def body(**members: Any) -> dict[str, Any]:
    return {"body": {"model": "tiny", "messages": [], **members}}


MEDIA = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]
TWICE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{},"body":{}}'
REFUSED = {
    "no json": b"{",
    "empty": b"\n\n",
    "twice": TWICE,
    "no body": b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions"}',
    "method": file_of(request_line(method="GET")),
    "url": file_of(request_line(url="/v1/embeddings")),
    "admin url": file_of(request_line(url="/pause")),
    "same id": file_of(request_line("1"), request_line("1")),
    "no id": file_of(request_line("")),
    "strange id": file_of(request_line("a\nb")),
    "long id": file_of(request_line("a" * 129)),
    "unknown model": file_of(request_line(**body(model="nobody-serves-this"))),
    "elsewhere": file_of(request_line(**body(model="solo"))),
    "unpriced": file_of(request_line(), request_line("2", **body(model="dear"))),
    "stream": file_of(request_line(**body(stream=True))),
    "operator's": file_of(request_line(**body(priority=1))),
    "unknown member": file_of(request_line(**body(zzz=1))),
    "media": file_of(request_line(body={"model": "tiny", "messages": MEDIA})),
    "late": file_of(*[request_line(str(number)) for number in range(50)], request_line("7")),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_line_that_would_not_be_admitted_keeps_its_batch_from_running(keep, name):
    answer = await submitted(keep, REFUSED[name])
    assert answer.status_code in {400, 403}, answer.text
    assert keep.first.batches == {}
    assert keep.bindings.batches == keep.bindings.intended == {}
    assert "nobody-serves-this" not in answer.text
    assert "http://x" not in answer.text


async def test_a_batch_has_not_more_lines_than_the_limit(open_keep):
    keep = await open_keep(Limits(batch_lines=3, drain_ms=2_000))
    lines = [request_line(str(number)) for number in range(4)]
    assert (await submitted(keep, file_of(*lines))).status_code == 400
    assert (await submitted(keep, file_of(*lines[:3]).rstrip(b"\n"))).status_code == 200


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"endpoint": "/v1/images/generations"}, 400),
        ({"endpoint": "/pause"}, 400),
        ({"endpoint": 1}, 400),
        ({"input_file_id": 7}, 400),
        ({"zzz": 1}, 400),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400),
    ],
)
async def test_a_batch_that_is_none_is_refused(keep, members, status):
    answer = await submitted(keep, b"", **members)
    assert answer.status_code == status, answer.text
    assert keep.first.batches == {}


async def test_a_backend_that_runs_no_batches_gets_none(keep):
    models = keep.control.snapshot.models
    for changes in ({"stores": frozenset({"files"})}, {"cache_salt": True}):
        backend = replace(models["tiny"].backends[0], **changes)
        keep.control.snapshot = replace(
            keep.control.snapshot, models={"tiny": replace(models["tiny"], backends=(backend,))}
        )
        assert (await submitted(keep, b"")).status_code == 404
    assert keep.first.batches == {}


async def test_a_tenant_without_a_contract_runs_no_batch(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.control.snapshot = replace(keep.control.snapshot, terms={})
    assert (await keep.submit(file_id)).status_code == 403
    assert keep.first.batches == {}


async def test_an_exhausted_limit_refuses_a_batch_and_one_with_room_holds_nothing(keep):
    port, limit = BookedHolds(), limit_of(1)
    port.lease(limit)
    keep.app._stored._holds = Holds(port, keep.app._clock)
    snapshot = keep.control.snapshot
    limited = {**snapshot.terms, TENANT: replace(snapshot.terms[TENANT], limits=(limit,))}
    keep.control.snapshot = replace(snapshot, terms=limited)
    for _ in range(3):
        assert (await submitted(keep, b"")).status_code == 200
    assert port.held == {"budget": (0, 0)}
    exhausted = replace(limit_of(0), id=2)
    port.lease(exhausted)
    limited[TENANT] = replace(limited[TENANT], limits=(exhausted,))
    keep.control.snapshot = replace(snapshot, terms=limited)
    answer = await submitted(keep, b"")
    assert answer.status_code == 429, answer.text
    assert len(keep.first.batches) == 3


async def test_a_batch_that_cannot_be_recorded_is_given_up(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.first.delay = 0.2
    asking = asyncio.create_task(keep.submit(file_id))
    await until(lambda: keep.first.batches)
    keep.bindings.away = True
    answer = await asking
    assert answer.status_code == 503
    ((batch_id, batch),) = keep.first.batches.items()
    assert batch["status"] == "cancelling"
    assert batch_id not in answer.text
    assert len(keep.bindings.intended) == 1


async def test_a_backend_is_asked_only_for_what_is_written_down(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.first.delay = 0.2
    asking = asyncio.create_task(keep.submit(file_id))
    await until(lambda: keep.first.batches)
    (intended,) = keep.bindings.intended.values()
    assert (intended.input_file_id, keep.bindings.batches) == (file_id, {})
    assert (await asking).status_code == 200
    assert keep.bindings.intended == {}
    keep.bindings.away = True
    assert (await keep.submit(file_id)).status_code == 503
    assert len(keep.first.batches) == 1


async def test_what_a_backend_refuses_is_not_intended_any_more(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.first.runs_batches = False
    assert (await keep.submit(file_id)).status_code == 404
    assert keep.bindings.batches == keep.bindings.intended == {}


async def test_a_prepaid_batch_needs_the_credit_for_all_of_its_lines(keep):
    """Per line the prompt at 2, of any byte a token, and `max_tokens` for each of `n` at 3."""
    snapshot = keep.control.snapshot
    terms = replace(
        snapshot.terms[TENANT],
        prepaid=5,
        currency="USD",
        rates={"tiny": Rates(input=2 * PER_PICO, output=3 * PER_PICO)},
    )
    keep.control.snapshot = replace(snapshot, terms={**snapshot.terms, TENANT: terms})
    body = {"model": "tiny", "messages": [], "max_tokens": 50, "n": 2}
    prompt = len(json.dumps(body["messages"])) + TEMPLATE_TOKENS
    most = 3 * (2 * prompt + 3 * 50 * 2)
    content = file_of(*(request_line(str(number), body=body) for number in range(3)))
    file_id = (await keep.upload(content)).json()["id"]
    keep.bindings.credit = most - 1
    refused = await keep.submit(file_id)
    assert refused.status_code == 402, refused.text
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert keep.first.batches == keep.bindings.intended == {}
    keep.bindings.credit = most
    taken = await keep.submit(file_id)
    assert taken.status_code == 200
    assert keep.bindings.batches[taken.json()["id"]].most == most


async def test_a_client_that_leaves_leaves_no_batch_unrecorded(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.first.delay = 0.3
    client = await keep.raw()
    await client.post(
        json.dumps({"input_file_id": file_id, "endpoint": "/v1/chat/completions"}).encode(),
        "/v1/batches",
    )
    await until(lambda: keep.first.batches)
    client.leave()
    await keep.settled()
    assert [*keep.bindings.batches] == [*keep.first.batches]


async def test_a_client_that_leaves_leaves_no_batch_that_could_not_be_recorded(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.first.delay = 0.2
    client = await keep.raw()
    await client.post(
        json.dumps({"input_file_id": file_id, "endpoint": "/v1/chat/completions"}).encode(),
        "/v1/batches",
    )
    await until(lambda: keep.first.batches)
    client.leave()
    keep.bindings.away = True
    await keep.settled()
    (batch,) = keep.first.batches.values()
    assert batch["status"] == "cancelling"
    assert keep.bindings.batches == {}
    # What became of it is looked up: it may have run.
    assert len(keep.bindings.intended) == 1


async def test_a_batch_is_cancelled_where_it_runs(keep):
    batch_id = (await submitted(keep, b"")).json()["id"]
    answer = await keep.mine.post(f"/v1/batches/{batch_id}/cancel")
    assert answer.json()["status"] == "cancelling"
    listed = (await keep.mine.get("/v1/batches")).json()
    assert [row["id"] for row in listed["data"]] == [batch_id]
    assert (await keep.theirs.get("/v1/batches")).json()["data"] == []


async def test_a_large_file_of_lines_delays_nobody_for_long(keep):
    """Other requests get their turn between the lines."""
    lines = file_of(*[request_line(str(number)) for number in range(5_000)])
    file_id = (await keep.upload(lines)).json()["id"]
    asking = asyncio.create_task(keep.submit(file_id))
    turns = 0
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await asking).status_code == 200
    assert turns > 5_000 // 32
