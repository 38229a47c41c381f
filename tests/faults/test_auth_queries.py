"""What authentication asks of the database: nothing for a known key, little for a bad one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from sqlalchemy import event

from api.proxy.app import create_app
from api.proxy.control.snapshots import Control, utc_now
from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.operations.tenancy.keys import IssuedKey, issue_key
from billing.planfiles.backend_file import BackendModel, BackendSpec
from billing.store.database import Database, Role
from billing.tenancy.api_key import Role as KeyRole
from tests.api.proxy.conftest import MemoryJournal
from tests.fake_engine.server import fake_engine
from tests.world import World, make_world

WARM, AT_ONCE = 1_000, 20
CHAT = "/v1/chat/completions"


def issued(world: World) -> IssuedKey:
    world.tenant("acme")
    with world.database.transaction(Role.OPERATOR) as connection:
        return issue_key(
            connection, role=KeyRole.INFERENCE, tenant="acme", name="warm", now=utc_now()
        )


@asynccontextmanager
async def proxy_on(
    database: Database, key: str, limits: Limits
) -> AsyncIterator[tuple[httpx.AsyncClient, list[str]]]:
    """A client of a proxy, and every statement that the proxy's pool has sent."""
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    async with fake_engine() as engine:
        model = BackendModel(name="tiny")
        spec = BackendSpec(name="b1", url=engine.base_url, engine="vllm", models=(model,))
        control = await Control.start(database, database.conninfo(), [spec], now=utc_now)
        try:
            # The listening connection takes a snapshot of its own when it begins to hear.
            version = control.snapshot.version
            async with asyncio.timeout(30):
                while control.snapshot.version == version:  # noqa: ASYNC110  # it has no event
                    await asyncio.sleep(0.01)
            app = create_app(control, MemoryJournal(), limits=limits)
            async with (
                serving(app) as port,
                httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{port}",
                    headers={"authorization": f"Bearer {key}"},
                    timeout=60,
                    trust_env=False,
                ) as client,
            ):
                event.listen(database.engine, "before_cursor_execute", note)
                yield client, statements
        finally:
            if event.contains(database.engine, "before_cursor_execute", note):
                event.remove(database.engine, "before_cursor_execute", note)
            await control.stop()


async def ask(client: httpx.AsyncClient, key: str | None = None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"model": "tiny", "messages": []}
    return (await client.post(CHAT, json=body, headers=headers)).status_code


async def test_warm_requests_ask_the_database_nothing(database, monkeypatch):
    monkeypatch.setattr("api.proxy.control.snapshots.REFRESH_SECONDS", 1_000)
    world = make_world(database, utc_now())
    key = issued(world)
    async with proxy_on(database, key.text, Limits()) as (client, statements):
        assert await ask(client) == 200
        statements.clear()
        for _ in range(WARM // AT_ONCE):
            asked = await asyncio.gather(*(ask(client) for _ in range(AT_ONCE)))
            assert set(asked) == {200}
        assert statements == []
        # The counter works: a key that is not known is looked up.
        assert await ask(client, f"{key.text}x") == 401
        assert any("api_key" in statement for statement in statements)


async def test_a_flood_of_one_bad_key_is_one_look_up(database, monkeypatch):
    monkeypatch.setattr("api.proxy.control.snapshots.REFRESH_SECONDS", 1_000)
    world = make_world(database, utc_now())
    key = issued(world)
    limits = Limits(unknown_key_ms=600_000)
    async with proxy_on(database, key.text, limits) as (client, statements):
        statements.clear()
        for _ in range(10):
            asked = await asyncio.gather(*(ask(client, f"{key.text}x") for _ in range(AT_ONCE)))
            assert set(asked) == {401}
        assert sum("api_key" in statement for statement in statements) == 1
