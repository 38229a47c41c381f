"""A plan version needs a second key where the deployment says so."""

from __future__ import annotations

from datetime import datetime

import pytest

from billing.errors import Conflict, Forbidden, NotFound
from billing.operations.catalog.approve_plan import approve_plan, record_application
from billing.operations.catalog.contracts import bind_contract, list_contracts
from billing.operations.tenancy.keys import Caller, authenticate, issue_key
from billing.store.database import Database, Role
from billing.store.plan_approvals import acts_on
from billing.tenancy.api_key import Role as KeyRole
from tests.world import MONTH_START, World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    made.tenant(plan=None)
    return made


def _caller(world: World, name: str, role: KeyRole = KeyRole.OPERATOR) -> Caller:
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_key(connection, role=role, tenant=None, name=name, now=world.now)
        return authenticate(connection, issued.text, now=world.now)


def _approve(world: World, caller: Caller, version: int = 1) -> int:
    with world.database.transaction(Role.OPERATOR) as connection:
        return approve_plan(
            connection, slug="standard", version=version, caller=caller, now=world.now
        ).key_id


def _bind(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(
            connection,
            tenant="acme",
            plan="standard",
            valid_from=MONTH_START,
            approval_required=True,
            now=world.now,
        )


def test_a_contract_binds_only_what_another_key_approved(world: World) -> None:
    first, second = _caller(world, "first"), _caller(world, "second")
    with world.database.transaction(Role.OPERATOR) as connection:
        record_application(connection, slug="standard", version=1, caller=first, now=world.now)
    with pytest.raises(Conflict):
        _bind(world)
    with pytest.raises(Conflict):
        _approve(world, first)
    with pytest.raises(Conflict):
        _bind(world)
    assert _approve(world, second) == second.key_id
    _bind(world)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert len(list_contracts(connection)) == 1


def test_approving_again_changes_nothing(world: World) -> None:
    first, second = _caller(world, "first"), _caller(world, "second")
    assert [_approve(world, each) for each in (first, second, first)] == [first.key_id] * 3
    with world.database.transaction(Role.OPERATOR) as connection:
        assert [act.act for act in acts_on(connection, 1)] == ["approved"]


def test_only_operators_approve_and_only_what_there_is(world: World) -> None:
    with pytest.raises(Forbidden):
        _approve(world, _caller(world, "books", KeyRole.FINANCE))
    with pytest.raises(NotFound):
        _approve(world, _caller(world, "first"), version=7)


def test_the_next_version_needs_an_approval_of_its_own(world: World) -> None:
    _approve(world, _caller(world, "first"))
    world.plan(
        "slug: standard\nname: Next\ncurrency: USD\n"
        "charges: [{type: flat_fee, key: fee, description: Fee, amount: 1}]"
    )
    with pytest.raises(Conflict):
        _bind(world)
