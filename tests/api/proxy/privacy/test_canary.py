"""P1: no text of a request or an answer is stored, logged, counted by name or echoed by us.

A random text goes through every route in every place where a client can put one, and through
every failure. Then everything that the proxy leaves behind is searched for it, also as clients and
logs would have encoded it: what it wrote to disk, what it logged at the finest level, what it shows
in its metrics, what it exported to a collector, and what it answered in its own words. An engine's
own answer is the client's, and passes.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from api.proxy.app import Proxy, create_app, system_clock
from api.proxy.limits import Limits
from api.proxy.server import serving
from api.proxy.telemetry.export import export_to
from api.proxy.telemetry.otlp import Collector, exporting
from billing.admission.route import ROUTES, BodyForm, Serving
from billing.journal.journal import Journal
from tests.api.proxy.conftest import KEY, MemoryControl, snapshot_for
from tests.api.proxy.telemetry.collector import FakeCollector, fake_collector
from tests.fake_engine.server import FakeEngine, fake_engine
from tests.fake_engine.shapes import Behaviour

pytestmark = pytest.mark.timeout(120)
MODELS = ("tiny", "embed", "dead", "unpriced", "none")


@dataclass(slots=True)
class House:
    """A proxy with a journal on disk, and a text that must not stay in it."""

    engine: FakeEngine
    app: Proxy
    journal: Path
    http: httpx.AsyncClient
    canary: str
    collector: FakeCollector
    exports: AsyncExitStack

    def forms(self) -> Iterator[bytes]:
        """The text as it could have been written down."""
        raw = self.canary.encode()
        yield raw
        yield raw.hex().encode()
        yield quote(self.canary, safe="").encode()
        yield json.dumps(self.canary)[1:-1].encode()
        for cut in range(3):  # base64 depends on where in the text it begins
            yield base64.b64encode(raw[cut:])[:24]

    def found_in(self, content: bytes) -> list[bytes]:
        return [form for form in self.forms() if form in content]


@pytest.fixture
async def house(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[House]:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the test's own client
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(fake_engine())
        journal = await Journal.open(tmp_path / "journal")
        collector = await stack.enter_async_context(fake_collector())
        where = Collector(endpoint=collector.endpoint)
        export = export_to(where, share=Decimal(1), clock=system_clock)
        exports = await stack.enter_async_context(AsyncExitStack())
        await exports.enter_async_context(exporting(export.exporter))
        app = create_app(
            MemoryControl(snapshot_for(engine.base_url)),
            journal,
            limits=Limits(body_bytes=1 << 20, first_byte_ms=1_500, drain_ms=1_000),
            recorder=export.recorder,
        )
        export.join(app.tally)
        port = await stack.enter_async_context(serving(app))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
        )
        canary = f"canary-{secrets.token_hex(16)}/ü"
        folder = tmp_path / "journal"
        yield House(engine, app, folder, client, canary, collector, exports)


def json_bodies(canary: str, model: str) -> Iterator[dict[str, object]]:
    said = [{"role": "user", "content": canary}]
    yield {"model": model, "messages": said, "prompt": canary, "input": canary, "user": canary}
    yield {"model": model, "messages": said, "stream": True, "metadata": {"note": canary}}
    yield {"model": model, "messages": said, "max_tokens": canary}
    yield {"model": model, "messages": said, "stream": canary}
    yield {"model": model, "messages": said, "stream_options": canary}
    yield {"model": model, "messages": said, "n": canary}
    yield {"model": model, "messages": said, canary: 1}
    yield {"model": canary, "messages": said}
    yield {"model": model, "messages": canary, "tools": [{"type": "function", "name": canary}]}


def bodies(canary: str, model: str) -> Iterator[bytes]:
    """Bodies that a client could send, good and bad."""
    for body in json_bodies(canary, model):
        yield json.dumps(body, ensure_ascii=False).encode()
    said = canary.encode()
    yield b'{"model":"tiny","messages":[{"content":"%b"' % said
    yield b'"%b"' % said
    yield b'{"model":"tiny","model":"%b"}' % said
    yield said * 3
    yield b'{"model":"tiny","messages":["%b"]}' % (said * 30_000)


async def send(house: House, path: str, content: bytes, **headers: str) -> httpx.Response | None:
    fields = {
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "user-agent": house.canary.encode("ascii", "ignore").decode(),
        "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        **headers,
    }
    try:
        return await house.http.post(path, content=content, headers=fields)
    except httpx.TransportError:
        return None  # it broke off, as some cases want


async def require_nothing_left(house: House, caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted(house.journal.rglob("*")):
        if path.is_file():
            assert not house.found_in(path.read_bytes()), path.name
        assert not house.found_in(str(path).encode())
    assert not house.found_in(caplog.text.encode())
    assert not house.found_in(house.app.tally.render())
    await house.exports.aclose()  # sends what it has
    assert house.collector.requests
    for path, body in house.collector.bodies:
        assert not house.found_in(body), path


async def test_P1_a_canary_stays_nowhere_on_any_route(house, caplog):
    paths = [spec.path for spec in ROUTES if spec.serving is Serving.INFERENCE]
    assert len(paths) >= 3
    for path in paths:
        for content in bodies(house.canary, "tiny"):
            engine_before = len(house.engine.served)
            answer = await send(house, path, content)
            if answer is not None and len(house.engine.served) == engine_before:
                assert not house.found_in(answer.content), (path, answer.status_code)
    for model in MODELS:
        for content in bodies(house.canary, model):
            engine_before = len(house.engine.served)
            answer = await send(house, "/v1/chat/completions", content)
            if answer is not None and len(house.engine.served) == engine_before:
                assert not house.found_in(answer.content), answer.status_code
    assert house.engine.served
    await require_nothing_left(house, caplog)


async def test_P1_a_canary_stays_nowhere_whatever_the_engine_does(house, caplog):
    said = house.canary.encode()
    echoed = b'{"error":{"message":"bad prompt: %b","type":"BadRequestError"}}' % said
    behaviours = [
        Behaviour(status=400, answer=echoed),
        Behaviour(status=401, answer=echoed),
        Behaviour(status=500, answer=echoed),
        Behaviour(status=307, answer=echoed),
        Behaviour(answer=b'{"id":"%b","usage":{"prompt_tokens":"%b"}}' % (said, said)),
        Behaviour(answer=b'{"usage":{"%b":3,"prompt_tokens":2,"completion_tokens":1}}' % said),
        Behaviour(answer=b"not json: " + said),
        Behaviour(drops=True),
        Behaviour(hang=True),
        Behaviour(break_after=2),
    ]
    for behaviour in behaviours:
        house.engine.behaviour = behaviour
        for stream in (False, True):
            body = {
                "model": "tiny",
                "stream": stream,
                "messages": [{"role": "user", "content": house.canary}],
            }
            answer = await send(house, "/v1/chat/completions", json.dumps(body).encode())
            if answer is not None and answer.status_code in {502, 503, 504}:
                assert not house.found_in(answer.content)
    await require_nothing_left(house, caplog)


async def test_P1_a_canary_stays_nowhere_when_our_own_code_fails(house, caplog, monkeypatch):
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError(f"a defect that quotes {arguments} {named} {house.canary}")

    monkeypatch.setattr("api.proxy.request_body.read_request", fail)
    body = {"model": "tiny", "messages": [{"role": "user", "content": house.canary}]}
    answer = await send(house, "/v1/chat/completions", json.dumps(body).encode())
    assert answer is not None
    assert answer.status_code == 500
    assert not house.found_in(answer.content)
    await require_nothing_left(house, caplog)


async def test_P1_a_key_stays_nowhere(house, caplog):
    house.canary = f"sk-sy-{secrets.token_hex(20)}"
    for fields in (
        {"authorization": f"Bearer {house.canary}"},
        {"authorization": house.canary},
        {"authorization": "", "x-api-key": house.canary},
    ):
        answer = await send(house, "/v1/chat/completions", b'{"model":"tiny"}', **fields)
        assert answer is not None
        assert answer.status_code == 401
        assert not house.found_in(answer.content)
    await require_nothing_left(house, caplog)


def test_forms_other_than_json_have_routes_of_their_own():
    """A route that takes another form of body needs its bodies in the test above."""
    forms = {spec.body for spec in ROUTES if spec.serving is Serving.INFERENCE}
    assert forms <= {BodyForm.JSON, BodyForm.MULTIPART}
