"""The control plane as it runs: a real server on loopback, a database of the test's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from pydantic import SecretStr

from api.app import create_app
from billing.operations.tenancy.keys import IssuedKey, issue_key
from billing.settings import Settings
from billing.store.database import Database, Role, query
from billing.tenancy.api_key import Role as KeyRole
from billing.tenancy.tenant import Tenant
from tests.world import World, make_world

WEBHOOK_SECRET = "whsec_test_of_the_control_plane"


@dataclass(slots=True)
class Clock:
    """A clock that a test moves."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass(slots=True, kw_only=True)
class Plane:
    """A running control plane with two tenants and a key of every role."""

    world: World
    clock: Clock
    url: str
    acme: Tenant
    bolt: Tenant
    keys: dict[str, IssuedKey] = field(default_factory=dict)

    def client(self, key: str | None = None) -> httpx.Client:
        """A client that sends the key named `key`: a role of acme's or the operator's, or bolt."""
        headers = {} if key is None else {"authorization": f"Bearer {self.keys[key].text}"}
        return httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=20)

    def row_counts(self) -> dict[str, int]:
        """Rows of every table, as the operator sees them."""
        with self.world.database.transaction(Role.OPERATOR) as connection:
            tables = query(
                connection,
                "SELECT DISTINCT table_name FROM information_schema.role_table_grants "
                "WHERE grantee = 'steelyard_operator' AND privilege_type = 'SELECT'",
            )
            return {
                row.table_name: connection.execute(
                    sa.text(f"SELECT count(*) FROM {row.table_name}")
                ).scalar_one()
                for row in tables
            }


@contextmanager
def serving(database: Database, settings: Settings, clock: Clock) -> Iterator[str]:
    """The app behind uvicorn on a free port; yields its address."""
    config = uvicorn.Config(
        create_app(database, settings, clock),
        port=0,
        loop="asyncio",
        ws="none",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    assert server.started
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def settings() -> Settings:
    return Settings(
        stripe_api_key=SecretStr("sk_test_x"), stripe_webhook_secrets=SecretStr(WEBHOOK_SECRET)
    )


@pytest.fixture
def plane(database: Database, now: datetime, settings: Settings) -> Generator[Plane]:
    world = make_world(database, now)
    acme, bolt = world.tenant("acme"), world.tenant("bolt")
    clock = Clock(now)
    with serving(database, settings, clock) as url:
        made = Plane(world=world, clock=clock, url=url, acme=acme, bolt=bolt)
        owners = {
            role.value: (role, "acme" if role.belongs_to_tenant else None) for role in KeyRole
        }
        for name, (role, tenant) in {**owners, "bolt": (KeyRole.TENANT, "bolt")}.items():
            with database.transaction(Role.OPERATOR) as connection:
                made.keys[name] = issue_key(
                    connection, role=role, tenant=tenant, name=name, now=now
                )
        yield made


@pytest.fixture
def tenant(plane: Plane) -> Generator[httpx.Client]:
    """acme's own key."""
    with plane.client("tenant") as client:
        yield client


@pytest.fixture
def operator(plane: Plane) -> Generator[httpx.Client]:
    with plane.client("operator") as client:
        yield client


@pytest.fixture
def finance(plane: Plane) -> Generator[httpx.Client]:
    with plane.client("finance") as client:
        yield client
