"""L6 where a limit is another one than it was when it was leased: lowered, raised, expired."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from api.proxy.app import system_clock
from api.proxy.holds import Holds
from api.proxy.limit_errors import HoldsUnavailable, LimitReached
from billing.admission.amounts import PICO, Rates
from billing.admission.lease_book import Wanted
from billing.admission.limit import Limit, Unit, Window
from billing.admission.snapshot import Admission, KeyGrant
from billing.admission.terms import AdmissionPolicy, Payment, TenantTerms
from billing.store.database import Role
from billing.tenancy.tenant import Tenant
from tests.api.proxy.conftest import until
from tests.api.proxy.limits.test_lease_keeper import Keepers, acme, keepers, requests_limit, world
from tests.api.proxy.limits.test_likely_output import MODEL, request
from tests.credits.grants import give
from tests.operations.lease_world import draw, make_limit, require_leases_tie, standing
from tests.operations.test_lease_functions import credit_of
from tests.world import World
from workers.rating import accrue_changes

__all__ = ["acme", "keepers", "world"]


@pytest.fixture
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given back is given back for another reason."""
    monkeypatch.setattr("api.proxy.control.leases.IDLE_US", 10**12)


def one_of(limit: Limit) -> list[Wanted]:
    return [Wanted(limit=limit, amount=PICO if limit.unit is Unit.MONEY else 1)]


