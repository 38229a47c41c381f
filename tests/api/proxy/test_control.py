"""The snapshot is renewed whatever the engines and the listening connection do."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from api.proxy.control.snapshots import Control, utc_now
from billing.operations.tenancy.keys import IssuedKey, issue_key, revoke_key
from billing.planfiles.backend_file import BackendModel, BackendSpec
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.api_key import Role as KeyRole
from tests.api.proxy.conftest import until
from tests.faults.silent_relay import silent_relay
from tests.standing_still import stopped_at
from tests.world import make_world

MODELS = b'{"data":[{"id":"embed"}]}'


@asynccontextmanager
async def engine_that_serves_embed() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Silent until the event is set, as an engine that starts later than the proxy."""
    ready = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = b"200 OK" if ready.is_set() else b"503 Not Yet"
        head = b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        writer.write(head % (status, len(MODELS)) + MODELS)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", ready


@pytest.fixture
def key(database: Database, now: datetime) -> IssuedKey:
    make_world(database, now).tenant("acme")
    with database.transaction(Role.OPERATOR) as connection:
        return issue_key(connection, role=KeyRole.INFERENCE, tenant="acme", name="app", now=now)


def revoke(database: Database, key: IssuedKey, now: datetime) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        revoke_key(connection, key.id, tenant_id=None, now=now)


def digest(key: IssuedKey) -> bytes:
    return hashlib.sha256(key.text.encode()).digest()


async def test_engine_whose_models_cannot_be_served_does_not_end_revocation(
    database, key, now, monkeypatch
):
    monkeypatch.setattr("api.proxy.control.discovery.DISCOVERY_SECONDS", 0.2)
    async with engine_that_serves_embed() as (url, ready):
        embedding = BackendModel(name="embed", kind="embedding")
        backends = [
            BackendSpec(name="a", url="http://127.0.0.1:9", engine="vllm", models=(embedding,)),
            BackendSpec(name="b", url=url, engine="vllm", models=()),
        ]
        control = await Control.start(database, database.conninfo(), backends, now=utc_now)
        try:
            ready.set()
            await asyncio.sleep(1)
            assert digest(key) in control.snapshot.keys
            assert [backend.name for backend in control.snapshot.models["embed"].backends] == ["a"]
            revoke(database, key, now)
            await until(lambda: digest(key) not in control.snapshot.keys)
        finally:
            await control.stop()


async def test_a_defect_of_ours_does_not_end_revocation(database, key, now, monkeypatch):
    """Whoever asks for snapshots would end by it, and keys that are revoked would work for ever."""

    def fails(*_: object, **__: object) -> None:
        raise ValueError("a defect")

    control = await Control.start(database, database.conninfo(), [], now=utc_now)
    monkeypatch.setattr("api.proxy.control.snapshots.take_snapshot", fails)
    try:
        revoke(database, key, now)
        await until(lambda: digest(key) not in control.snapshot.keys)
    finally:
        await control.stop()
    assert control.counts.refused["defect"]


LISTENER = "listens"


def named(conninfo: str) -> str:
    """Of a connection that the server's activity shows by its name."""
    return make_conninfo(conninfo, application_name=LISTENER)


async def listening(postgres: ServerAddress) -> list[int]:
    """The server's processes for such connections, once they hear."""
    pids: list[int] = []
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as owner:
        while not pids:
            await asyncio.sleep(0.05)
            rows = owner.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
                " AND state = 'idle' AND query <> ''",
                (LISTENER,),
            )
            pids = [pid for (pid,) in rows]
    return pids


async def test_listening_connection_that_falls_silent_is_replaced_by_polling(
    postgres, database, key, now, monkeypatch
):
    monkeypatch.setattr("api.proxy.control.snapshots.REFRESH_SECONDS", 1_000)
    conninfo = named(database.conninfo())
    control = await Control.start(database, conninfo, [], now=utc_now)
    pids = await listening(postgres)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        revoke(database, key, now)
        await until(lambda: digest(key) not in control.snapshot.keys)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await control.stop()


def pooled(postgres: ServerAddress) -> list[int]:
    """The server's processes for connections of pools."""
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as owner:
        rows = owner.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'steelyard'"
        )
        return [pid for (pid,) in rows]


async def test_server_processes_that_stand_still_do_not_end_revocation(
    postgres, database, key, now, monkeypatch
):
    """They acknowledge what they are sent: only a deadline of ours tells that they are no use."""
    monkeypatch.setattr("api.proxy.control.snapshots.ANSWER_MS", 300)
    control = await Control.start(database, named(database.conninfo()), [], now=utc_now)
    pids = pooled(postgres)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        beside = Database(database.engine.url.render_as_string(hide_password=False))
        revoke(beside, key, now)
        beside.close()
        await until(lambda: digest(key) not in control.snapshot.keys)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await control.stop()


async def test_a_first_statement_without_an_answer_does_not_end_the_start(
    database, key, monkeypatch
):
    monkeypatch.setattr("api.proxy.control.snapshots.ANSWER_MS", 300)
    with stopped_at(database.engine, 1) as stopped:
        control = await Control.start(database, database.conninfo(), [], now=utc_now)
        assert stopped
    await control.stop()
    assert digest(key) in control.snapshot.keys


async def test_a_black_holed_listener_is_replaced(postgres, database, key, now, monkeypatch):
    """Its peer goes away without a word, and something on the way still acknowledges bytes."""
    monkeypatch.setattr("api.proxy.control.snapshots.REFRESH_SECONDS", 1_000)
    async with silent_relay(postgres.endpoint) as relay:
        conninfo = make_conninfo(named(database.conninfo()), host="127.0.0.1", port=str(relay.port))
        control = await Control.start(database, conninfo, [], now=utc_now)
        try:
            # Not before: a connection that is only being made is given up in another way.
            await listening(postgres)
            (first,) = relay.tasks()
            relay.silence()
            revoke(database, key, now)
            await until(lambda: digest(key) not in control.snapshot.keys)
            # And it is heard again, not only polled: the silent connection was given up.
            await until(lambda: relay.tasks() and first not in relay.tasks())
        finally:
            await control.stop()
    assert relay.silenced == 1
