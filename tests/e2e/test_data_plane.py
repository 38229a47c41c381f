"""From a real client through proxy, journal and writer into the ledger, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from billing.cli.processes import Child, free_port, wait_until_ready
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from tests.system import System, running_system

BACKENDS = """
backends:
  - name: simulated
    url: http://127.0.0.1:{port}
    engine: simulated
    models: [{{name: sim-small}}, {{name: sim-embed, kind: embedding}}]
"""


@pytest.fixture
def system(
    database: Database, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> Iterator[System]:
    port = free_port()
    engine = Child(name="engine", module="api.simulated", arguments=("--port", str(port)))
    engine.start()
    try:
        wait_until_ready(engine, f"http://127.0.0.1:{port}/v1/models")
        with running_system(
            database,
            tmp_path,
            BACKENDS.format(port=port),
            owner_url=postgres.owner_url(database_name),
        ) as running:
            yield running
    finally:
        engine.stop()


def test_the_ledger_holds_exactly_what_the_client_was_told(system: System) -> None:
    client = openai.OpenAI(api_key=system.key, base_url=f"{system.proxy_url}/v1", max_retries=0)
    whole = client.chat.completions.with_raw_response.create(
        model="sim-small", messages=[{"role": "user", "content": "one two three"}], max_tokens=5
    )
    told = whole.parse().usage
    assert told is not None
    with client.chat.completions.create(
        model="sim-small",
        messages=[{"role": "user", "content": "four five"}],
        max_tokens=7,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        streamed = [chunk.usage for chunk in stream if chunk.usage is not None][-1]
    embedded = client.embeddings.create(model="sim-embed", input="six seven")

    found = system.wait_for_events(3)
    by_output = {int(event.quantities.get("tokens.output", 0)): event for event in found}
    assert len(found) == 3
    for usage in (told, streamed):
        event = by_output[usage.completion_tokens]
        counted = sum(
            int(event.quantities.get(f"tokens.{name}", 0)) for name in ("input", "cached_input")
        )
        assert counted == usage.prompt_tokens
        assert not event.estimated
    assert int(by_output[0].quantities["tokens.input"]) == embedded.usage.prompt_tokens
    shown = whole.headers["x-steelyard-request-id"]
    assert shown == f"req_{by_output[told.completion_tokens].id.hex}"
    assert whole.headers["x-steelyard-simulated"] == "true"
    client.close()


def test_a_revoked_key_is_refused_within_a_second(system: System) -> None:
    import time
    from datetime import UTC, datetime

    from billing.operations.tenancy.keys import issue_key, revoke_key
    from billing.store.database import Role
    from billing.tenancy.api_key import Role as KeyRole

    with system.database.transaction(Role.OPERATOR) as connection:
        key = issue_key(
            connection,
            role=KeyRole.INFERENCE,
            tenant="acme",
            name="short-lived",
            expires_at=None,
            now=datetime.now(UTC),
        )
    client = openai.OpenAI(api_key=key.text, base_url=f"{system.proxy_url}/v1", max_retries=0)
    assert client.models.list().data
    with system.database.transaction(Role.OPERATOR) as connection:
        revoke_key(connection, key.id, tenant_id=None, now=datetime.now(UTC))
    time.sleep(0.9)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    client.close()
