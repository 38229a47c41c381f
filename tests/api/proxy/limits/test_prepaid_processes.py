"""Prepaid credit over real processes: as many requests as were paid for, whoever is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

import httpx
import pytest

from billing.admission.limit import Limit, Unit, Window
from billing.operations.catalog.contracts import bind_contract
from billing.operations.catalog.plans import apply_plan
from billing.operations.tenancy.keys import issue_key
from billing.operations.tenancy.tenants import create_tenant
from billing.store.database import Database, Role, only, query
from billing.store.embedded.address import ServerAddress
from billing.store.holds import ensure_credits
from billing.tenancy.api_key import Role as KeyRole
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give
from tests.faults.conftest import OpenPlant, plant
from tests.faults.fleet import ProxyFleet
from tests.faults.workloads import FULL
from tests.operations.lease_world import require_leases_tie, standing
from tests.system import eventually

CLIENTS = 500
FEWER = CLIENTS if FULL else 120
PAID = 10

pytestmark = [pytest.mark.long] if FULL else []

# A request costs one whatever it generates, or what it generates; worst-case holds in either case.
PER_REQUEST = """
slug: prepaid
name: Prepaid
currency: USD
policies: {payment: prepaid}
price_list:
  models:
    engine-vllm: {input: "0", cached_input: "0", output: "0"}
charges:
  - {type: per_unit, key: requests, description: Requests, meter: requests, price: "1"}
"""
PER_TOKEN = """
slug: prepaid
name: Prepaid
currency: USD
policies: {payment: prepaid}
price_list:
  models:
    engine-vllm: {input: "2000", cached_input: "1000", output: "9000"}
"""
BODY = {
    "model": "engine-vllm",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 20,
}


@pytest.fixture
def open_plant(
    database: Database, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> OpenPlant:
    """Opens a plant on the test's own database."""
    return partial(plant, database, postgres.owner_url(database_name), tmp_path)


@dataclass(frozen=True, slots=True)
class Buyer:
    """A tenant that has paid before."""

    tenant: Tenant
    key: str
    credit: Limit


def buyer(database: Database, plan: str, amount: int) -> Buyer:
    now = datetime.now(UTC)
    with database.transaction(Role.OPERATOR) as connection:
        tenant = create_tenant(connection, slug="buyer", name="Buyer", now=now)
        apply_plan(connection, plan, now=now)
        start = tenant.billing_period(now).start
        bind_contract(connection, tenant="buyer", plan="prepaid", valid_from=start, now=now)
        key = issue_key(connection, role=KeyRole.INFERENCE, tenant="buyer", name="app", now=now)
        give(connection, tenant, str(amount), key="paid", now=now)
        found = ensure_credits(connection, {tenant.id: "USD"})
    credit = Limit(
        id=found[tenant.id],
        name="credit",
        unit=Unit.MONEY,
        window=Window.NONE,
        hard=True,
        shadow=False,
        capacity=0,
    )
    return Buyer(tenant, key.text, credit)


async def ask(fleet: ProxyFleet, who: Buyer, numbers: list[int]) -> Counter[int]:
    """One request to each of these processes, all at once; how many had which status."""
    headers = {"authorization": f"Bearer {who.key}"}
    limits = httpx.Limits(max_connections=len(numbers))
    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as client:

        async def one(number: int) -> int:
            url = f"{fleet.url(number)}/v1/chat/completions"
            answer = await client.post(url, json=BODY, headers=headers)
            while answer.status_code == 503:  # a busy database did not answer within a second
                await asyncio.sleep(0.1)
                answer = await client.post(url, json=BODY, headers=headers)
            return answer.status_code

        return Counter(await asyncio.gather(*(one(number) for number in numbers)))


def billed(database: Database, who: Buyer) -> tuple[int, Decimal]:
    """Events of the tenant, and what they come to at the plan's prices."""
    with database.transaction(Role.TENANT, tenant_id=who.tenant.id) as connection:
        events = only(connection, "SELECT count(*) AS n FROM usage_event")
    spent, _, _ = standing(database, who.credit, datetime.now(UTC))
    return events.n, spent


