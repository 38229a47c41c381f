"""Two proxies over one database, with leases of their own and a clock that a test sets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime

import httpx
import pytest

from api.proxy.app import Proxy, create_app
from api.proxy.control.leases import LeaseKeeper
from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.admission.backend import Backend, ServedModel
from billing.metering.event_id import microseconds
from billing.operations.admission.leases import draw
from billing.operations.admission.take_snapshot import take_snapshot
from billing.operations.holds.define_limit import LimitTerms, define_limit, require_named_limit
from billing.operations.tenancy.keys import IssuedKey, issue_key
from billing.store.database import Database, Role
from billing.store.limits import LimitRow
from billing.tenancy.api_key import Role as KeyRole
from billing.tenancy.tenant import Tenant
from tests.api.proxy.conftest import CHAT, MemoryControl, MemoryJournal, until
from tests.fake_engine.server import FakeEngine, fake_engine
from tests.world import World, make_world

PLAN = """
slug: standard
name: Standard
currency: USD
policies: {%s}
price_list:
  models:
    tiny: {input: "0", cached_input: "0", output: "0"}
    other: {input: "0", cached_input: "0", output: "0"}
charges:
  - {type: per_unit, key: requests, description: Requests, meter: requests, price: "1"}
"""
"""A request costs one, whatever it generates: budgets in money are whole requests."""


@dataclass(slots=True)
class Clock:
    """Stands still until a test sets it."""

    at: datetime

    def __call__(self) -> datetime:
        return self.at

    def us(self) -> int:
        return microseconds(self.at)


@dataclass(slots=True)
class Side:
    """One proxy, as far as it has nothing in common with the other."""

    app: Proxy
    journal: MemoryJournal
    client: httpx.AsyncClient
    shipped: int = 0


@dataclass(slots=True)
class TwoProcesses:
    """A tenant with two projects and a key in each, in front of two proxies.

    Attributes:
        keys: by project.
    """

    database: Database
    tenant: Tenant
    engine: FakeEngine
    clock: Clock
    keys: dict[str, IssuedKey]
    processes: list[Side] = field(default_factory=list[Side])

    def headers(self, project: str = "default") -> dict[str, str]:
        """Of a request with the key of a project."""
        return {"authorization": f"Bearer {self.keys[project].text}"}

    def limit(self, name: str) -> LimitRow:
        """A limit as it stands."""
        with self.database.transaction(Role.OPERATOR) as connection:
            return require_named_limit(
                connection, tenant=self.tenant, name=name, now=self.clock.at
            ).row

    async def ask(
        self, count: int, *, project: str = "default", model: str = "tiny", **members: object
    ) -> list[httpx.Response]:
        """So many requests at once, half of them to each process."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 5,
            **members,
        }
        headers = self.headers(project)

        async def one(number: int) -> httpx.Response:
            client = self.processes[number % 2].client
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            while answer.status_code == 503:  # a busy database did not answer within a second
                await asyncio.sleep(0.1)
                answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            return answer

        return await asyncio.gather(*(one(number) for number in range(count)))

    async def statuses(self, count: int, **members: str) -> Counter[int]:
        """How many of so many requests had which status."""
        return Counter(answer.status_code for answer in await self.ask(count, **members))

    def ship(self) -> None:
        """Bring what was drawn since the last time into the limits, as the writer does."""
        for side in self.processes:
            usages = side.journal.usages
            with self.database.transaction(Role.INGEST) as connection:
                draw(connection, usages[side.shipped :])
            side.shipped = len(usages)

    async def settled(self) -> None:
        await until(lambda: not any(each.app.tally.in_flight for each in self.processes))


class Opener:
    """Opens the two over a tenant in a zone, at an instant, with limits."""

    def __init__(self, database: Database, now: datetime, stack: AsyncExitStack) -> None:
        self._database = database
        self._now = now
        self._stack = stack

    async def __call__(
        self,
        at: datetime,
        *,
        zone: str = "UTC",
        policies: str = "on_database_loss: closed",
        cut_off: bool = False,
        **limits: LimitTerms,
    ) -> TwoProcesses:
        """
        Args:
            policies: of the tenant's plan.
            cut_off: the first process does not reach the database.
        """
        database = self._database
        world = make_world(database, self._now, plan=PLAN % policies)
        tenant = world.tenant("acme", zone=zone)
        keys = _keys(world, tenant)
        engine = await self._stack.enter_async_context(fake_engine())
        models = _models(engine.base_url)
        clock = Clock(at)
        with database.transaction(Role.OPERATOR) as connection:
            take_snapshot(connection, models=models, version=1, now=at)  # models get their rows
        with database.transaction(Role.OPERATOR) as connection:
            for name, terms in limits.items():
                public = keys[terms.key].public if terms.key is not None else None
                named = LimitTerms(**{**_members(terms), "key": public})
                define_limit(connection, tenant=tenant, name=name, terms=named, now=at)
            snapshot = take_snapshot(connection, models=models, version=2, now=at)
        two = TwoProcesses(database, tenant, engine, clock, keys)
        for number in range(2):
            of = database
            if cut_off and not number:
                of = Database("postgresql+psycopg://nobody@127.0.0.1:9/none")
                self._stack.callback(of.close)
            keeper = LeaseKeeper(of, database.conninfo(), f"p-{number}", now=clock)
            self._stack.push_async_callback(keeper.stop)
            journal = MemoryJournal()
            app = create_app(
                MemoryControl(snapshot),
                journal,
                clock=clock.us,
                limits=Limits(drain_ms=2_000, known_keys_ms=0),
                holds=keeper,
            )
            port = await self._stack.enter_async_context(serving(app))
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                timeout=30,
                trust_env=False,
                limits=httpx.Limits(max_connections=200),
            )
            await self._stack.enter_async_context(client)
            two.processes.append(Side(app, journal, client))
        return two


def _members(terms: LimitTerms) -> dict[str, object]:
    return {name: getattr(terms, name) for name in LimitTerms.__dataclass_fields__}


def _models(url: str) -> list[ServedModel]:
    backend = Backend(name="b", base_url=url, engine="vllm")
    return [
        ServedModel(id=0, name=name, backends=(backend,), classes=CHAT)
        for name in ("tiny", "other")
    ]


def _keys(world: World, tenant: Tenant) -> dict[str, IssuedKey]:
    with world.database.transaction(Role.OPERATOR) as connection:
        connection.exec_driver_sql(
            "INSERT INTO project (tenant_id, slug, created_at) VALUES (%s, 'side', %s)",
            (tenant.id, world.now),
        )
        return {
            project: issue_key(
                connection,
                role=KeyRole.INFERENCE,
                tenant=tenant.slug,
                name=project,
                project=project,
                now=world.now,
            )
            for project in ("default", "side")
        }


@pytest.fixture
async def two_processes(database: Database, now: datetime) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        yield Opener(database, now, stack)