@pytest.mark.usefixtures("never_idle")
async def test_a_limit_that_is_lowered_holds_for_what_was_leased_before(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit, keeper = requests_limit(world, acme, 1000), keepers("p-1")
    for _ in range(3):
        held = await keepers.admit(keeper, one_of(limit))
        keeper.release(held, {held.parts[0][0].id: 1})
    await asyncio.sleep(0.2)  # its ear opens
    assert standing(world.database, limit, world.now)[1] > 3
    requests_limit(world, acme, 3)
    await until(lambda: standing(world.database, limit, world.now)[1] == 3)
    assert await keepers.tries(keeper, one_of(limit)) is None
    requests_limit(world, acme, 4)
    await until(lambda: not keeper._refusals)
    assert await keepers.tries(keeper, one_of(limit)) is not None
    assert await keepers.tries(keeper, one_of(limit)) is None
    require_leases_tie(world.database)


async def test_credit_that_is_added_is_there_at_once(
    world: World, acme: Tenant, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused is remembered for a moment; that moment ends with a top-up."""
    monkeypatch.setattr("api.proxy.control.leases.AGAIN_US", 60_000_000)
    limit, keeper = credit_of(world, acme, "1.00"), keepers("p-1")
    assert await keepers.tries(keeper, one_of(limit)) is not None
    await asyncio.sleep(0.2)  # its ear opens
    assert await keepers.tries(keeper, one_of(limit)) is None
    with world.database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "2.00", key="top-up", now=world.now)
    await until(lambda: not keeper._refusals)
    answers = [await keepers.tries(keeper, one_of(limit)) for _ in range(3)]
    assert [held is not None for held in answers] == [True, True, False]


async def test_L6_credit_that_expires_is_not_used_by_whoever_leased_it_before(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = credit_of(world, acme, "10.00")
    end = world.now + timedelta(hours=1)
    with world.database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "1000.00", key="short", expires_at=end, now=world.now)
    keeper = keepers("p-1")
    held = await keepers.admit(keeper, one_of(limit))
    keeper.release(held, {held.parts[0][0].id: PICO})
    assert standing(world.database, limit, world.now)[1] > 20
    keepers.clock.ahead += timedelta(hours=2)
    answers = [await keepers.tries(keeper, one_of(limit)) for _ in range(30)]
    # The one that was used before is not accrued yet: it counts on what is left.
    assert sum(held is not None for held in answers) == 9
    require_leases_tie(world.database)


async def test_L6_what_was_used_beyond_a_lease_counts_once(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """An engine that says more than its bound; the record is shipped before more is leased."""
    limit = make_limit(world.database, acme, "tokens", "1000", now=world.now, unit=Unit.TOKENS)
    keeper = keepers("p-1")
    held = await keepers.admit(keeper, [Wanted(limit=limit, amount=10)])
    (lease, _) = held.parts[0]
    beyond = lease.granted + 400
    keeper.release(held, {lease.id: beyond})
    draw(world.database, {lease.id: beyond}, world.now)
    left = 1000 - beyond
    assert standing(world.database, limit, world.now) == (beyond, 0, left)
    ten = [Wanted(limit=limit, amount=10)]
    admitted = 0
    while (held := await keepers.tries(keeper, ten)) is not None:
        keeper.release(held, {lease.id: 10})
        draw(world.database, {lease.id: 10}, world.now)
        admitted += 10
        require_leases_tie(world.database)
    assert left - 10 < admitted <= left


async def test_a_request_that_costs_nothing_asks_no_limit(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """Of a process that has leased nothing yet it would be refused: nothing stands there."""
    credit = credit_of(world, acme, "1.00")
    terms = TenantTerms(
        tenant_id=acme.id,
        price_version_id=1,
        rates={"tiny": Rates()},
        currency="USD",
        policy=AdmissionPolicy(payment=Payment.PREPAID),
        prepaid=credit.id,
    )
    grant = KeyGrant(key_id=9, tenant_id=acme.id, project_id=8, may_infer=True)
    holds = Holds(keepers("p-1"), system_clock)
    whose = Admission(grant=grant, terms=terms, model=MODEL)
    assert await holds.hold(whose, request(stream=False, most=5)) is None


async def test_of_several_limits_the_one_that_lasts_is_told(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """Whoever waited for the other would be refused again."""
    keeper = keepers("p-1")
    both = [
        Wanted(
            limit=make_limit(
                world.database, acme, name, "1", now=world.now, unit=Unit.REQUESTS, span=span
            ),
            amount=1,
        )
        for name, span in (("rpm", Window.MINUTE), ("rpd", Window.DAY), ("second", Window.MINUTE))
    ]
    assert await keepers.tries(keeper, both) is not None
    for _ in range(2):  # asked, and remembered
        with pytest.raises(LimitReached) as refused:
            await keepers.admit(keeper, both)
        assert refused.value.limit.name == "rpd"


async def test_whoever_runs_is_counted_before_it_leases(world: World, keepers: Keepers) -> None:
    """What a tenant may use while limits cannot be asked is shared by all that could serve it."""
    fleet = [keepers(f"p-{number}") for number in range(3)]
    for keeper in fleet:
        keeper.begin()
    await until(lambda: [keeper.processes for keeper in fleet] == [3, 3, 3])


@pytest.mark.usefixtures("never_idle")
async def test_L6_a_fee_that_is_paid_with_credit_is_not_left_to_whoever_leased_it(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """The plan's fee of the month is 20: one is left."""
    limit, keeper = credit_of(world, acme, "21.00"), keepers("p-1")
    held = await keepers.admit(keeper, one_of(limit))
    await asyncio.sleep(0.2)  # its ear opens
    assert standing(world.database, limit, world.now)[1] > 2
    world.use(acme, {"tokens.input": 1})
    accrue_changes(world.database, now=world.now)
    await until(lambda: standing(world.database, limit, world.now)[1] == 1)
    assert await keepers.tries(keeper, one_of(limit)) is None
    keeper.release(held, {})


async def test_exposure_ends_while_only_the_heart_is_answered(
    world: World, acme: Tenant, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds the row of a limit and stands still keeps nothing else from answering."""
    monkeypatch.setattr("api.proxy.control.lease_calls.CALL_MS", 150)
    monkeypatch.setattr("api.proxy.control.lease_calls.ANSWER_MS", 300)
    monkeypatch.setattr("api.proxy.control.lease_calls.PAUSE_US", 50_000)
    monkeypatch.setattr("api.proxy.control.leases.BEAT_SECONDS", 0.1)
    limit = make_limit(world.database, acme, "budget", "1000", now=world.now)
    terms = TenantTerms(
        tenant_id=acme.id,
        price_version_id=1,
        rates={"tiny": Rates(request=10**18)},
        currency="USD",
        limits=(limit,),
        policy=AdmissionPolicy(max_exposure=5 * PICO),
    )
    keeper = keepers("p-1")
    keeper.begin()
    grant = KeyGrant(key_id=9, tenant_id=acme.id, project_id=8, may_infer=True)
    holds, whose = Holds(keeper, system_clock), Admission(grant=grant, terms=terms, model=MODEL)
    answered, exposed = keeper.counts.calls, 0

    async def try_some(count: int) -> None:
        nonlocal exposed
        for _ in range(count):
            with suppress(HoldsUnavailable):
                holding = await holds.hold(whose, request(stream=False, most=5))
                assert holding is not None
                assert holding.unasked
                exposed += 1

    with world.database.transaction(Role.OPERATOR) as connection:
        connection.exec_driver_sql(f"SELECT FROM spend_limit WHERE id = {limit.id} FOR UPDATE")
        await try_some(4)
        beats = answered["renew", "answered"]
        await until(lambda: answered["renew", "answered"] > beats)
        await try_some(4)
    assert exposed == 5