@pytest.mark.parametrize(("processes", "clients"), [(1, FEWER), (4, CLIENTS)])
async def test_L6_five_hundred_on_credit_for_ten_are_ten(
    database: Database, open_plant: OpenPlant, processes: int, clients: int
) -> None:
    """Five hundred over four processes; fewer over one, where nobody has to agree."""
    async with open_plant(pace_ms=20) as yard:
        who = buyer(database, PER_REQUEST, PAID)
        fleet = ProxyFleet(yard.system, processes)
        await asyncio.to_thread(fleet.start)
        statuses = await ask(fleet, who, [number % processes for number in range(clients)])
        assert statuses == {200: PAID, 402: clients - PAID}
        # Nor later: what they had held beyond their price would be free by now.
        assert await ask(fleet, who, list(range(processes)) * 5) == {402: 5 * processes}
        await asyncio.to_thread(fleet.stop)
        await asyncio.to_thread(yard.system.wait_until_settled)
        assert eventually(lambda: billed(database, who), lambda found: found[0] == PAID) == (
            PAID,
            Decimal(PAID),
        )
        assert len(yard.engine.served) == PAID
    assert standing(database, who.credit, datetime.now(UTC)) == (PAID, 0, 0)
    require_leases_tie(database)


async def test_L6_bills_by_token_never_exceed_what_was_paid(
    database: Database, open_plant: OpenPlant
) -> None:
    """Holds are larger than bills here: how many pass depends on who ends first; no bill does."""
    async with open_plant(pace_ms=1) as yard:
        who = buyer(database, PER_TOKEN, PAID)
        fleet = ProxyFleet(yard.system, 4)
        await asyncio.to_thread(fleet.start)
        statuses = await ask(fleet, who, [number % 4 for number in range(FEWER)])
        assert statuses.keys() == {200, 402}
        await asyncio.to_thread(fleet.stop)
        await asyncio.to_thread(yard.system.wait_until_settled)
        events, spent = eventually(
            lambda: billed(database, who), lambda found: found[0] == statuses[200]
        )
        # Once nothing is held, less is left than one request can come to.
        assert 0 < spent <= PAID
        left = Decimal(PAID) - spent
    assert standing(database, who.credit, datetime.now(UTC)) == (spent, 0, left)
    assert events == statuses[200]


async def test_L6_a_killed_process_gives_back_what_it_had_leased(
    database: Database, open_plant: OpenPlant
) -> None:
    async with open_plant(pace_ms=1) as yard:
        who = buyer(database, PER_REQUEST, 100)
        fleet = ProxyFleet(yard.system, 2)
        await asyncio.to_thread(fleet.start)
        assert await ask(fleet, who, [0, 0, 0]) == {200: 3}
        (victim,) = leases(database, who)
        assert await ask(fleet, who, [1]) == {200: 1}
        # Without a writer nobody drains what it leaves.
        yard.system.kill_9("writer")
        fleet.kill_9([0])
        assert leases(database, who)[victim] >= 1
        alive = await ask(fleet, who, [1] * 110)
        passed = alive[200]
        assert passed < 96
        assert alive == {200: passed, 402: 110 - passed}
        yard.system.start_writer()
        eventually(lambda: leases(database, who), lambda found: victim not in found)
        rest = await ask(fleet, who, [1] * 110)
        assert rest == {200: 96 - passed, 402: 110 - (96 - passed)}
        await asyncio.to_thread(fleet.stop)
        await asyncio.to_thread(yard.system.wait_until_settled)
        assert eventually(lambda: billed(database, who), lambda found: found[0] == 100) == (
            100,
            Decimal(100),
        )
    assert standing(database, who.credit, datetime.now(UTC)) == (100, 0, 0)
    require_leases_tie(database)


def leases(database: Database, who: Buyer) -> dict[str, Decimal]:
    """What is left of the open leases, by process."""
    with database.transaction(Role.OPERATOR) as connection:
        rows = query(
            connection,
            "SELECT instance, granted - drawn AS left FROM lease "
            "WHERE NOT closed AND limit_id = :id",
            id=who.credit.id,
        )
    return {row.instance: row.left for row in rows}
