"""Context bands and service tiers of a public price list, from requests to the invoice's lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from billing.cli.processes import Child, free_port, wait_until_ready
from billing.operations.catalog.contracts import bind_contract
from billing.operations.catalog.plans import apply_price_books
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.verify_rollups import verify_rollups
from billing.operations.rating.rate_period import rate_period
from billing.operations.tenancy.keys import issue_key
from billing.operations.tenancy.tenants import create_tenant
from billing.planfiles.plan_file import EXAMPLES
from billing.store import invoices
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.api_key import Role as KeyRole
from tests.fake_engine.scripted import Script, Seen, in_thread
from tests.system import System, running_system

BACKENDS = """
backends:
  - name: simulated
    url: http://127.0.0.1:{port}
    engine: simulated
    models: [{{name: atlas-large, upstream: sim-large}}, {{name: atlas-small, upstream: sim-small}}]
"""


Opened = Callable[[str], AbstractContextManager[System]]


@pytest.fixture
def open_system(
    database: Database, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> Opened:
    """Opens a data plane over backends, whose tenant is on the public price list."""

    @contextmanager
    def opened(backends: str) -> Iterator[System]:
        now, owner_url = datetime.now(UTC), postgres.owner_url(database_name)
        with running_system(
            database, tmp_path, backends, owner_url=owner_url, proxy=False
        ) as running:
            with database.transaction(Role.OPERATOR) as connection:
                for path in sorted(EXAMPLES.glob("meters/tokens-*.yaml")):
                    # Its next version counts from the next quarter hour on, which is over by now.
                    define_meter(connection, path.read_text(), now=now - timedelta(hours=1))
                text = EXAMPLES.joinpath("public-tokens.yaml").read_text()
                apply_price_books(connection, text, now=now)
                running.tenant = create_tenant(connection, slug="deep", name="Deep", now=now)
                bind_contract(
                    connection,
                    tenant="deep",
                    plan="public-tokens",
                    valid_from=running.tenant.billing_period(now).start,
                    now=now,
                )
                running.key = issue_key(
                    connection,
                    role=KeyRole.TENANT,
                    tenant="deep",
                    name="test",
                    expires_at=None,
                    now=now,
                ).text
            running.start_proxy()
            yield running

    return opened


@pytest.fixture
def system(open_system: Opened) -> Iterator[System]:
    """In front of an engine that says nothing of service tiers."""
    port = free_port()
    engine = Child(name="engine", module="api.simulated", arguments=("--port", str(port)))
    engine.start()
    try:
        wait_until_ready(engine, f"http://127.0.0.1:{port}/v1/models")
        with open_system(BACKENDS.format(port=port)) as running:
            yield running
    finally:
        engine.stop()


PER_MILLION = {
    "atlas-large/input/below-32000/others": 1_000 * Decimal("1.25"),
    "atlas-large/input/32000..200000/others": (40_000 + 32_000) * Decimal("1.75"),
    "atlas-large/input/from-200000/others": 200_000 * Decimal("2.50"),
    "atlas-large/input/below-32000/batch+flex": 31_999 * Decimal("0.625"),
    "atlas-large/output/below-32000/others": 11 * Decimal(10),
    "atlas-large/output/32000..200000/others": (13 + 23) * Decimal(12),
    "atlas-large/output/from-200000/others": 17 * Decimal(15),
    "atlas-large/output/below-32000/batch+flex": 19 * Decimal(5),
    "atlas-small/input/others/others": 5 * Decimal("0.10"),
    "atlas-small/output/others/others": 29 * Decimal("0.40"),
    "atlas-small/input/others/batch+flex": 2 * Decimal("0.05"),
    "atlas-small/output/others/batch+flex": 31 * Decimal("0.20"),
}


def test_each_request_is_billed_in_its_band_and_tier(system: System) -> None:
    client = openai.OpenAI(api_key=system.key, base_url=f"{system.proxy_url}/v1", max_retries=0)

    def ask(words: int, output: int, *, model: str = "atlas-large", **more: object) -> None:
        client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "a " * words}],
            max_tokens=output,
            extra_body=more,
        )

    ask(1_000, 11)
    ask(40_000, 13)
    ask(200_000, 17)
    ask(31_999, 19, service_tier="flex")
    ask(32_000, 23, service_tier="priority")
    ask(5, 29, model="atlas-small", service_tier="nobody's")
    with client.chat.completions.create(
        model="atlas-small",
        messages=[{"role": "user", "content": "one two"}],
        max_tokens=31,
        stream=True,
        extra_body={"service_tier": "flex"},
    ) as stream:
        assert list(stream)
    client.close()
    system.wait_for_events(7)

    require_billed(system, PER_MILLION)


def require_billed(system: System, per_million: Mapping[str, Decimal]) -> None:
    """The period's lines come to these amounts, from sums and from events, and are invoiced."""
    now = datetime.now(UTC)
    period = system.tenant.billing_period(now)
    with system.database.transaction(Role.OPERATOR) as connection:
        rated = rate_period(connection, tenant=system.tenant, period=period)
        again = rate_period(
            connection, tenant=system.tenant, period=period, from_events=rated.watermark
        )
        draft = draft_invoice(connection, tenant=system.tenant, period=period, now=period.end)
        drafted = invoices.lines(connection, draft.id)
        assert verify_rollups(connection) == []
    (contract,), (from_events,) = rated.contracts, again.contracts
    assert contract.rating == from_events.rating
    assert rated.unrated == ()
    exact = {f"tokens/{key}": amount / 1_000_000 for key, amount in per_million.items()}
    assert {line.key: line.exact for line in contract.rating.lines} == exact
    # What comes to less than half a cent is no line: the residual keeps it.
    assert {line.key.partition("/")[2]: line.amount_minor for line in drafted} == {
        key: minor
        for key, amount in exact.items()
        if (minor := int((amount * 100).quantize(Decimal(1), rounding=ROUND_HALF_UP)))
    }


