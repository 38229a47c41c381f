"""GuideLLM, as it is installed, against the proxy: what its report says is what the ledger says.

It runs in the engine's environment, with the tokenizer of the engine's own tiny model, so that
nothing is downloaded. Its prompts are its own; its figures are what it was told in streams.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from billing.cli.processes import Child, free_port, wait_until_ready
from billing.metering.usage_event import Cause
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from billing.store.usage.read import EventView
from tests.engine.server import Engine, engine_python
from tests.system import System, running_system

pytestmark = pytest.mark.engine

REQUESTS, STREAMS, OUTPUT = 40, 4, 24
SIMULATED = """
backends:
  - {{name: simulated, url: "{url}", engine: simulated, models: [{{name: sim-small}}]}}
"""
REAL = """
backends:
  - name: real
    url: {url}
    engine: transformers
    models: [{{name: tiny, upstream: {model}}}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run of the tool.

    Attributes:
        data: what its prompts and answers are like; `extra`: for its backend.
    """

    model: str
    data: str
    extra: str = ""


# It asks a vLLM for answers of an exact length with `ignore_eos`, which the real engine refuses.
ON_SIMULATED = Load(
    model="sim-small", data=f"kind=synthetic_text,prompt_tokens=120,output_tokens={OUTPUT}"
)
ON_REAL = Load(
    model="tiny", data="kind=synthetic_text,prompt_tokens=120", extra=f",max_tokens={OUTPUT}"
)


@contextmanager
def simulated_engine() -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    engine = Child(
        name="engine",
        module="api.simulated",
        arguments=("--port", str(port), "--first-token-ms", "20", "--token-ms", "2"),
    )
    engine.start()
    try:
        wait_until_ready(engine, f"{url}/v1/models")
        yield url
    finally:
        engine.stop()


def run_tool(system: System, load: Load, tokenizer: str, folder: Path) -> dict[str, Any]:
    """Run the tool to its end; its report, of the one benchmark that it ran."""
    report = folder / "report.json"
    backend = f"kind=openai_http,target={system.proxy_url},model={load.model},api_key={system.key}"
    ran = subprocess.run(
        [
            engine_python().with_name("guidellm"),
            "run",
            "--backend",
            backend + load.extra,
            "--profile",
            f"kind=concurrent,streams={STREAMS}",
            "--constraint",
            f"kind=max_requests,count={REQUESTS}",
            "--tokenizer",
            f"kind=huggingface_auto,model={tokenizer}",
            "--data",
            load.data,
            "--output",
            f"kind=json,path={report}",
            "--disable-progress",
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    return benchmark


def tokens(event: EventView) -> tuple[int, int]:
    """Of the prompt and of the answer."""
    read = [event.quantities.get(f"tokens.{name}", 0) for name in ("input", "cached_input")]
    return int(sum(read)), int(event.quantities["tokens.output"])


def require_same(benchmark: dict[str, Any], events: list[EventView]) -> None:
    """Hold the tool's report, in sum and request by request, against the ledger."""
    totals = benchmark["metrics"]["request_totals"]
    assert totals == {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}
    assert len(events) == REQUESTS
    assert {(event.cause, event.estimated) for event in events} == {(Cause.COMPLETED, False)}
    told = Counter(
        (request["prompt_tokens"], request["output_tokens"])
        for request in benchmark["requests"]["successful"]
    )
    assert told == Counter(tokens(event) for event in events)
    for name, side in (("prompt", 0), ("output", 1)):
        total = benchmark["metrics"][f"{name}_token_count"]["successful"]["total_sum"]
        assert total == sum(tokens(event)[side] for event in events)


@pytest.fixture
def owner_url(postgres: ServerAddress, database_name: str) -> str:
    return postgres.owner_url(database_name)


@pytest.mark.parametrize("load", [ON_SIMULATED, ON_REAL], ids=lambda load: load.model)
def test_the_tools_report_is_what_the_ledger_says(
    engine: Engine, database: Database, owner_url: str, tmp_path: Path, load: Load
) -> None:
    with simulated_engine() as url:
        backends = (
            SIMULATED.format(url=url)
            if load is ON_SIMULATED
            else REAL.format(url=engine.base_url, model=engine.model)
        )
        with running_system(database, tmp_path, backends, owner_url=owner_url) as system:
            benchmark = run_tool(system, load, engine.model, tmp_path)
            require_same(benchmark, system.wait_for_events(REQUESTS))
