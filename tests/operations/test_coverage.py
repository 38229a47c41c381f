"""Classes of token that several contracts price together, and what they leave without a price."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from billing.admission.backend import Backend, ServedModel
from billing.errors import InvalidPlan, OverlappingCharges
from billing.metering.cloud_event import CloudEvent
from billing.metering.request_event import REQUEST_EVENT
from billing.metering.token_class import TokenClass
from billing.metering.usage_event import VerdictKind
from billing.operations.admission.take_snapshot import take_snapshot
from billing.operations.catalog.contracts import BoundPlan, bind_contract, end_contract
from billing.operations.catalog.migrate_contracts import MoveOutcome, MoveTime, PlanVersion
from billing.operations.catalog.migrate_contracts import move_contract as move
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.rating.rate_period import rate_period
from billing.period import Period
from billing.planfiles.plan_file import EXAMPLES
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.conftest import migrated_copy
from tests.world import MONTH_END, MONTH_START, World, make_world

NOW = datetime(2026, 11, 15, 12, 0, tzinfo=UTC)
LATER = MONTH_START + timedelta(days=20)
EVERY = frozenset({TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT})
INPUT, OUTPUT = frozenset({TokenClass.INPUT}), frozenset({TokenClass.OUTPUT})
SHARE = """
slug: {slug}
name: {slug}
currency: USD
policies: {{coverage: {coverage}}}
charges:
  - type: matrix
    key: {slug}
    description: Tokens
    by: [model, class, service_tier]
    prices:
      m: {{{cells}}}
