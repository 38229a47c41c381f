"""The official clients of JavaScript, unchanged, against the processes of a data plane.

The flows are in `tests/sdk_node`; each tells what its client was told. What is held against the
ledger: every answered call has one event with exactly those counts, a stream that was left has one
for what was delivered, and there is nothing else.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from billing.admission.limit import Unit, Window
from billing.metering.usage_event import Cause
from billing.store.catalog import ensure_models
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from billing.store.usage.read import EventView
from tests.api.proxy.conftest import until
from tests.api.proxy.sdk import answers
from tests.fake_engine.scripted import Script, ScriptedEngine, Seen, scripted_engine
from tests.operations.lease_world import make_limit
from tests.system import System, eventually, running_system

FLOWS = Path(__file__).resolve().parents[3] / "sdk_node"
NODE = shutil.which("node")
FLAKY = {"flaky-429": 429, "flaky-500": 500, "flaky-503": 503}
CHAT_MODELS = ("plain", "tools", "json", "long", "slow", "refuses", "dear", "rated", *FLAKY)
BACKENDS = """
backends:
  - name: scripted
    url: {url}
    engine: vllm
    models: [{models}, {{name: embed, kind: embedding}}]
"""

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="there is no node here"),
    pytest.mark.skipif(
        not FLOWS.joinpath("node_modules").is_dir(), reason="`make test-node` installs the packages"
    ),
]


@dataclass(slots=True)
class Actor:
    """Decides what the engine answers, by path and model; a flaky model fails at first."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def __call__(self, seen: Seen) -> Script:
        request = json.loads(seen.body)
        model, stream = request["model"], bool(request.get("stream"))
        self.asked[seen.path, model] += 1
        if model in FLAKY and self.asked[seen.path, model] == 1:
            return answers.failed(FLAKY[model])
        named = {"refuses": answers.REFUSED, "slow": answers.SLOW}.get(model)
        if named is not None:
            return named
        match seen.path:
            case "/v1/chat/completions":
                return _chat(model, stream=stream)
            case "/v1/messages":
                return _message(model, stream=stream)
            case "/v1/messages/count_tokens":
                return answers.COUNTED
            case "/v1/responses":
                return answers.RESPONSE_STREAM if stream else answers.RESPONSE
            case _:
                encoded = request.get("encoding_format") == "base64"
                return answers.EMBEDDED_BASE64 if encoded else answers.EMBEDDED


def _chat(model: str, *, stream: bool) -> Script:
    if not stream:
        return answers.chat('{"name": "Köln"}' if model == "json" else "hello")
    streams = {"tools": answers.TOOL_STREAM, "long": answers.LONG_STREAM}
    return streams.get(model, answers.CHAT_STREAM)


def _message(model: str, *, stream: bool) -> Script:
    if not stream:
        return answers.MESSAGE_WHOLE
    streams = {"tools": answers.MESSAGE_TOOL_STREAM, "long": answers.MESSAGE_LONG_STREAM}
    return streams.get(model, answers.MESSAGE_STREAM)


@dataclass(slots=True, kw_only=True)
class Plant:
    engine: ScriptedEngine
    system: System


@pytest.fixture
async def plant(
    database: Database, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> AsyncIterator[Plant]:
    now = datetime.now(UTC)
    async with scripted_engine() as engine:
        engine.decide = Actor()
        models = ", ".join(f"{{name: {name}}}" for name in CHAT_MODELS)
        backends = BACKENDS.format(url=engine.base_url, models=models)
        owner_url = postgres.owner_url(database_name)
        with running_system(
            database, tmp_path, backends, owner_url=owner_url, proxy=False
        ) as system:
            with database.transaction(Role.OPERATOR) as connection:
                ensure_models(connection, CHAT_MODELS)
            make_limit(database, system.tenant, "dear", "0.000001", now=now, model="dear")
            make_limit(
                database, system.tenant, "rated", "0", now=now, model="rated",
                unit=Unit.REQUESTS, span=Window.MINUTE,
            )  # fmt: skip
            await asyncio.to_thread(system.start_proxy)
            yield Plant(engine=engine, system=system)


async def run_flows(system: System, package: str) -> list[dict[str, Any]]:
    """Run all flows of a package; what each tells, by the name of the flow."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE, "run.mjs", package,
        cwd=FLOWS,
        env={"STEELYARD_URL": system.proxy_url, "STEELYARD_KEY": system.key, "HOME": str(FLOWS)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return [json.loads(line) for line in output.decode().splitlines() if line.startswith("{")]


def scrap_of(system: System) -> Counter[str]:
    """Attempts that bill nothing, by reason."""
    with system.database.transaction(Role.OPERATOR) as connection:
        rows = query(connection, "SELECT reason FROM scrap_attempt")
    return Counter(str(row.reason) for row in rows)


def counts(event: EventView) -> dict[str, int]:
    classes = ("input", "cached_input", "output")
    return {name: int(event.quantities.get(f"tokens.{name}", 0)) for name in classes}


def require_billed(flow: dict[str, Any], events: dict[str, EventView]) -> list[str]:
    """Hold one flow against the ledger; ids of the events that it accounts for."""
    answered = [call["id"] for call in flow["calls"] if call["status"] == 200]
    if "told" in flow:
        (request_id,) = answered
        event = events[request_id]
        assert counts(event) == flow["told"], flow["name"]
        assert (event.cause, event.estimated) == (Cause.COMPLETED, False), flow["name"]
        return [request_id]
    if "left" in flow:
        (request_id,) = answered
        event = events[request_id]
        assert event.cause == Cause.CLIENT_LEFT, flow["name"]
        assert flow["left"] <= counts(event)["output"] < answers.LONG - 1, flow["name"]
        return [request_id]
    return []


@pytest.mark.parametrize("package", ["openai", "anthropic", "ai"])
async def test_every_flow_is_billed_what_its_client_was_told(plant: Plant, package: str) -> None:
    flows = await run_flows(plant.system, package)
    assert {flow["name"]: flow["failed"] for flow in flows if "failed" in flow} == {}
    gone = sum("gone" in flow for flow in flows)
    left = sum("left" in flow for flow in flows)
    assert gone * left > 0
    # The engine is not left to work for a client that has gone.
    await until(lambda: plant.engine.left == gone + left)
    billed = sum("told" in flow or "left" in flow for flow in flows)
    rows = await asyncio.to_thread(plant.system.wait_for_events, billed)
    events = {f"req_{row.id.hex}": row for row in rows}
    accounted = [name for flow in flows for name in require_billed(flow, events)]
    assert sorted(accounted) == sorted(events)
    scrap = await asyncio.to_thread(
        eventually, lambda: scrap_of(plant.system), lambda found: found["client_left"] == gone
    )
    assert scrap == {"client_left": gone, "upstream_refused": scrap["upstream_refused"]}
