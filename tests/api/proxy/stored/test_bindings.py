"""Bindings in a real database: durable, the tenant's alone, refused at once while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from api.proxy.binding_port import IntendedBatch
from api.proxy.control import bindings as module
from api.proxy.control.bindings import Bindings
from api.proxy.control.snapshots import utc_now
from api.proxy.ids import shown
from api.proxy.openai_errors import Unavailable
from billing.admission.binding import Binding, ObjectKind
from billing.errors import UpstreamError
from billing.store.batch_runs import read_run
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from tests.api.proxy.conftest import until

FILE = Binding(
    kind=ObjectKind.FILE,
    backend="a",
    object_id="file-1",
    tenant_id=1,
    project_id=1,
    key_id=1,
    model_id=None,
    created_at_us=1_794_700_000_000_000,
)


@pytest.fixture
def bindings(database: Database) -> Iterator[Bindings]:
    made = Bindings(database, now=utc_now)
    yield made
    made.close()


async def found(bindings: Bindings, binding: Binding) -> Binding | None:
    return await bindings.find(
        tenant_id=binding.tenant_id, kind=binding.kind, object_id=binding.object_id
    )


async def test_T1_another_process_finds_what_was_bound(database, bindings):
    await bindings.bind([FILE])
    other = Bindings(database, now=utc_now)
    assert await found(other, FILE) == FILE
    assert await found(other, replace(FILE, tenant_id=2)) is None
    assert other.calls == {("find", "answered"): 2}
    assert await found(other, FILE) == FILE
    assert other.calls["find", "answered"] == 2  # remembered
    await other.forget(FILE)
    assert await found(other, FILE) is None
    other.close()


async def test_T1_an_id_of_another_tenant_is_refused_and_not_remembered(bindings):
    await bindings.bind([FILE])
    theirs = replace(FILE, tenant_id=2)
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await bindings.bind([theirs])
    assert await found(bindings, theirs) is None
    with pytest.raises(UpstreamError):
        await bindings.bind([replace(FILE, backend="b")])
    assert bindings.calls["bind", "refused"] == 3
    assert bindings.healthy


REQUEST = bytes(range(16))


def intended(batch: Binding) -> IntendedBatch:
    return IntendedBatch(
        binding=replace(batch, object_id=shown(REQUEST).decode()),
        operation_id=REQUEST,
        price_version_id=1,
        endpoint="/v1/embeddings",
        input_file_id="file-1",
        credit=None,
        most=1,
    )


async def test_a_batch_that_never_ran_is_not_billed(database, bindings):
    batch = intended(replace(FILE, kind=ObjectKind.BATCH))
    await bindings.intend(batch)
    for _ in range(2):
        await bindings.give_up(batch)
    with database.transaction(Role.OPERATOR) as connection:
        (row,) = query(connection, "SELECT state FROM batch_run")
    assert row.state == "refused"


async def test_a_batch_is_recorded_with_its_ids(database, bindings, now: datetime):
    own = replace(FILE, kind=ObjectKind.BATCH, object_id="batch_1", model_id=3)
    batch = intended(own)
    await bindings.intend(batch)
    with database.transaction(Role.OPERATOR) as connection:
        (row,) = query(connection, "SELECT batch_id, state, hold_id FROM batch_run")
    assert (row.batch_id, row.state, row.hold_id) == (shown(REQUEST).decode(), "intended", None)
    for _ in range(2):
        await bindings.record(batch, "batch_1", [FILE])
    with database.transaction(Role.OPERATOR) as connection:
        run = read_run(connection, backend="a", batch_id="batch_1")
        (row,) = query(connection, "SELECT state FROM batch_run")
    assert run is not None
    assert row.state == "open"
    assert (run.tenant_id, run.model_id, run.endpoint) == (1, 3, "/v1/embeddings")
    assert await found(bindings, FILE) == FILE
    assert await bindings.page(
        tenant_id=1, kind=ObjectKind.BATCH, after=None, limit=5, oldest_first=False
    ) == ((own,), False)


async def test_one_tenant_that_tries_ids_keeps_nobody_else_waiting(
    bindings, postgres: ServerAddress, database_name: str, monkeypatch
):
    monkeypatch.setattr(module, "SOUGHT_AT_ONCE", 3)
    with psycopg.connect(postgres.owner_conninfo(database_name)) as owner:
        owner.execute("LOCK backend_object")
        tries = [
            asyncio.create_task(found(bindings, replace(FILE, object_id=f"file-{number}")))
            for number in range(8)
        ]
        await until(lambda: bindings.calls["find", "crowded"] == 5)
        assert bindings.healthy
        others = asyncio.create_task(found(bindings, replace(FILE, tenant_id=2)))
        await asyncio.sleep(0.05)
        assert not others.done()
    assert await others is None
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is not None] == [
        outcome for outcome in outcomes if isinstance(outcome, Unavailable)
    ]
    assert outcomes.count(None) == 3
    assert await found(bindings, FILE) is None


async def test_what_is_remembered_is_bounded(bindings, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 3)
    made = [replace(FILE, object_id=f"file-{number}") for number in range(5)]
    await bindings.bind(made)
    assert len(bindings._found) == 3
    assert await found(bindings, made[0]) == made[0]


async def test_a_database_that_does_not_answer_is_not_waited_for(
    database, bindings, postgres: ServerAddress, database_name: str, monkeypatch
):
    monkeypatch.setattr(module, "CALL_MS", 300)
    await bindings.bind([FILE])
    late = replace(FILE, object_id="file-2")
    loop = asyncio.get_running_loop()
    with psycopg.connect(postgres.owner_conninfo(database_name)) as owner:
        owner.execute("LOCK backend_object")
        with pytest.raises(Unavailable):
            await bindings.bind([late])
        assert not bindings.healthy
        began = loop.time()
        with pytest.raises(Unavailable):
            await found(bindings, late)
        assert loop.time() - began < 0.2, "nothing is asked for a second"
        assert await found(bindings, FILE) == FILE  # what is remembered needs no database
    monkeypatch.setattr(module, "CALL_MS", 10_000)
    await until(lambda: bindings.healthy)
    # The call that nobody waited for was carried out once the lock was gone: no harm.
    assert await found(bindings, late) == late
    await bindings.bind([late])


async def test_a_database_that_is_away_is_unavailable(database, bindings, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("connect", None, OSError("refused"))

    monkeypatch.setattr(database, "retrying", refuse)
    with pytest.raises(Unavailable) as caught:
        await bindings.bind([FILE])
    assert "refused" not in str(caught.value)
    assert bindings.calls == {("bind", "failed"): 1}