"""
ALL = "default, flex, priority, scale, batch"
PLANS = {
    "batch": "input: {batch: '1'}, output: {batch: '2'}",
    "rest": "input: {'default, flex, priority, scale': '4'}, "
    "output: {'default, flex, priority, scale': '5'}",
    "rest-but-scale": "input: {'default, flex, priority': '4'}, "
    "output: {'default, flex, priority': '5'}",
    "prompts": f"input: {{'{ALL}': '1'}}",
    "answers": f"output: {{'{ALL}': '3'}}",
}

_numbers = count(1)


@pytest.fixture(scope="module")
def world(postgres: ServerAddress) -> Iterator[World]:
    """Meters with service tiers, and plans that each price a part."""
    with migrated_copy(postgres) as name:
        database = Database(postgres.app_url(name))
        made = make_world(database, NOW)
        with database.transaction(Role.OPERATOR) as connection:
            for path in sorted(EXAMPLES.glob("meters/tokens-*.yaml")):
                define_meter(connection, path.read_text(), now=MONTH_START - timedelta(days=1))
        for slug, cells in PLANS.items():
            made.plan(SHARE.format(slug=slug, coverage="together", cells=cells))
        yield made
        database.close()


@pytest.fixture
def acme(world: World) -> Tenant:
    """A tenant without a contract."""
    return world.tenant(f"acme-{next(_numbers)}", plan=None)


def bind(world: World, tenant: Tenant, plan: str, **more: datetime | bool | int) -> BoundPlan:
    with world.database.transaction(Role.OPERATOR) as connection:
        said = {"valid_from": MONTH_START, "now": NOW, **more}
        return bind_contract(connection, tenant=tenant.slug, plan=plan, **said)


def sold(world: World, tenant: Tenant, *, now: datetime = NOW) -> frozenset[TokenClass]:
    """Classes of the model that the proxy takes to have a price."""
    backend = Backend(name="b", base_url="http://127.0.0.1:1")
    model = ServedModel(id=0, name="m", backends=(backend,), classes=EVERY)
    with world.database.transaction(Role.OPERATOR) as connection:
        found = take_snapshot(connection, models=[model], version=1, now=now)
    return found.terms[tenant.id].priced.get("m", frozenset())


@pytest.mark.parametrize(
    ("slug", "left", "remedy"),
    [
        ("batch", "tokens.input of m has no price where service_tier is default", "coverage:"),
        ("answers", "output is sold here and input is not", "give m / input / "),
    ],
)
def test_a_plan_judged_alone_leaves_nothing_to_others(
    world: World, slug: str, left: str, remedy: str
) -> None:
    with pytest.raises(InvalidPlan) as refused:
        world.plan(SHARE.format(slug="alone", coverage="alone", cells=PLANS[slug]))
    assert refused.value.message == left
    assert remedy in str(refused.value.remedy)


@pytest.mark.parametrize(
    ("slug", "left"),
    [
        ("batch", "tokens.input of m has no price where service_tier is default"),
        ("answers", "tokens.input of m has no price, and its output has one"),
    ],
)
def test_a_share_is_not_bound_alone(world: World, acme: Tenant, slug: str, left: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        bind(world, acme, slug)
    assert refused.value.message == f"plan {slug} and those beside it: {left}"
    assert refused.value.field == "charges[0]"
    assert refused.value.remedy


@pytest.mark.parametrize(("first", "second"), [("batch", "rest"), ("answers", "prompts")])
@pytest.mark.parametrize("turned", [False, True])
def test_what_contracts_price_together_is_bound_and_sold(
    world: World, acme: Tenant, first: str, second: str, *, turned: bool
) -> None:
    if turned:
        first, second = second, first
    bind(world, acme, first, others_follow=True)
    bind(world, acme, second)
    assert sold(world, acme) == INPUT | OUTPUT


def test_D16_each_contract_bills_its_tiers_and_nothing_is_left(world: World, acme: Tenant) -> None:
    bind(world, acme, "batch", others_follow=True)
    bind(world, acme, "rest")
    counts = {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 0}
    with world.database.transaction(Role.OPERATOR) as connection:
        for tier in ("batch", "scale"):
            data = {**counts, "cache_write_tokens": 0, "model": "m", "service_tier": tier}
            event = CloudEvent(
                source="gate",
                id=tier,
                type=REQUEST_EVENT,
                time=NOW,
                data={**data, "context_tokens": 3},
            )
            (verdict,) = report_usage(connection, [(acme.slug, event)], now=NOW)
            assert verdict.kind is VerdictKind.ACCEPTED
        found = rate_period(
            connection, tenant=acme, period=Period(start=MONTH_START, end=MONTH_END)
        )
    assert found.unrated == ()
    assert {line.key: line.exact for each in found.contracts for line in each.rating.lines} == {
        "batch/m/input/batch": 3,
        "batch/m/output/batch": 4,
        "rest/m/input/default+flex+priority+scale": 12,
        "rest/m/output/default+flex+priority+scale": 10,
    }


def test_until_the_others_are_bound_the_proxy_sells_nothing_of_a_class(
    world: World, acme: Tenant
) -> None:
    bind(world, acme, "batch", others_follow=True)
    assert sold(world, acme) == frozenset()
    rest = bind(world, acme, "rest", valid_from=LATER - timedelta(days=10))
    assert sold(world, acme, now=LATER) == INPUT | OUTPUT
    with world.database.transaction(Role.OPERATOR) as connection:
        end_contract(connection, rest.contract.id, valid_until=LATER)
    assert sold(world, acme, now=LATER - timedelta(minutes=15)) == INPUT | OUTPUT
    assert sold(world, acme, now=LATER) == frozenset()


def test_the_contract_that_completes_others_is_judged_with_them(world: World, acme: Tenant) -> None:
    bind(world, acme, "batch", others_follow=True)
    with pytest.raises(InvalidPlan, match=r"plan rest-but-scale .* where service_tier is scale"):
        bind(world, acme, "rest-but-scale")
    with pytest.raises(OverlappingCharges):
        bind(world, acme, "answers", others_follow=True)


def test_what_another_contract_prices_it_prices_until_it_ends(world: World, acme: Tenant) -> None:
    bind(world, acme, "batch", valid_until=LATER, others_follow=True)
    with pytest.raises(InvalidPlan, match="service_tier is batch from 2026-11-21T00:00Z on"):
        bind(world, acme, "rest")
    bind(world, acme, "rest", valid_until=LATER)


def test_a_plan_that_is_whole_does_not_ask_for_the_gaps_of_others(
    world: World, acme: Tenant
) -> None:
    bind(world, acme, "batch", others_follow=True)
    bind(world, acme, "standard")
    assert sold(world, acme) == frozenset()


def test_moving_a_share_keeps_what_the_others_complete(world: World, acme: Tenant) -> None:
    world.plan(SHARE.format(slug="moving", coverage="together", cells=PLANS["rest"]))
    less = PLANS["rest-but-scale"]
    world.plan(SHARE.format(slug="moving", coverage="together", cells=less))
    bind(world, acme, "batch", others_follow=True)
    moving = bind(world, acme, "moving", version=1)
    with world.database.transaction(Role.OPERATOR) as connection:
        moved = move(
            connection,
            moving.contract.id,
            target=PlanVersion(slug="moving", version=2),
            when=MoveTime.NOW,
            now=NOW,
        )
    assert moved.outcome is MoveOutcome.REFUSED
    assert "where service_tier is scale" in (moved.reason or "")
    assert sold(world, acme) == INPUT | OUTPUT
