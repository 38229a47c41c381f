"""What a backend gets besides the client's bytes, by what is configured of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from billing.admission.route import Route
from tests.api.proxy.conftest import KEY
from tests.api.proxy.endpoints.asks import ASKS, Ask, body

CHAT = next(ask for ask in ASKS if ask.route is Route.CHAT_COMPLETIONS)
MESSAGE = next(ask for ask in ASKS if ask.route is Route.MESSAGES)


def configure(desk, **members: object) -> None:
    """Say something else of the backend of the text model."""
    snapshot = desk.control.snapshot
    model = snapshot.models["text"]
    model = replace(model, backends=(replace(model.backends[0], **members),))
    desk.control.snapshot = replace(snapshot, models={**snapshot.models, "text": model})


def with_picture(url: str) -> bytes:
    part = {"type": "image_url", "image_url": {"url": url}}
    return body(Route.CHAT_COMPLETIONS, messages=[{"role": "user", "content": [part]}])


async def test_media_are_fetched_from_allowed_hosts_only(desk):
    picture = with_picture("https://media.example/a.png")
    refused = await desk.ask(CHAT, picture)
    assert (refused.status_code, "media.example" in refused.text) == (400, False)
    assert (await desk.ask(CHAT, with_picture("data:image/png;base64,AA=="))).status_code == 200
    configure(desk, media_hosts=frozenset({"media.example"}))
    assert (await desk.ask(CHAT, picture)).status_code == 200
    other = with_picture("https://media.example.evil/a.png")
    assert (await desk.ask(CHAT, other)).status_code == 400
    assert len(desk.engine.seen) == 2


async def test_prefix_caches_are_kept_apart_per_tenant_and_shared_within_one(desk):
    await desk.ask(CHAT)
    configure(desk, cache_salt=True)
    forged = json.dumps({**json.loads(CHAT.body), "cache_salt": "another tenant's"}).encode()
    await desk.ask(CHAT, forged)
    await desk.ask(CHAT)
    plain, first, second = (json.loads(seen.body) for seen in desk.engine.seen)
    assert "cache_salt" not in plain
    assert first["cache_salt"] == second["cache_salt"] != "another tenant's"


@pytest.mark.parametrize(("engine", "named"), [("vllm", False), ("anthropic", True)])
async def test_the_operators_key_replaces_the_clients(desk, engine: str, named: bool):
    configure(desk, engine=engine)
    ask: Ask = MESSAGE
    answer = await desk.ask(ask, **{"x-api-key": KEY, "authorization": ""})
    assert answer.status_code == 200, answer.text
    headers = desk.engine.seen[0].headers
    assert headers["authorization"] == "Bearer backend-secret"
    assert headers.get("x-api-key") == ("backend-secret" if named else None)
    assert KEY not in str(headers)
