"""What is only looked at costs nothing."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import pytest

from billing.admission.route import ROUTES, Serving
from tests.api.proxy.conftest import BLIND_KEY

GETS = [spec.path for spec in ROUTES if spec.method == "GET" and spec.serving is not Serving.STORED]


@pytest.mark.parametrize("path", GETS)
async def test_polling_a_hundred_times_bills_nothing(desk, path):
    for _ in range(100):
        answer = await desk.http.get(path.format(model="text"))
        assert answer.status_code == 200
    assert desk.engine.seen == []
    assert desk.journal.records == []


async def test_a_model_is_shown_by_its_name(desk):
    desk.control.snapshot = replace(
        desk.control.snapshot,
        models={**desk.control.snapshot.models, "org/m:8b": desk.control.snapshot.models["text"]},
    )
    answer = await desk.http.get("/v1/models/text")
    assert answer.json() == {
        "id": "text",
        "object": "model",
        "created": 5,
        "owned_by": "steelyard",
    }


@pytest.mark.parametrize("written", ["org/m:8b", "org%2Fm%3A8b", "org%2fm:8b"])
async def test_names_with_slashes_are_found_however_they_are_escaped(desk, written):
    snapshot = desk.control.snapshot
    model = replace(snapshot.models["text"], name="org/m:8b")
    terms = snapshot.terms[7]
    priced = {**terms.priced, "org/m:8b": model.classes}
    desk.control.snapshot = replace(
        snapshot,
        models={**snapshot.models, "org/m:8b": model},
        terms={7: replace(terms, priced=priced)},
    )
    client = await desk.raw()
    key = desk.http.headers["authorization"].encode()
    await client.send(
        b"GET /v1/models/%b HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: %b\r\n\r\n"
        % (written.encode(), key)
    )
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"id":"org/m:8b"' in answer


async def test_names_in_other_scripts_are_found(desk):
    snapshot = desk.control.snapshot
    model = replace(snapshot.models["text"], name="名前 (8b)")
    terms = snapshot.terms[7]
    desk.control.snapshot = replace(
        snapshot,
        models={model.name: model},
        terms={7: replace(terms, priced={model.name: model.classes})},
    )
    answer = await desk.http.get(f"/v1/models/{quote(model.name)}")
    assert answer.json()["id"] == model.name


@pytest.mark.parametrize("name", ["nobody-serves-this", "no-price-text", "text/", "..", "%00"])
async def test_models_that_a_key_cannot_use_are_not_there(desk, name):
    answer = await desk.http.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    blind = {"authorization": f"Bearer {BLIND_KEY}"}
    assert (await desk.http.get("/v1/models/text", headers=blind)).status_code == 404
    assert (
        await desk.http.get("/v1/models/text", headers={"authorization": ""})
    ).status_code == 401


async def test_every_kind_of_model_is_listed(desk):
    answer = await desk.http.get("/v1/models")
    names = {row["id"] for row in answer.json()["data"]}
    assert names >= {"text", "embed", "rank", "hear", "speak", "paint"}
    assert not any(name.startswith("no-price-") for name in names)