TIERED_BACKENDS = """
backends:
  - name: first
    url: http://127.0.0.1:{port}
    engine: openai
    models: [{{name: atlas-large}}]
  - name: second
    url: http://127.0.0.1:{port}
    engine: anthropic
    models: [{{name: atlas-small}}]
"""
TIERED_PER_MILLION = {
    # Asked for a cheap tier, and served by another: twice by the default, once by one that is
    # in no list, which the plan prices as one of the others.
    "atlas-large/input/below-32000/others": (1 + 1_000 + 4_000) * Decimal("1.25"),
    "atlas-large/output/below-32000/others": (2 + 2_000 + 8_000) * Decimal(10),
    # Served cheaper than asked for, or nothing was said of it.
    "atlas-large/input/below-32000/batch+flex": (10 + 100) * Decimal("0.625"),
    "atlas-large/output/below-32000/batch+flex": (20 + 200) * Decimal(5),
    "atlas-small/input/others/others": 5 * Decimal("0.10"),
    "atlas-small/output/others/others": 6 * Decimal("0.40"),
}


def told(seen: Seen) -> Script:
    """An answer with the tier and the counts that its request has in its metadata."""
    asked = json.loads(seen.body)
    said = asked["metadata"]
    tier, prompt, output = json.loads(said["tier"]), int(said["prompt"]), int(said["output"])
    counts = {"input_tokens": prompt, "output_tokens": output}
    if seen.path == "/v1/messages":
        answer: dict[str, Any] = {"content": [], "usage": {**counts, "service_tier": tier}}
    elif seen.path == "/v1/responses":
        counts["total_tokens"] = prompt + output
        answer = {"id": "resp_1", "service_tier": tier, "usage": counts}
    else:
        usage = {"prompt_tokens": prompt, "completion_tokens": output}
        usage["total_tokens"] = prompt + output
        answer = {"id": "c", "choices": [], "service_tier": tier, "usage": usage}
    if not asked.get("stream"):
        return Script(pieces=(json.dumps(answer).encode(),))
    if seen.path == "/v1/responses":
        begun = {"type": "response.created", "response": {"id": "resp_1", "service_tier": "auto"}}
        events = [begun, {"type": "response.completed", "response": answer}]
    else:
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
        events = [{**answer, "choices": [choice], "usage": None}, answer]
    pieces = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    if seen.path != "/v1/responses":
        pieces.append(b"data: [DONE]\n\n")
    return Script(pieces=tuple(pieces), content_type="text/event-stream", chunked=True)


def test_each_request_is_billed_by_the_tier_that_served_it(open_system: Opened) -> None:
    with in_thread() as engine:
        engine.decide = told
        with open_system(TIERED_BACKENDS.format(port=engine.port)) as system:
            ask_for_tiers(system)
            system.wait_for_events(6)
            require_billed(system, TIERED_PER_MILLION)


def ask_for_tiers(system: System) -> None:
    """One request of each kind; the engine's words are in their metadata."""
    head = {"authorization": f"Bearer {system.key}"}
    with httpx.Client(base_url=system.proxy_url, headers=head, timeout=20) as client:

        def ask(path: str, tier: str | None, prompt: int, output: int, **more: object) -> None:
            said = {"tier": json.dumps(tier), "prompt": str(prompt), "output": str(output)}
            body = {"model": "atlas-large", "metadata": said, **more}
            client.post(path, json=body).raise_for_status()

        chat = {"messages": [{"role": "user", "content": "hi"}]}
        completions, responses = "/v1/chat/completions", "/v1/responses"
        ask(completions, "default", 1, 2, service_tier="flex", **chat)
        ask(completions, "flex", 10, 20, service_tier="priority", stream=True, **chat)
        ask(completions, None, 100, 200, service_tier="flex", **chat)
        ask(responses, "default", 1_000, 2_000, service_tier="flex", input="hi", stream=True)
        ask(responses, "turbo", 4_000, 8_000, service_tier="flex", input="hi")
        ask(
            "/v1/messages",
            "standard",
            5,
            6,
            model="atlas-small",
            max_tokens=9,
            service_tier="auto",
            **chat,
        )
