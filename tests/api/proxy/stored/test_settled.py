"""A batch from the official client to the ledger, with real processes: each line billed once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import openai
import pytest

from billing.operations.tenancy.keys import issue_key
from billing.operations.tenancy.tenants import create_tenant
from billing.settings import read_settings
from billing.store.batch_runs import BatchState
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.api_key import Role as KeyRole
from tests.api.proxy.stored.conftest import file_of, request_line
from tests.fake_engine.batch_shapes import answered_line
from tests.fake_engine.files_shapes import KeepingEngine, keeping_engine
from tests.system import System, running_system
from workers.batches import settle_batches

BACKENDS = """
backends:
  - name: keeper
    url: {url}
    engine: vllm
    stores: [files, batches, responses]
    models: [{{name: sim-small}}]
"""
BODY = {"model": "sim-small", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(slots=True)
class Run:
    """A data plane in processes of its own, in front of a backend that keeps objects."""

    engine: KeepingEngine
    system: System
    client: openai.AsyncOpenAI


@pytest.fixture
async def run(
    database: Database, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> AsyncIterator[Run]:
    async with keeping_engine() as engine:
        text, owner_url = BACKENDS.format(url=engine.base_url), postgres.owner_url(database_name)
        with running_system(database, tmp_path, text, owner_url=owner_url) as system:
            async with openai.AsyncOpenAI(
                api_key=system.key, base_url=f"{system.proxy_url}/v1", max_retries=0, timeout=20
            ) as client:
                yield Run(engine, system, client)


async def settled(
    run: Run, monkeypatch: pytest.MonkeyPatch, *, later: timedelta
) -> list[BatchState]:
    """One turn of the worker, as it is configured."""
    for name, value in run.system.environment.items():
        monkeypatch.setenv(name, value)
    settings, now = read_settings(), datetime.now(UTC) + later
    found = await asyncio.to_thread(settle_batches, run.system.database, settings, now=now)
    return [each.state for each in found]


async def test_result_lines_of_a_batch_of_the_official_client_are_billed(run, monkeypatch):
    content = file_of(*[request_line(str(number), body=BODY) for number in range(3)])
    uploaded = await run.client.files.create(file=("x.jsonl", content), purpose="batch")
    batch = await run.client.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"night": "1"},
    )
    assert batch.status == "in_progress"
    assert await settled(run, monkeypatch, later=timedelta(0)) == [BatchState.OPEN]
    lines = [answered_line(str(number), model="sim-small") for number in range(3)]
    run.engine.end(batch.id, file_of(*lines))
    polled = [await run.client.batches.retrieve(batch.id) for _ in range(100)][-1]
    assert polled.status == "completed"
    assert polled.output_file_id is not None
    results = await run.client.files.content(polled.output_file_id)
    assert [json.loads(line)["custom_id"] for line in results.text.splitlines()] == ["0", "1", "2"]
    for minutes, states in ((5, [BatchState.BILLED]), (10, [])):
        assert await settled(run, monkeypatch, later=timedelta(minutes=minutes)) == states
    assert len(run.system.events()) == 3, "looking bills nothing, each line bills once"
    listed = [each.id async for each in run.client.batches.list(limit=1)]
    assert listed == [batch.id]
    files = [each.id async for each in run.client.files.list(limit=1)]
    assert files == [polled.output_file_id, uploaded.id]
    assert (await run.client.files.delete(uploaded.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await run.client.files.retrieve(uploaded.id)
    assert (await run.client.batches.cancel(batch.id)).id == batch.id


async def test_stored_responses_of_the_official_client(run):
    first = await run.client.responses.create(model="sim-small", input="hi")
    again = await run.client.responses.create(
        model="sim-small", input="and?", previous_response_id=first.id
    )
    assert (await run.client.responses.retrieve(again.id)).id == again.id
    stream = await run.client.responses.create(
        model="sim-small", input="hi", previous_response_id=again.id, stream=True
    )
    streamed = [event async for event in stream]
    assert streamed[-1].type == "response.completed"
    assert (await run.client.responses.retrieve(streamed[-1].response.id)).status == "completed"
    await run.client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await run.client.responses.retrieve(first.id)


async def test_T1_ids_hold_over_a_kill_9_and_for_no_other_tenant(run):
    uploaded = await run.client.files.create(file=("x", b"{}\n"), purpose="batch")
    now = datetime.now(UTC)
    with run.system.database.transaction(Role.OPERATOR) as connection:
        create_tenant(connection, slug="birch", name="Birch", now=now)
        key = issue_key(connection, role=KeyRole.INFERENCE, tenant="birch", name="app", now=now)
    run.system.kill_9("proxy")
    run.system.start_proxy()
    assert (await run.client.files.retrieve(uploaded.id)).id == uploaded.id
    with pytest.raises(openai.NotFoundError):
        await run.client.with_options(api_key=key.text).files.retrieve(uploaded.id)
