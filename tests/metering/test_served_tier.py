"""The service tier that is billed: the one that served, as the answer names it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest

from billing.journal.records import Attribution, Counts, Usage
from billing.metering.request_event import (
    UNLISTED_TIER,
    UNREADABLE_TIER,
    ServiceTier,
    asked_tier,
    served_tier,
)
from billing.operations.catalog.contracts import bind_contract
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.verify_rollups import verify_rollups
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.period import Period
from billing.planfiles.plan_file import EXAMPLES
from billing.store.database import Database, Role
from tests.operations.crash_points import attribution_of, usage_record
from tests.world import MONTH_END, MONTH_START, World, make_world

MONTH = Period(start=MONTH_START, end=MONTH_END)
EACH_NAMED = """
slug: {slug}
name: Each
currency: USD
policies: {{coverage: together}}
charges:
  - type: matrix
    key: {slug}
    description: Tokens
    by: [class, service_tier]
    prices:
      input: {{{cells}}}
      output: {{{cells}}}
"""
PRICES = {"default": 10, "flex": 5, "priority": 20, "scale": 15, "batch": 4}
CELLS = ", ".join(f"{tier}: '{price}'" for tier, price in PRICES.items())


@pytest.mark.parametrize(
    ("word", "tier"),
    [
        *((tier.value, tier) for tier in ServiceTier if tier is not ServiceTier.BATCH),
        ("", ServiceTier.DEFAULT),
        ("auto", ServiceTier.DEFAULT),
        ("standard", ServiceTier.DEFAULT),
        ("standard_only", ServiceTier.DEFAULT),
        ("batch", ServiceTier.DEFAULT),
        ("turbo", ServiceTier.DEFAULT),
    ],
)
def test_what_a_request_asks_for(word: str, tier: ServiceTier) -> None:
    assert asked_tier(word) is tier


@pytest.mark.parametrize("asked", ["", "auto", "standard_only", "flex", "priority"])
@pytest.mark.parametrize(
    ("named", "tier"),
    [
        *((tier.value, tier.value) for tier in ServiceTier),
        ("standard", "default"),
        ("", ""),
        ("auto", ""),
        ("standard_only", ""),
        ("turbo", UNLISTED_TIER),
        ("DEFAULT", UNLISTED_TIER),
        (UNLISTED_TIER, UNLISTED_TIER),
        (UNREADABLE_TIER, UNLISTED_TIER),
    ],
)
def test_what_an_answer_names_counts_whatever_was_asked_for(
    asked: str, named: str, tier: str
) -> None:
    assert served_tier(named, asked=asked) == tier


@pytest.mark.parametrize("asked", ["batch", "turbo", "x" * 300])
@pytest.mark.parametrize(
    ("named", "tier"),
    [
        ("batch", ""),
        ("turbo", ""),
        (UNREADABLE_TIER, ""),
        ("priority", "priority"),
        ("default", "default"),
    ],
)
def test_a_word_that_a_client_made_up_comes_back_as_no_tier(
    asked: str, named: str, tier: str
) -> None:
    assert served_tier(named, asked=asked) == tier


@dataclass(frozen=True, slots=True)
class Yard:
    """A world whose tokens are split by tier."""

    world: World

    def operation(
        self, whose: Attribution, number: int, count: int, *, asked: str = "", served: str = ""
    ) -> Usage:
        return msgspec.structs.replace(
            usage_record(self.world, whose, number),
            attribution=msgspec.structs.replace(whose, service_tier=asked),
            counts=Counts(input=count),
            served_tier=served,
        )

    def append(self, *records: Usage) -> None:
        with self.world.database.transaction(Role.INGEST) as connection:
            append_records(connection, records)


@pytest.fixture
def yard(database: Database, now) -> Yard:
    world = make_world(database, now)
    with database.transaction(Role.OPERATOR) as connection:
        for path in sorted(EXAMPLES.glob("meters/tokens-*.yaml")):
            define_meter(connection, path.read_text(), now=MONTH_START - timedelta(days=1))
    world.plan(EACH_NAMED.format(slug="each", cells=CELLS))
    return Yard(world)


def rated(world: World, tenant) -> RatedPeriod:
    """The period rated; from its events alone it is the same, bit for bit."""
    with world.database.transaction(Role.OPERATOR) as connection:
        found = rate_period(connection, tenant=tenant, period=MONTH)
        again = rate_period(connection, tenant=tenant, period=MONTH, from_events=found.watermark)
        assert verify_rollups(connection) == []
    assert [each.rating for each in found.contracts] == [each.rating for each in again.contracts]
    assert sorted(map(repr, found.unrated)) == sorted(map(repr, again.unrated))
    return found


def amounts(found: RatedPeriod) -> dict[str, Decimal]:
    return {line.key: line.exact for each in found.contracts for line in each.rating.lines}


def test_the_tier_that_served_is_rated_and_the_asked_one_where_none_was_named(yard: Yard) -> None:
    acme = yard.world.tenant(plan="each")
    whose = attribution_of(yard.world, acme)
    yard.append(
        yard.operation(whose, 1, 1, asked="flex", served="default"),
        yard.operation(whose, 2, 10, asked="priority", served="flex"),
        yard.operation(whose, 3, 100, served="priority"),
        yard.operation(whose, 4, 1_000, asked="flex"),
        yard.operation(whose, 5, 10_000),
        yard.operation(whose, 6, 100_000, asked="flex", served="batch"),
    )
    found = rated(yard.world, acme)
    assert found.unrated == ()
    assert amounts(found) == {
        "each/input/default": (1 + 10_000) * 10,
        "each/input/flex": (10 + 1_000) * 5,
        "each/input/priority": 100 * 20,
        "each/input/batch": 100_000 * 4,
    }


def test_R5_an_unlisted_tier_waits_in_sight_until_a_contract_prices_others(yard: Yard) -> None:
    world, acme = yard.world, yard.world.tenant(plan="each")
    whose = attribution_of(world, acme)
    yard.append(
        yard.operation(whose, 1, 7, asked="flex", served=UNLISTED_TIER),
        yard.operation(whose, 2, 3, asked="flex", served="flex"),
    )
    found = rated(world, acme)
    assert amounts(found) == {"each/input/flex": 15}
    (waiting,) = found.unrated
    assert (waiting.meter, waiting.quantity) == ("tokens.input", 7)
    assert dict(waiting.dimensions)["service_tier"] == UNLISTED_TIER
    others = f"others: [{', '.join(PRICES)}]"
    world.plan(
        f"""
slug: rest
name: Rest
currency: USD
policies: {{coverage: together}}
charges:
  - type: per_unit
    key: rest
    description: Other tiers
    meter: tokens.input
    where: {{service_tier: {{{others}}}}}
    price: "30"
"""
    )
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(
            connection, tenant=acme.slug, plan="rest", valid_from=MONTH_START, now=world.now
        )
    found = rated(world, acme)
    assert found.unrated == ()
    assert amounts(found) == {"each/input/flex": 15, "rest": 210}


def test_others_of_a_plan_are_unlisted_tiers_too(yard: Yard) -> None:
    world = yard.world
    world.plan(EACH_NAMED.format(slug="rough", cells="flex: '1', others: '9'"))
    acme = world.tenant(plan="rough")
    yard.append(
        yard.operation(attribution_of(world, acme), 1, 7, asked="flex", served=UNLISTED_TIER)
    )
    found = rated(world, acme)
    assert found.unrated == ()
    assert amounts(found) == {"rough/input/others": 63}
