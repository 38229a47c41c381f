"""Contracts move between plan versions: one invoice with both, once, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.catalog.contract_terms import NO_TERMS, ContractTerms
from billing.errors import NotFound, OverlappingCharges
from billing.operations.catalog.contracts import bind_contract, bound_plans, list_contracts
from billing.operations.catalog.migrate_contracts import (
    ContractMove,
    MoveOutcome,
    MoveTime,
    PlanVersion,
    contracts_to_move,
    move_contract,
)
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import require_invoice
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.period import BUCKET
from billing.planfiles.contract_file import read_terms
from billing.store.database import Database, Role
from tests.world import MONTH_END, MONTH_START, PLAN, World, make_world

SECOND = PLAN.replace('"20.00"', '"50.00"').replace('"0.20"', '"0.40"')
PARALLEL = """
slug: gpus
name: GPUs
currency: USD
charges:
  - type: per_unit
    key: large
    description: Large model
    meter: tokens.input
    models: [large]
    price: "1.00"
    per: 1000000
"""
OLD, NEW = PlanVersion(slug="standard", version=1), PlanVersion(slug="standard", version=2)
NOON = datetime(2026, 11, 15, 12, 0, tzinfo=UTC)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    made.tenant()
    made.plan(SECOND)
    return made


def _move(
    world: World,
    *,
    when: MoveTime = MoveTime.NOW,
    dry_run: bool = False,
    now: datetime = NOON,
    target: PlanVersion = NEW,
) -> list[ContractMove]:
    with world.database.transaction(Role.OPERATOR) as connection:
        found = contracts_to_move(connection, source=OLD, now=now)
    moves: list[ContractMove] = []
    for contract in found:
        with world.database.transaction(Role.OPERATOR) as connection:
            moves.append(
                move_contract(
                    connection, contract.id, target=target, when=when, dry_run=dry_run, now=now
                )
            )
    return moves


def test_D17_usage_on_both_sides_is_on_one_invoice_with_two_segments(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        [contract] = list_contracts(connection)
        owner = require_tenant(connection, "acme")
    later = make_world(world.database, MONTH_END, plan=SECOND)
    later.use(owner, {"tokens.input": 10_000_000}, occurred_at=NOON - BUCKET)
    [move] = _move(world, now=NOON - timedelta(minutes=3))
    assert (move.outcome, move.at) == (MoveOutcome.MOVED, NOON)
    later.use(owner, {"tokens.input": 10_000_000}, occurred_at=NOON)
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(
            connection, tenant=owner, period=owner.billing_period(NOON), now=MONTH_END
        )
        view = require_invoice(connection, str(issued.id), tenant_id=None)
    # 15 midnights of 30 are before the move, 15 after it: 10.00 and 25.00 of the two fees.
    assert {line.key: line.amount_minor for line in view.lines} == {
        f"contract-{contract.id}/platform": 1000,
        f"contract-{contract.id}/input": 200,
        f"contract-{move.new_contract_id}/platform": 2500,
        f"contract-{move.new_contract_id}/input": 400,
    }


def test_a_second_run_finds_what_the_first_one_moved(world: World) -> None:
    [first] = _move(world, when=MoveTime.PERIOD_END)
    [again] = _move(world, when=MoveTime.PERIOD_END)
    assert (first.at, first.outcome) == (MONTH_END, MoveOutcome.MOVED)
    assert again.outcome is MoveOutcome.MOVED_BEFORE
    assert again.new_contract_id == first.new_contract_id
    assert _move(world, when=MoveTime.PERIOD_END, now=MONTH_END) == []
    with world.database.transaction(Role.OPERATOR) as connection:
        assert len(list_contracts(connection)) == 2


def test_a_dry_run_says_the_same_and_changes_nothing(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        before = list_contracts(connection)
    [dry] = _move(world, dry_run=True)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert list_contracts(connection) == before
    [real] = _move(world)
    assert (dry.outcome, dry.at) == (real.outcome, real.at) == (MoveOutcome.MOVED, NOON)


def test_what_was_agreed_moves_along_or_the_contract_stays(world: World) -> None:
    agreed = read_terms('overrides: [{charge: input, price: "0.11"}]')
    world.plan(SECOND.replace("key: input", "key: tokens-in"))
    birch = world.tenant("birch", plan=None)
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(
            connection,
            tenant=birch.slug,
            plan="standard",
            version=1,
            valid_from=MONTH_START,
            terms=agreed,
            now=world.now,
        )
    renamed = PlanVersion(slug="standard", version=3)
    moved, refused = _move(world, target=renamed, dry_run=True)
    assert (moved.outcome, refused.outcome) == (MoveOutcome.MOVED, MoveOutcome.REFUSED)
    assert "no such charge" in str(refused.reason)
    _move(world)
    assert _terms(world) == {
        ("acme", 1): NO_TERMS,
        ("acme", 2): NO_TERMS,
        ("birch", 1): agreed,
        ("birch", 2): agreed,
    }


def test_D16_a_move_onto_prices_of_a_parallel_contract_is_refused_by_name(world: World) -> None:
    world.plan(PARALLEL)
    world.plan(SECOND.replace('models: [tiny]\n    price: "0.40"', 'price: "0.40"'))
    with world.database.transaction(Role.OPERATOR) as connection:
        gpus = bind_contract(
            connection, tenant="acme", plan="gpus", valid_from=MONTH_START, now=world.now
        )
    [moved] = _move(world, dry_run=True)
    assert moved.outcome is MoveOutcome.MOVED
    [refused] = _move(world, target=PlanVersion(slug="standard", version=3))
    assert refused.outcome is MoveOutcome.REFUSED
    for named in (f"contract {gpus.contract.id}", "gpus", "large", "input"):
        assert named in str(refused.reason)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert {each.valid_until for each in list_contracts(connection)} == {None}
    with (
        pytest.raises(OverlappingCharges),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        bind_contract(connection, tenant="acme", plan="gpus", valid_from=MONTH_START, now=world.now)


def test_nothing_is_moved_onto_a_plan_that_is_not_there(world: World) -> None:
    with pytest.raises(NotFound):
        _move(world, target=PlanVersion(slug="standard", version=9))


def _terms(world: World) -> dict[tuple[str, int], ContractTerms]:
    with world.database.transaction(Role.OPERATOR) as connection:
        slugs = {tenant.id: tenant.slug for tenant in list_tenants(connection)}
        return {
            (slugs[entry.contract.tenant_id], entry.contract.plan_version): entry.terms
            for entry in bound_plans(connection)
        }
